"""Coefficients of the KL (measured once, annealed to 0) and of the entropy bonus (scheduled or adaptive)."""

import math

import pytest

from lolm_plugin.learners.coefficients import (
    GAIN,
    MAX_ENTROPY_COEF,
    EntropyCoefficient,
    KLCoefficient,
    annealed,
    balanced_coef,
)


def new(enabled=True, anneal_steps=100, eps=0.5, coef_max=10.0):
    return KLCoefficient(enabled, anneal_steps, eps, coef_max)


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
def test_the_initial_coefficient_balances_the_losses_within_bounds(policy_loss, kl_loss, expected):
    assert balanced_coef(policy_loss, kl_loss, eps=0.5, coef_max=10.0) == expected


@pytest.mark.parametrize(("t_env", "expected"), [(0, 4.0), (25, 3.0), (50, 2.0), (99, 0.04), (100, 0.0), (10**9, 0.0)])
def test_the_coefficient_falls_linearly_to_exactly_0(t_env, expected):
    assert annealed(4.0, t_env, anneal_steps=100) == pytest.approx(expected)
    assert annealed(4.0, t_env, anneal_steps=100) >= 0
    assert (annealed(4.0, t_env, anneal_steps=100) == 0) == (t_env >= 100)


def test_the_coefficient_is_0_before_the_first_measurement():
    assert new().coef(0) == 0


def test_only_the_first_measurement_counts():
    kl = new()
    kl.measure(3.0, 1.0)
    kl.measure(30.0, 0.0)
    assert kl.initial == 2.0
    assert kl.coef(50) == 1.0


def test_a_first_measurement_of_0_counts_too():
    kl = new()
    kl.measure(0.0, 1.0)
    kl.measure(3.0, 1.0)
    assert kl.coef(0) == 0


def test_after_annealing_the_kl_is_0_and_inactive():
    kl = new()
    kl.measure(3.0, 1.0)
    assert (kl.coef(99) > 0, kl.active(99)) == (True, True)
    assert (kl.coef(100), kl.active(100)) == (0, False)
    assert (kl.coef(101), kl.active(101)) == (0, False)


def test_equal_policies_are_not_measured():
    kl = new(eps=0.5)
    kl.measure(3.0, 0.5)
    assert kl.initial is None
    assert kl.measured == []


def test_a_disabled_kl_is_0_and_inactive_from_the_start():
    kl = new(enabled=False)
    kl.measure(3.0, 1.0)
    assert (kl.coef(0), kl.active(0)) == (0, False)


def test_the_initial_coefficient_balances_the_means_of_the_first_steps():
    kl = KLCoefficient(True, 100, 0.0, coef_max=10.0, balance_steps=3)
    for policy_loss, kl_loss in ((0.1, 1e-6), (-0.3, 0.05), (0.2, 0.25)):
        assert kl.coef(0) == 0
        kl.measure(policy_loss, kl_loss)
    assert kl.initial == pytest.approx(0.6 / 0.300001)
    kl.measure(100.0, 1.0)
    assert kl.coef(50) == pytest.approx(0.5 * 0.6 / 0.300001)


def test_without_a_target_the_schedule_ignores_the_entropy():
    weight = EntropyCoefficient(0.5, 0.1, None, None, t_max=100)
    weight.measured = 0.0
    assert [weight.coef(t) for t in (0, 50, 100, 200)] == pytest.approx([0.5, 0.3, 0.1, 0.1])
    assert EntropyCoefficient(0.5, None, None, None, t_max=100).coef(70) == 0.5


def test_the_target_entropy_follows_its_schedule():
    weight = EntropyCoefficient(0.01, None, 1.0, 0.2, t_max=100)
    assert [weight.target(t) for t in (0, 50, 100, 200)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert EntropyCoefficient(0.01, None, 1.0, None, t_max=100).target(70) == 1.0


def test_the_coefficient_grows_below_the_target_and_falls_above_it():
    weight = EntropyCoefficient(0.01, None, 1.0, 0.0, t_max=100)
    assert weight.coef(0) == 0.01  # no entropy measured yet
    weight.measured = 0.75  # a quarter of a nat below
    assert weight.coef(0) == pytest.approx(0.01 * math.exp(GAIN / 4))
    assert weight.coef(25) == pytest.approx(0.01)  # equal to the annealed target
    assert weight.coef(50) == pytest.approx(0.01 / math.exp(GAIN / 4))


def test_the_coefficient_is_bounded():
    weight = EntropyCoefficient(0.01, None, 5.0, None, t_max=100)
    weight.measured = 0.0
    assert weight.coef(0) == MAX_ENTROPY_COEF


def test_the_learner_measures_the_entropy_and_saves_it(new_learner, tiny_args, play, tmp_path):
    changes = {"entropy_target": 0.5, "entropy_coef": 0.02, "epochs": 2}
    learner = new_learner(tiny_args(changes))
    learner.train(play(learner.mac), 0, 0)
    (entropy,) = learner.logger.logged["entropy"]
    assert learner.logger.logged["entropy_coef"] == [0.02]
    assert learner.entropy.coef(0) == pytest.approx(0.02 * math.exp(GAIN * (0.5 - entropy)))
    learner.save_models(tmp_path)
    loaded = new_learner(tiny_args(changes))
    loaded.load_models(tmp_path)
    assert loaded.entropy.coef(0) == learner.entropy.coef(0)
