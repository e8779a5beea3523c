"""Tests of the entity networks' action heads, with numbers computed by hand."""

import pytest
import torch

from lolm_plugin.modules.heads import InnerActionHead, MeanActionHead


def test_a_targets_logit_is_the_mean_of_the_six_outputs():
    head = MeanActionHead(4, gain=1.0)
    with torch.no_grad():
        head.actions.weight.zero_()
        head.actions.bias.copy_(torch.arange(6.0))
    logits = head(torch.randn(5, 4), torch.randn(5, 3, 4), torch.tensor([4, 5, 6]).expand(5, 3))
    assert torch.equal(logits, torch.tensor([0, 1, 2, 3, 4, 5, 2.5, 2.5, 2.5]).expand(5, -1))


def test_own_and_target_tokens_share_one_layer():
    torch.manual_seed(0)
    head, own, targets = MeanActionHead(4, gain=1.0), torch.randn(2, 4), torch.randn(2, 3, 4)
    logits = head(own, targets, torch.tensor([[4, -1, 6], [4, 5, -1]]))
    expected = head.actions(targets).mean(-1)
    expected[0, 1] = expected[1, 2] = 0
    assert torch.allclose(logits, torch.cat([head.actions(own), expected], -1), atol=1e-6)


def test_an_inner_product_by_hand():
    head = InnerActionHead(4, gain=1.0)
    own, targets = torch.tensor([[1.0, 2, 0, -1]]), torch.tensor([[[1.0, 1, 1, 1], [0, 3, 5, 0], [9, 9, 9, 9]]])
    logits = head(own, targets, torch.tensor([[1, 2, -1]]))
    assert logits[0, 6:].tolist() == [1, 3, 0]
    assert torch.allclose(logits[0, :6], head.actions(own[0]))


@pytest.mark.parametrize("head", [MeanActionHead, InnerActionHead])
def test_no_size_depends_on_the_number_of_targets(head):
    head = head(4, gain=0.01)
    for n_targets in (1, 30):
        tokens = torch.zeros(2, n_targets, dtype=torch.long)
        assert head(torch.randn(2, 4), torch.randn(2, n_targets, 4), tokens).shape == (2, 6 + n_targets)
    assert torch.linalg.svdvals(head.actions.weight.detach()).tolist() == pytest.approx([0.01] * 4, rel=1e-3)
    assert not head.actions.bias.any()
