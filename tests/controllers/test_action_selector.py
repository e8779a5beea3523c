"""Action draws follow the probabilities, respect the mask, and depend only on their key."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lolm_plugin import randomness
from lolm_plugin.controllers.action_selector import KeyedActionSelector

ROWS = 20_000
PROBABILITIES = torch.tensor([0.0, 0.5, 0.3, 0.0, 0.2])
AVAILABLE = torch.tensor([0, 1, 1, 0, 1])


def new(seed=1, test_greedy=True, n_base_actions=None, **settings):
    return KeyedActionSelector(SimpleNamespace(seed=seed, test_greedy=test_greedy, **settings), n_base_actions)


def draw(selector, t_env=0, test_mode=False, probabilities=PROBABILITIES, available=AVAILABLE, rows=ROWS):
    shape = (rows // 2, 2, -1)
    return selector.select_action(probabilities.expand(*shape), available.expand(*shape), t_env, test_mode)


def test_action_frequencies_match_the_probabilities():
    actions = draw(new())
    assert actions.shape == (ROWS // 2, 2)
    assert actions.dtype == torch.int64
    frequencies = torch.bincount(actions.flatten(), minlength=5) / ROWS
    assert torch.allclose(frequencies, PROBABILITIES, atol=0.015)  # four standard deviations
    assert frequencies[[0, 3]].tolist() == [0, 0]


def test_an_unavailable_action_is_never_taken():
    actions = draw(new(), probabilities=torch.tensor([0.9, 0.02, 0.02, 0.04, 0.02]))
    assert set(actions.unique().tolist()) == {1, 2, 4}


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(1.0, 0.0)])
def test_extreme_draws_take_an_available_action(monkeypatch, uniform):
    constant = SimpleNamespace(random=lambda shape: np.full(shape, uniform))
    monkeypatch.setattr(randomness, "keyed_generator", lambda *key: constant)
    assert set(draw(new(), rows=2).flatten().tolist()) == {1 if uniform == 0 else 4}


def test_test_mode_takes_the_most_probable_available_action():
    tempting = torch.tensor([0.9, 0.02, 0.05, 0.0, 0.03])
    assert set(draw(new(), test_mode=True, probabilities=tempting).flatten().tolist()) == {2}


def test_test_mode_samples_without_test_greedy():
    assert draw(new(test_greedy=False), test_mode=True).unique().tolist() == [1, 2, 4]


def test_the_same_key_draws_the_same():
    assert torch.equal(draw(new(), t_env=7), draw(new(), t_env=7))


def test_another_t_env_seed_or_mode_draws_differently():
    base = draw(new(), t_env=7)
    for other in (
        draw(new(), t_env=8),
        draw(new(seed=2), t_env=7),
        draw(new(test_greedy=False), t_env=7, test_mode=True),
    ):
        assert (base == other).float().mean() < 0.6  # 0.38 for independent draws


def test_successive_draws_at_one_t_env_differ_and_are_reproducible():
    first, second = new(), new()
    draws = [draw(first, t_env=7) for _ in range(2)]
    assert (draws[0] == draws[1]).float().mean() < 0.6
    for expected in draws:
        assert torch.equal(draw(second, t_env=7), expected)


def test_tests_in_between_do_not_change_training_draws():
    plain, tested = new(test_greedy=False), new(test_greedy=False)
    expected = [draw(plain, t_env=7) for _ in range(2)]
    found = [draw(tested, t_env=7)]
    draw(tested, t_env=7, test_mode=True)
    found.append(draw(tested, t_env=7))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_resumed_run_draws_like_the_uninterrupted_one():
    whole, resumed = new(), new()
    draw(whole, t_env=0)
    assert torch.equal(draw(whole, t_env=64), draw(resumed, t_env=64))


@pytest.mark.parametrize("test_mode", [True, False])
def test_an_agent_without_available_actions_gets_action_0(test_mode):
    actions = draw(new(), test_mode=test_mode, available=torch.zeros(5), rows=10)
    assert actions.tolist() == [[0, 0]] * 5


def test_an_episodes_draw_does_not_depend_on_other_masks():
    available = AVAILABLE.repeat(4, 2, 1)
    expected = new().select_action(PROBABILITIES.expand(4, 2, -1), available, 0)
    available[2] = 0
    found = new().select_action(PROBABILITIES.expand(4, 2, -1), available, 0)
    assert torch.equal(found[[0, 1, 3]], expected[[0, 1, 3]])


N_BASE = 3


def greedy(probabilities, rule="grouped", seed=1, available=None, **where):
    """Return actions [episodes, agents] of a greedy test for probabilities [episodes, agents, actions]."""
    probabilities = torch.as_tensor(probabilities)
    available = torch.ones(probabilities.shape) if available is None else torch.as_tensor(available)
    selector = new(seed, n_base_actions=N_BASE, greedy_rule=rule)
    return selector.select_action(probabilities, available.expand(probabilities.shape), 7, True, **where)


SPREAD = [0.1, 0.15, 0.0, 0.25, 0.25, 0.25]  # attacks sum to 0.75; all targets are equally probable


def test_attacks_compete_as_one_action():
    spread_thin = [0.05, 0.2, 0.0, *[0.75 / 9] * 9]
    assert greedy([[spread_thin]], "argmax").tolist() == [[1]]
    assert (greedy([[spread_thin]]) >= N_BASE).all()
    assert greedy([[[0.0, 0.52, 0.0, 0.24, 0.24]]]).tolist() == [[1]]  # the sum of the attacks is less probable


def test_the_most_probable_target_is_taken():
    assert greedy([[[0.3, 0.1, 0.0, 0.1, 0.29, 0.21]] * 2]).tolist() == [[4, 4]]


def test_equal_targets_are_drawn_equally_often():
    actions = greedy([[SPREAD] * 2] * 3000)
    frequencies = torch.bincount(actions.flatten(), minlength=6) / 6000
    assert torch.allclose(frequencies, torch.tensor([0, 0, 0, 1, 1, 1]) / 3, atol=0.025)  # four standard deviations


def test_only_the_most_probable_and_available_targets_are_drawn():
    actions = greedy([[[0.1, 0.0, 0.0, 0.2, 0.25, 0.2, 0.25]]] * 200, available=[1, 1, 1, 1, 1, 1, 0])
    assert set(actions.flatten().tolist()) == {4}
    actions = greedy([[[0.1, 0.0, 0.0, 0.15, 0.25, 0.25, 0.25]]] * 200, available=[1, 1, 1, 1, 1, 1, 0])
    assert set(actions.flatten().tolist()) == {4, 5}


@pytest.mark.parametrize("size", [1, 3])
def test_the_drawn_target_depends_only_on_episode_and_step(size):
    whole = greedy([[SPREAD] * 2] * 12, t_ep=4)
    parts = [greedy([[SPREAD] * 2] * size, t_ep=4, episodes=range(first, first + size)) for first in range(0, 12, size)]
    assert torch.equal(torch.cat(parts), whole)
    for other in (greedy([[SPREAD] * 2] * 12, t_ep=5), greedy([[SPREAD] * 2] * 12, t_ep=4, seed=2)):
        assert not torch.equal(other, whole)
    sampled = new(test_greedy=False, n_base_actions=N_BASE)
    many = sampled.select_action(torch.tensor([[SPREAD] * 2] * 12), torch.ones(12, 2, 6), 7, True, None, 4)
    few = sampled.select_action(torch.tensor([[SPREAD] * 2]), torch.ones(1, 2, 6), 7, True, range(8, 9), 4)
    assert torch.equal(few[0], many[8])


def test_without_targets_the_most_probable_action_is_taken():
    probabilities = torch.tensor([[[0.1, 0.2, 0.7]]])
    for n_base in (None, 3):
        selector = new(n_base_actions=n_base, greedy_rule="grouped")
        assert selector.select_action(probabilities, torch.ones(1, 1, 3), 0, True).tolist() == [[2]]


def test_the_grouped_rule_gives_a_finished_episode_action_0():
    assert greedy([[SPREAD]], available=[0] * 6).tolist() == [[0]]


def test_greedy_draws_do_not_change_training_draws():
    plain, tested = (new(n_base_actions=N_BASE, greedy_rule="grouped") for _ in range(2))
    expected = [draw(plain, t_env=7) for _ in range(2)]
    found = [draw(tested, t_env=7)]
    tested.select_action(torch.tensor([[SPREAD]]), torch.ones(1, 1, 6), 7, True)
    found.append(draw(tested, t_env=7))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
