"""Draws that follow the probabilities, respect the mask, and depend on nothing but their key."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lolm_plugin import randomness
from lolm_plugin.controllers.action_selector import KeyedActionSelector

ROWS = 20_000
PROBABILITIES = torch.tensor([0.0, 0.5, 0.3, 0.0, 0.2])
AVAILABLE = torch.tensor([0, 1, 1, 0, 1])


def new(seed=1, test_greedy=True):
    return KeyedActionSelector(SimpleNamespace(seed=seed, test_greedy=test_greedy))


def draw(selector, t_env=0, test_mode=False, probabilities=PROBABILITIES, available=AVAILABLE, rows=ROWS):
    shape = (rows // 2, 2, -1)
    return selector.select_action(probabilities.expand(*shape), available.expand(*shape), t_env, test_mode)


def test_actions_come_as_often_as_their_probabilities_say():
    actions = draw(new())
    assert actions.shape == (ROWS // 2, 2)
    assert actions.dtype == torch.int64
    frequencies = torch.bincount(actions.flatten(), minlength=5) / ROWS
    assert torch.allclose(frequencies, PROBABILITIES, atol=0.015)  # four standard deviations
    assert frequencies[[0, 3]].tolist() == [0, 0]


def test_an_unavailable_action_is_never_taken_whatever_its_probability():
    actions = draw(new(), probabilities=torch.tensor([0.9, 0.02, 0.02, 0.04, 0.02]))
    assert set(actions.unique().tolist()) == {1, 2, 4}


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(1.0, 0.0)])
def test_the_most_extreme_draws_take_an_available_action(monkeypatch, uniform):
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


def test_another_t_env_seed_or_mode_draws_otherwise():
    base = draw(new(), t_env=7)
    for other in (
        draw(new(), t_env=8),
        draw(new(seed=2), t_env=7),
        draw(new(test_greedy=False), t_env=7, test_mode=True),
    ):
        assert (base == other).float().mean() < 0.6  # 0.38 for independent draws


def test_steps_at_one_t_env_draw_otherwise_and_in_the_same_order_again():
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


def test_a_resumed_run_draws_what_the_uninterrupted_one_did():
    whole, resumed = new(), new()
    draw(whole, t_env=0)
    assert torch.equal(draw(whole, t_env=64), draw(resumed, t_env=64))


@pytest.mark.parametrize("test_mode", [True, False])
def test_a_row_with_nothing_available_gets_action_0(test_mode):
    actions = draw(new(), test_mode=test_mode, available=torch.zeros(5), rows=10)
    assert actions.tolist() == [[0, 0]] * 5


def test_a_row_does_not_depend_on_what_the_others_may_do():
    available = AVAILABLE.repeat(4, 2, 1)
    expected = new().select_action(PROBABILITIES.expand(4, 2, -1), available, 0)
    available[2] = 0
    found = new().select_action(PROBABILITIES.expand(4, 2, -1), available, 0)
    assert torch.equal(found[[0, 1, 3]], expected[[0, 1, 3]])
