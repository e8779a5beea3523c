"""Logits by dot product, for any number of enemies."""

import pytest
import torch

from lolm_plugin.modules.heads.attention_action_head import AttentionActionHead


def test_logits_are_dot_products_by_hand():
    head = AttentionActionHead(hidden_size=2, init_std=1.0)
    head.load_state_dict(
        {
            "base": torch.tensor([[1.0, 0], [0, 1], [1, 1], [2, 0], [0, 2], [-1, -1]]),
            "attack": torch.tensor([[0.5, -2.0]]),
        }
    )
    logits = head(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), n_targets=2)
    assert logits.tolist() == [[3, 4, 7, 6, 8, -7, -6.5, -6.5], [1, 0, 1, 2, 0, -1, 0.5, 0.5]]


@pytest.mark.parametrize("n_targets", [1, 3, 8, 30])
def test_the_same_weights_serve_any_number_of_enemies(n_targets):
    torch.manual_seed(0)
    head, hidden = AttentionActionHead(16, 1.0), torch.randn(5, 16)
    logits = head(hidden, n_targets)
    assert logits.shape == (5, 6 + n_targets)
    assert torch.allclose(logits[:, :7], head(hidden, 1), atol=1e-5)


def test_as_published_all_attacks_have_the_same_logit():
    torch.manual_seed(0)
    attacks = AttentionActionHead(16, 1.0)(torch.randn(5, 16), n_targets=7)[:, 6:]
    assert torch.equal(attacks, attacks[:, :1].expand(-1, 7))
    assert attacks[:, 0].unique().numel() == 5


def test_seven_embeddings_are_all_there_is_to_learn():
    head = AttentionActionHead(16, 1.0)
    assert sum(parameter.numel() for parameter in head.parameters()) == 7 * 16
    head(torch.randn(5, 16), n_targets=3).square().sum().backward()
    assert all(parameter.grad.any(-1).all() for parameter in head.parameters())


def test_init_std_is_the_standard_deviation_of_the_embeddings():
    torch.manual_seed(0)
    head = AttentionActionHead(4096, 0.002)
    assert head.base.std().item() == pytest.approx(0.002, rel=0.05)
    assert head.attack.std().item() == pytest.approx(0.002, rel=0.05)
