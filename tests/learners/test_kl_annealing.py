"""lambda(t): measured once, bounded, and exactly 0 in the end."""

import pytest

from lolm_plugin.learners.kl_annealing import KLAnnealing, annealed, balanced_coef


def new(enabled=True, anneal_steps=100, eps=0.5, coef_max=10.0):
    return KLAnnealing(enabled, anneal_steps, eps, coef_max)


@pytest.mark.parametrize(
    ("policy_loss", "kl_loss", "expected"),
    [
        (3.0, 1.0, 2.0),  # |3| / (1 + 0.5)
        (-3.0, 1.0, 2.0),
        (3.0, 0.0, 6.0),  # eps keeps a KL of 0 finite
        (30.0, 0.0, 10.0),  # coef_max
        (0.0, 1.0, 0.0),
    ],
)
def test_the_initial_weight_balances_the_losses_within_bounds(policy_loss, kl_loss, expected):
    assert balanced_coef(policy_loss, kl_loss, eps=0.5, coef_max=10.0) == expected


@pytest.mark.parametrize(("t_env", "expected"), [(0, 4.0), (25, 3.0), (50, 2.0), (99, 0.04), (100, 0.0), (10**9, 0.0)])
def test_the_weight_falls_linearly_to_exactly_0(t_env, expected):
    assert annealed(4.0, t_env, anneal_steps=100) == pytest.approx(expected)
    assert annealed(4.0, t_env, anneal_steps=100) >= 0
    assert (annealed(4.0, t_env, anneal_steps=100) == 0) == (t_env >= 100)


def test_nothing_weighs_before_the_first_measure():
    assert new().coef(0) == 0


def test_the_first_measure_wins():
    kl = new()
    kl.measure(3.0, 1.0)
    kl.measure(30.0, 0.0)
    assert kl.initial == 2.0
    assert kl.coef(50) == 1.0


def test_a_first_measure_of_0_wins_too():
    kl = new()
    kl.measure(0.0, 1.0)
    kl.measure(3.0, 1.0)
    assert kl.coef(0) == 0


def test_at_the_end_of_annealing_it_is_0_and_inactive():
    kl = new()
    kl.measure(3.0, 1.0)
    assert (kl.coef(99) > 0, kl.active(99)) == (True, True)
    assert (kl.coef(100), kl.active(100)) == (0, False)
    assert (kl.coef(101), kl.active(101)) == (0, False)


def test_disabled_it_is_0_and_inactive_from_the_start():
    kl = new(enabled=False)
    kl.measure(3.0, 1.0)
    assert (kl.coef(0), kl.active(0)) == (0, False)


def test_the_initial_weight_balances_the_means_of_the_first_steps():
    kl = KLAnnealing(True, 100, 0.0, coef_max=10.0, balance_steps=3)
    for policy_loss, kl_loss in ((0.1, 1e-6), (-0.3, 0.05), (0.2, 0.25)):
        assert kl.coef(0) == 0
        kl.measure(policy_loss, kl_loss)
    assert kl.initial == pytest.approx(0.6 / 0.300001)
    kl.measure(100.0, 1.0)
    assert kl.coef(50) == pytest.approx(0.5 * 0.6 / 0.300001)
