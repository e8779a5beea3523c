"""Features that tell states apart, by hand and through the head."""

import pytest
import torch

from lolm_plugin.modules.heads import FLOOR, AttentionActionHead, FeatureNormaliser


def test_features_are_centred_and_scaled_by_what_was_measured():
    normaliser = FeatureNormaliser(2)
    states = torch.tensor([[10.0, 1.0], [14.0, 1.5], [12.0, 0.5]])
    torch.testing.assert_close(normaliser(states), states)  # nothing measured yet
    normaliser.measure(states)
    assert normaliser.measured
    expected = torch.tensor([[-1.0, 0.0], [1.0, 1.0], [0.0, -1.0]])  # deviations 2 and 0.5
    torch.testing.assert_close(normaliser(states), expected)


def test_a_dimension_that_hardly_moves_is_not_blown_up():
    normaliser = FeatureNormaliser(3)
    states = torch.randn(100, 3) * torch.tensor([1.0, 1.0, 1e-7])
    normaliser.measure(states)
    assert normaliser.deviation[2] == pytest.approx(FLOOR, rel=0.3)
    assert normaliser(states)[:, 2].abs().max() < 1e-3


@pytest.mark.parametrize("states", [torch.zeros(0, 2), torch.ones(1, 2), torch.ones(5, 2)])
def test_states_without_a_deviation_change_nothing(states):
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


def nearly_constant(rows, width=576):
    """States as a language model has them: a vector of norm 39 that all share, deviations of norm 1.7."""
    generator = torch.Generator().manual_seed(0)
    constant = torch.randn(width, generator=generator) * 39 / width**0.5
    return constant + torch.randn(rows, width, generator=generator) * 1.7 / width**0.5


def moved(head, states):
    """Between states and in their mean: how far one optimiser step towards one action moves its logit."""
    before = head(states, 3).detach()
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-3, eps=1e-8)
    wanted = torch.where(torch.arange(len(states)) % 2 == 0, 1.0, -0.5)  # good in one half, bad in the other
    (-(wanted * head(states, 3)[:, 0]).mean()).backward()
    optimiser.step()
    change = (head(states, 3).detach() - before)[:, 0]
    return change.std(), change.mean().abs()


def test_a_step_moves_differences_between_states_and_not_only_their_mean():
    states = nearly_constant(64)
    raw, normalised = AttentionActionHead(576, 0.002), AttentionActionHead(576, 0.002, features="normalised")
    normalised.measure(states, states[:0])
    between, common = moved(raw, states)
    assert between < 0.1 * common  # blind
    between, common = moved(normalised, states)
    assert between > common


@pytest.mark.parametrize("attack_keys", ["shared", "entity"])
def test_the_untrained_policy_is_nearly_uniform(attack_keys):
    states = nearly_constant(64)
    head = AttentionActionHead(576, 0.002, attack_keys, features="normalised")
    head.measure(states, states)
    place = torch.arange(64 * 3).reshape(64, 3) % 64
    assert head(states, 3, states, place).abs().max() < 0.02


def test_embeddings_that_start_from_words_have_an_opinion_of_the_given_size():
    torch.manual_seed(0)
    head = AttentionActionHead(576, 0.002, features="normalised")
    states, words = nearly_constant(64), nearly_constant(7)
    head.measure(states, states[:0])
    head.start_from(words, scale=0.5)
    keys = torch.cat([head.base, head.attack]).detach()
    assert keys.square().mean().sqrt() == pytest.approx(0.5)
    torch.testing.assert_close(keys.mean(0), torch.zeros(576), atol=1e-5, rtol=0)
    assert 0.1 < head(states, 0).std(0).mean().item() < 5  # words that are alike add up


def test_a_copied_head_answers_by_the_same_statistics():
    head, copy = (AttentionActionHead(4, 0.1, features="normalised") for _ in range(2))
    head.measure(torch.randn(9, 4) + 5, torch.zeros(0, 4))
    copy.share_statistics(head)
    assert copy.normaliser is head.normaliser


@pytest.mark.parametrize("attack_keys", ["shared", "entity"])
def test_statistics_of_played_battles_change_the_scale_and_no_logit(attack_keys):
    torch.manual_seed(0)
    head, copy = (AttentionActionHead(16, 0.5, attack_keys, features="normalised") for _ in range(2))
    head.measure(3 * torch.randn(64, 16) + 1, 3 * torch.randn(64, 16) + 1)  # everything that could be seen
    copy.share_statistics(head)
    played, sentences = 0.1 * torch.randn(64, 16) + 5, 0.1 * torch.randn(64, 16) - 5
    place = torch.arange(64 * 3).reshape(64, 3) % 64
    before = [each(played, 3, sentences, place) for each in (head, copy)]
    assert head.needs_played_statistics
    head.measure_played(played, sentences, copy)
    assert not head.needs_played_statistics
    for each, logits in zip((head, copy), before, strict=True):
        torch.testing.assert_close(each(played, 3, sentences, place), logits, atol=1e-4, rtol=1e-4)
    features = head.normaliser(played)
    torch.testing.assert_close(features.mean(0), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(0), torch.ones(16), atol=1e-4, rtol=0)


def test_a_head_with_trained_keys_of_targets_keeps_its_statistics():
    head = AttentionActionHead(16, 0.5, "entity", features="normalised")
    head.measure(torch.randn(64, 16), torch.randn(64, 16))
    torch.nn.init.normal_(head.target)
    mean = head.normaliser.mean.clone()
    head.measure_played(torch.randn(64, 16) + 5, torch.randn(64, 16) + 5)
    assert torch.equal(head.normaliser.mean, mean)
    assert not head.needs_played_statistics
