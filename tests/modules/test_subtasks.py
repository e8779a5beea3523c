"""Tests of DT2GS's formulas against numbers computed by hand."""

import pytest
import torch

from lolm_plugin.modules.trunks.dt2gs import consistency_kl, gumbel_one_hot, product_of_gaussians


def test_products_of_gaussians_by_hand():
    mean, variance = product_of_gaussians(torch.tensor([0.0, 5.0]), torch.tensor([1.0, 4.0]), dim=0)
    assert (mean.item(), variance.item()) == pytest.approx((1.0, 0.8))
    mean, variance = product_of_gaussians(torch.tensor([0.0, 2.0]), torch.ones(2), dim=0)
    assert (mean.item(), variance.item()) == pytest.approx((1.0, 0.5))


def test_a_product_of_gaussians_ignores_their_order_and_is_narrower_than_each():
    torch.manual_seed(0)
    mean, variance = torch.randn(3, 6, 8), torch.rand(3, 6, 8) + 0.1
    product = product_of_gaussians(mean, variance, dim=1)
    order = [4, 0, 5, 1, 3, 2]
    for one, other in zip(product, product_of_gaussians(mean[:, order], variance[:, order], dim=1), strict=True):
        assert one.shape == (3, 8)
        assert torch.allclose(one, other, atol=1e-5)
    twice = product_of_gaussians(torch.cat([mean, mean[:, :1]], 1), torch.cat([variance, variance[:, :1]], 1), dim=1)
    assert (twice[1] < product[1]).all()


def test_a_variance_of_zero_is_clamped():
    mean, variance = product_of_gaussians(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0]), dim=0)
    assert mean.item() == pytest.approx(3.0, rel=1e-4)
    assert variance.item() == pytest.approx(1e-7, rel=1e-3)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_choices_are_exactly_one_hot_and_drawn_from_the_softmax(temperature):
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(40_000, 3)
    torch.manual_seed(0)
    gumbel = -torch.empty_like(logits).exponential_().log()
    chosen = gumbel_one_hot(logits, gumbel, temperature)
    assert chosen.unique().tolist() == [0, 1]
    assert (chosen.sum(-1) == 1).all()
    assert chosen.mean(0).tolist() == pytest.approx(logits[0].softmax(-1).tolist(), abs=0.01)


def test_without_draws_the_largest_logit_is_chosen():
    assert gumbel_one_hot(torch.tensor([[0.1, 0.3, 0.2], [5.0, -1, 2]]), None, 1.0).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_the_gradient_of_a_choice_is_that_of_the_softmax():
    logits, gumbel, weight = (torch.tensor([[0.3, -0.2, 0.9]], requires_grad=True), *torch.randn(2, 1, 3))
    (gumbel_one_hot(logits, gumbel, 0.7) * weight).sum().backward()
    straight_through, logits.grad = logits.grad, None
    (((logits + gumbel) / 0.7).softmax(-1) * weight).sum().backward()
    assert torch.allclose(straight_through, logits.grad)


def kl(mean, subtask, living=None, variance=1.0, subtasks=2):
    """Agents with one latent each and the same variance."""
    mean = torch.tensor(mean).unsqueeze(-1)
    chosen = torch.nn.functional.one_hot(torch.tensor(subtask), subtasks).float()
    living = torch.ones(len(mean), dtype=torch.bool) if living is None else torch.tensor(living)
    return consistency_kl(mean, torch.full_like(mean, variance), chosen, living).item()


def test_consistency_kl_by_hand():
    assert kl([0.0, 2.0], [0, 0]) == pytest.approx(1.15343, abs=1e-5)
    # Groups of fewer than two living agents do not count, and dead agents are in no group.
    assert kl([0.0, 2.0, 9.0], [0, 0, 1]) == pytest.approx(1.15343, abs=1e-5)
    assert kl([0.0, 2.0, 9.0], [0, 0, 0], living=[True, True, False]) == pytest.approx(1.15343, abs=1e-5)
    alike = kl([5.0, 5.0], [1, 1])
    assert kl([0.0, 2.0, 5.0, 5.0], [0, 0, 1, 1]) == pytest.approx((1.15343 + alike) / 2, abs=1e-5)


def test_consistency_kl_is_zero_without_a_shared_subtask():
    mean = torch.zeros(2, 1, requires_grad=True)
    loss = consistency_kl(mean, torch.ones(2, 1), torch.eye(2), torch.ones(2, dtype=torch.bool))
    assert loss.item() == 0
    loss.backward()
    assert mean.grad.tolist() == [[0], [0]]
    assert kl([0.0, 2.0], [0, 0], living=[True, False]) == 0
    assert kl([0.0, 2.0], [0, 0], living=[False, False]) == 0


def test_consistency_kl_agrees_with_torch_and_treats_each_step_separately():
    from torch.distributions import Normal, kl_divergence

    torch.manual_seed(0)
    mean, variance = torch.randn(5, 4, 8), torch.rand(5, 4, 8) + 0.2
    subtask = torch.nn.functional.one_hot(torch.tensor([[0, 0, 0, 1]] * 5), 3).float()
    losses = consistency_kl(mean, variance, subtask, torch.ones(5, 4, dtype=torch.bool))
    for t in range(5):
        product = Normal(*(x.sqrt() if i else x for i, x in enumerate(_product(mean[t, :3], variance[t, :3]))))
        expected = kl_divergence(Normal(mean[t, :3], variance[t, :3].sqrt()), product).mean()
        assert losses[t].item() == pytest.approx(expected.item(), rel=1e-4)


def _product(mean, variance):
    return product_of_gaussians(mean, variance, dim=0)
