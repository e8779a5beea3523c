"""Tests of the attention action head: logits by dot product, for any number of enemies."""

import pytest
import torch

from lolm_plugin.modules.heads import AttentionActionHead


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
def test_the_same_weights_work_for_any_number_of_enemies(n_targets):
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


@pytest.mark.parametrize("attack_keys", ["shared", "entity"])
@pytest.mark.parametrize("prompts", [1, 2, 17])
def test_equal_attacks_have_exactly_equal_logits_for_any_number_of_prompts(prompts, attack_keys):
    for seed in range(60):
        torch.manual_seed(seed)
        head, hidden = AttentionActionHead(576, 0.002, attack_keys), 30 * torch.randn(prompts, 576)
        n_targets = 1 + seed % 12
        logits = head(hidden, n_targets, torch.randn(4, 576), torch.zeros(prompts, n_targets, dtype=torch.int64))
        probabilities = logits.log_softmax(-1).exp()
        for values in (logits[:, 6:], probabilities[:, 6:]):
            assert torch.equal(values, values[:, :1].expand(-1, n_targets)), seed


def test_the_shared_head_has_only_seven_embeddings():
    head = AttentionActionHead(16, 1.0)
    assert sum(parameter.numel() for parameter in head.parameters()) == 7 * 16
    head(torch.randn(5, 16), n_targets=3).square().sum().backward()
    assert all(parameter.grad.any(-1).all() for parameter in head.parameters())


def test_init_std_is_the_standard_deviation_of_the_embeddings():
    torch.manual_seed(0)
    head = AttentionActionHead(4096, 0.002)
    assert head.base.std().item() == pytest.approx(0.002, rel=0.05)
    assert head.attack.std().item() == pytest.approx(0.002, rel=0.05)


def entity_head(hidden_size=2):
    """Build a head with a nonzero projection."""
    torch.manual_seed(0)
    head = AttentionActionHead(hidden_size, 1.0, "entity")
    torch.nn.init.normal_(head.target)
    return head


def test_a_targets_key_is_the_attack_embedding_plus_the_projected_sentence_by_hand():
    head = AttentionActionHead(2, 1.0, "entity")
    weights = {"base": torch.ones(6, 2), "attack": torch.tensor([[1.0, 0]]), "target": torch.tensor([[0.0, 4], [2, 0]])}
    head.load_state_dict(weights)
    sentences = torch.tensor([[1.0, 2], [3, 4]])  # projected and halved: [4, 1] and [8, 3]
    logits = head(torch.tensor([[1.0, 10]]), 3, sentences, torch.tensor([[1, -1, 0]]))
    assert logits[0, 6:].tolist() == [1 + 8 + 30, 1, 1 + 4 + 10]


def test_both_kinds_of_keys_start_as_the_same_policy():
    torch.manual_seed(0)
    entity = AttentionActionHead(16, 1.0, "entity")
    torch.manual_seed(0)
    shared = AttentionActionHead(16, 1.0)
    hidden, sentences, sentence_of = torch.randn(5, 16), torch.randn(9, 16), torch.randint(-1, 9, (5, 4))
    assert torch.equal(entity(hidden, 4, sentences, sentence_of), shared(hidden, 4))
    entity(hidden, 4, sentences, sentence_of).square().sum().backward()
    assert entity.target.grad.any()


def test_logits_are_equivariant_to_the_order_of_targets():
    head, hidden, sentences = entity_head(16), torch.randn(5, 16), torch.randn(9, 16)
    sentence_of, order = torch.randint(-1, 9, (5, 4)), torch.tensor([2, 0, 3, 1])
    logits, moved = head(hidden, 4, sentences, sentence_of), head(hidden, 4, sentences, sentence_of[:, order])
    torch.testing.assert_close(moved, logits[:, [*range(6), *(6 + order).tolist()]])
    assert logits[:, 6:].std(-1).min() > 1e-3


def test_entity_keys_have_the_same_parameters_on_every_map():
    head, hidden, sentences = entity_head(16), torch.randn(5, 16), torch.randn(30, 16)
    assert sum(parameter.numel() for parameter in head.parameters()) == 7 * 16 + 16 * 16
    for n_targets in (1, 3, 30):
        assert head(hidden, n_targets, sentences, torch.randint(30, (5, n_targets))).shape == (5, 6 + n_targets)


def test_the_number_of_base_actions_can_be_set():
    assert AttentionActionHead(16, 1.0, n_base=5)(torch.randn(3, 16), 0).shape == (3, 5)


def test_target_bias_prefers_one_kind_of_target_with_centred_states_by_hand():
    head = AttentionActionHead(4, 1.0, "entity", features="normalised")
    head.target_bias.data = torch.tensor([2.0, 0, 0, 0])
    sentences = torch.tensor([[3.0, 9, 9, 9], [-1, 9, 9, 9]])
    logits = head(torch.zeros(1, 4), 3, sentences, torch.tensor([[0, 1, -1]]))
    assert logits[0, 6:].tolist() == [2 * 3 / 2, 2 * -1 / 2, 0]
