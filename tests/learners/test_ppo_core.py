"""PPO's formulas, compared with numbers computed by hand."""

import pytest
import torch

from lolm_plugin.learners import ppo_core

GAMMA, LAMBDA = 0.5, 0.5


def column(*numbers):
    """Return a tensor [1, T, 1]: one episode with one agent."""
    return torch.tensor(numbers, dtype=torch.float32).reshape(1, -1, 1)


def gae(rewards, values, terminated, valid, gamma=GAMMA, gae_lambda=LAMBDA):
    advantages, returns = ppo_core.gae(
        column(*rewards), column(*values), column(*terminated), column(*valid), gamma, gae_lambda
    )
    return advantages.flatten().tolist(), returns.flatten().tolist()


def test_gae_of_an_episode_that_ends():
    # delta_1 = 2 - 4 = -2; delta_0 = 1 + 0.5*4 - 3 = 0; A_1 = -2; A_0 = 0 + 0.25*-2
    advantages, returns = gae([1, 2], [3, 4, 100], terminated=[0, 1], valid=[1, 1])
    assert advantages == [-0.5, -2]
    assert returns == [2.5, 2]


def test_gae_bootstraps_an_episode_cut_by_the_time_limit():
    # delta_1 = 2 + 0.5*8 - 4 = 2; A_0 = 0 + 0.25*2
    advantages, returns = gae([1, 2], [3, 4, 8], terminated=[0, 0], valid=[1, 1])
    assert advantages == [0.5, 2]
    assert returns == [3.5, 6]


@pytest.mark.parametrize("after", [0.0, 1e6])
def test_gae_ignores_everything_after_an_early_end(after):
    advantages, returns = gae([1, 2, after, after], [3, 4, after, after, after], [0, 1, 0, 0], [1, 1, 0, 0])
    assert advantages == [-0.5, -2, 0, 0]
    assert returns == [2.5, 2, 0, 0]


def test_gae_bootstraps_a_time_limit_before_the_end_of_the_batch():
    advantages, returns = gae([1, 2, 9, 9], [3, 4, 8, 70, 70], terminated=[0, 0, 0, 0], valid=[1, 1, 0, 0])
    assert advantages == [0.5, 2, 0, 0]
    assert returns == [3.5, 6, 0, 0]


def test_gae_does_not_leak_past_an_end_even_if_steps_follow():
    advantages, returns = gae([1, 2], [3, 4, 8], terminated=[1, 0], valid=[1, 1])
    assert advantages == [-2, 2]
    assert returns == [1, 6]


def test_gae_of_a_short_episode_is_the_same_next_to_a_longer_one():
    torch.manual_seed(0)
    rewards, values = torch.randn(2, 5, 3), torch.randn(2, 6, 3)
    terminated, valid = torch.zeros(2, 5, 1), torch.ones(2, 5, 1)
    terminated[0, 1], terminated[1, 4], valid[0, 2:] = 1, 1, 0
    together = ppo_core.gae(rewards, values, terminated, valid, 0.9, 0.8)
    short = ppo_core.gae(rewards[:1, :2], values[:1, :3], terminated[:1, :2], valid[:1, :2], 0.9, 0.8)
    long = ppo_core.gae(rewards[1:], values[1:], terminated[1:], valid[1:], 0.9, 0.8)
    for both, first, second in zip(together, short, long, strict=True):
        assert torch.allclose(both[:1, :2], first)
        assert not both[:1, 2:].any()
        assert torch.allclose(both[1:], second)


def test_gae_with_lambda_0_is_the_one_step_error():
    advantages, _ = gae([1, 2, 3], [3, 4, 5, 6], [0, 0, 0], [1, 1, 1], gae_lambda=0.0)
    assert advantages == [1 + 0.5 * 4 - 3, 2 + 0.5 * 5 - 4, 3 + 0.5 * 6 - 5]


def test_gae_with_lambda_1_returns_the_discounted_rewards():
    _, returns = gae([1, 2, 4], [30, -7, 11, 8], [0, 0, 0], [1, 1, 1], gae_lambda=1.0)
    assert returns == [1 + 0.5 * 2 + 0.25 * 4 + 0.125 * 8, 2 + 0.5 * 4 + 0.25 * 8, 4 + 0.5 * 8]


def test_gae_treats_agents_separately():
    values = torch.tensor([[[3.0, 0], [4, 0], [100, 100]]])
    advantages, _ = ppo_core.gae(torch.ones(1, 2, 2), values, column(0, 1), column(1, 1), GAMMA, LAMBDA)
    assert advantages[0].tolist() == [[1 + 2 - 3 + 0.25 * -3, 1.25], [-3, 1]]


def test_masked_mean_counts_where_the_mask_is_1():
    assert ppo_core.masked_mean(torch.tensor([1.0, 2, 99]), torch.tensor([1.0, 1, 0])) == 1.5
    assert ppo_core.masked_mean(torch.tensor([5.0]), torch.tensor([0.0])) == 0


def test_normalise_gives_mean_0_and_variance_1_over_the_mask():
    x = torch.tensor([1.0, 3, 5, 1e6])
    normal = ppo_core.normalise(x, torch.tensor([1.0, 1, 1, 0]))[:3]
    assert normal.tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5], rel=1e-4)


def test_normalise_leaves_equal_numbers_at_0():
    assert ppo_core.normalise(torch.full((4,), 2.0), torch.ones(4)).tolist() == [0, 0, 0, 0]


def test_normalise_divides_by_at_least_the_least_deviation():
    x, mask = torch.tensor([1.0, 3.0]), torch.ones(2)  # deviation 1
    for least, expected in ((0.5, 1.0), (4.0, 0.25)):
        normal = ppo_core.normalise(x, mask, least_deviation=least)
        torch.testing.assert_close(normal, torch.tensor([-expected, expected]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "took_hold"),
    [
        (1.0, 2.0, -2.0, -2.0, False),
        (1.1, 2.0, -2.2, -2.2, False),
        (1.5, 2.0, -2.4, 0.0, True),  # good action, probability already increased by more than the clip
        (0.5, 2.0, -1.0, -1.0, False),  # good action, probability decreased: gradient stays
        (0.5, -2.0, 1.6, 0.0, True),  # bad action, probability already decreased by more than the clip
        (1.5, -2.0, 3.0, 3.0, False),  # bad action, probability increased: gradient stays
        (0.9, -2.0, 1.8, 1.8, False),
    ],
)
def test_the_policy_loss_has_no_gradient_where_clipped(ratio, advantage, loss, gradient, took_hold):
    old = torch.tensor([-1.0])
    log_probs = (old + torch.tensor([ratio]).log()).requires_grad_()
    losses, clipped = ppo_core.clipped_policy_loss(log_probs, old, torch.tensor([advantage]), clip=0.2)
    losses.sum().backward()
    assert losses.item() == pytest.approx(loss)
    assert log_probs.grad.item() == pytest.approx(gradient, abs=1e-6)
    assert clipped.tolist() == [took_hold]


@pytest.mark.parametrize(
    ("value", "target", "loss", "gradient"),
    [
        (1.1, 2.0, 0.5 * 0.9**2, -0.9),  # within the clip: squared error
        (1.5, 2.0, 0.5 * 0.8**2, 0.0),  # moved too far toward the target: clipped to 1.2, no gradient
        (1.5, 1.0, 0.5 * 0.5**2, 0.5),  # moved away from the target: the unclipped error is larger
        (0.5, 0.0, 0.5 * 0.8**2, 0.0),  # the same downward: clipped to 0.8
        (1.0, 21.0, 10 * (20 - 5), -10.0),  # beyond Huber's delta of 10: linear
    ],
)
def test_the_value_loss_is_the_larger_of_unclipped_and_clipped(value, target, loss, gradient):
    values = torch.tensor([value], requires_grad=True)
    losses = ppo_core.clipped_value_loss(
        values, torch.tensor([1.0]), torch.tensor([target]), clip=0.2, huber_delta=10.0
    )
    losses.sum().backward()
    assert losses.item() == pytest.approx(loss)
    assert values.grad.item() == pytest.approx(gradient, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2, 3, 1e6], 1.0),  # perfect
        ([7.0, 7, 7, 1e6], 0.0),  # a constant
        ([2.0, 3, 4, 1e6], 1.0),  # a constant error has no variance
        ([3.0, 2, 1, 1e6], -3.0),  # reversed: errors -2, 0, 2; returns vary by -1, 0, 1
    ],
)
def test_explained_variance_by_hand(values, expected):
    returns, mask = torch.tensor([1.0, 2, 3, 0]), torch.tensor([1.0, 1, 1, 0])
    assert ppo_core.explained_variance(torch.tensor(values), returns, mask).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ratios", "farthest"), [([1.1, 0.95, 1.0], 1.1), ([1.1, 0.7, 1.0], 0.7), ([1.0, 1.0], 1.0), ([], 1.0)]
)
def test_the_farthest_ratio_differs_most_from_1(ratios, farthest):
    log_ratios = torch.tensor(ratios).log()
    behaviour = torch.full_like(log_ratios, -2.0)
    assert ppo_core.farthest_ratio(behaviour + log_ratios, behaviour).item() == pytest.approx(farthest)
