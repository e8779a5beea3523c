"""Tests of the feature normaliser, alone and in the action head."""

import pytest
import torch

from lolm_plugin.modules.heads import FLOOR, AttentionActionHead, FeatureNormaliser


def test_features_are_centred_and_scaled_with_the_measured_statistics():
    normaliser = FeatureNormaliser(2)
    states = torch.tensor([[10.0, 1.0], [14.0, 1.5], [12.0, 0.5]])
    torch.testing.assert_close(normaliser(states), states)  # nothing measured yet
    normaliser.measure(states)
    assert normaliser.measured
    expected = torch.tensor([[-1.0, 0.0], [1.0, 1.0], [0.0, -1.0]])  # deviations 2 and 0.5
    torch.testing.assert_close(normaliser(states), expected)


def test_a_nearly_constant_dimension_is_not_scaled_up():
    normaliser = FeatureNormaliser(3)
    states = torch.randn(100, 3) * torch.tensor([1.0, 1.0, 1e-7])
    normaliser.measure(states)
    assert normaliser.deviation[2] == pytest.approx(FLOOR, rel=0.3)
    assert normaliser(states)[:, 2].abs().max() < 1e-3


@pytest.mark.parametrize("states", [torch.zeros(0, 2), torch.ones(1, 2), torch.ones(5, 2)])
def test_states_without_a_deviation_do_not_change_the_statistics(states):
    normaliser = FeatureNormaliser(2)
    normaliser.measure(states)
    assert normaliser.measured
    torch.testing.assert_close(normaliser(torch.ones(1, 2)), torch.ones(1, 2))


def test_statistics_are_saved_with_the_head():
    head, other = (AttentionActionHead(4, 0.1, "entity", features="normalised") for _ in range(2))
    head.measure(torch.randn(9, 4), torch.randn(9, 4))
    assert other.needs_statistics
    other.load_state_dict(head.state_dict())
    assert not other.needs_statistics
    hidden = torch.randn(3, 4)
    torch.testing.assert_close(other(hidden, 2), head(hidden, 2))


def nearly_constant(states, width=576):
    """Draw states like those of a language model: one common vector of norm 39, deviations of norm 1.7."""
    generator = torch.Generator().manual_seed(0)
    constant = torch.randn(width, generator=generator) * 39 / width**0.5
    return constant + torch.randn(states, width, generator=generator) * 1.7 / width**0.5


def logit_change(head, states):
    """Make one optimiser step on one action. Return its logit's change: deviation over states, and mean."""
    before = head(states, 3).detach()
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-3, eps=1e-8)
    wanted = torch.where(torch.arange(len(states)) % 2 == 0, 1.0, -0.5)  # good in one half, bad in the other
    (-(wanted * head(states, 3)[:, 0]).mean()).backward()
    optimiser.step()
    change = (head(states, 3).detach() - before)[:, 0]
    return change.std(), change.mean().abs()


def test_a_step_changes_differences_between_states_and_not_only_their_mean():
    states = nearly_constant(64)
    raw, normalised = AttentionActionHead(576, 0.002), AttentionActionHead(576, 0.002, features="normalised")
    normalised.measure(states, states[:0])
    between, common = logit_change(raw, states)
    assert between < 0.1 * common  # hardly any difference between states
    between, common = logit_change(normalised, states)
    assert between > common


@pytest.mark.parametrize("attack_keys", ["shared", "entity"])
def test_the_untrained_policy_is_nearly_uniform(attack_keys):
    states = nearly_constant(64)
    head = AttentionActionHead(576, 0.002, attack_keys, features="normalised")
    head.measure(states, states)
    sentence_of = torch.arange(64 * 3).reshape(64, 3) % 64
    assert head(states, 3, states, sentence_of).abs().max() < 0.02


def test_embeddings_from_words_have_the_given_scale():
    torch.manual_seed(0)
    head = AttentionActionHead(576, 0.002, features="normalised")
    states, words = nearly_constant(64), nearly_constant(7)
    head.measure(states, states[:0])
    head.start_from(words, scale=0.5)
    keys = torch.cat([head.base, head.attack]).detach()
    assert keys.square().mean().sqrt() == pytest.approx(0.5)
    torch.testing.assert_close(keys.mean(0), torch.zeros(576), atol=1e-5, rtol=0)
    assert 0.1 < head(states, 0).std(0).mean().item() < 5  # the logits of similar words add up


def test_a_copied_head_uses_the_same_statistics():
    head, copy = (AttentionActionHead(4, 0.1, features="normalised") for _ in range(2))
    head.measure(torch.randn(9, 4) + 5, torch.zeros(0, 4))
    copy.share_statistics(head)
    assert copy.normaliser is head.normaliser


@pytest.mark.parametrize("attack_keys", ["shared", "entity"])
def test_statistics_of_collected_battles_change_the_scale_but_no_logit(attack_keys):
    torch.manual_seed(0)
    head, copy = (AttentionActionHead(16, 0.5, attack_keys, features="normalised") for _ in range(2))
    head.measure(3 * torch.randn(64, 16) + 1, 3 * torch.randn(64, 16) + 1)  # made-up observations vary in all fields
    copy.share_statistics(head)
    played, sentences = 0.1 * torch.randn(64, 16) + 5, 0.1 * torch.randn(64, 16) - 5
    sentence_of = torch.arange(64 * 3).reshape(64, 3) % 64
    before = [each(played, 3, sentences, sentence_of) for each in (head, copy)]
    assert head.needs_collected_statistics
    head.measure_collected(played, sentences, copy)
    assert not head.needs_collected_statistics
    for each, logits in zip((head, copy), before, strict=True):
        torch.testing.assert_close(each(played, 3, sentences, sentence_of), logits, atol=1e-4, rtol=1e-4)
    features = head.normaliser(played)
    torch.testing.assert_close(features.mean(0), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(0), torch.ones(16), atol=1e-4, rtol=0)


def test_a_head_with_trained_target_keys_keeps_its_statistics():
    head = AttentionActionHead(16, 0.5, "entity", features="normalised")
    head.measure(torch.randn(64, 16), torch.randn(64, 16))
    torch.nn.init.normal_(head.target)
    mean = head.normaliser.mean.clone()
    head.measure_collected(torch.randn(64, 16) + 5, torch.randn(64, 16) + 5)
    assert torch.equal(head.normaliser.mean, mean)
    assert not head.needs_collected_statistics
