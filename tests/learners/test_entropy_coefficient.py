"""The coefficient of the entropy bonus: a linear schedule, or led by a target."""

import math

import pytest

from lolm_plugin.learners.entropy_coefficient import GAIN, HIGHEST, EntropyCoefficient


def test_without_a_target_the_weight_is_on_its_line_whatever_the_entropy():
    weight = EntropyCoefficient(0.5, 0.1, None, None, t_max=100)
    weight.measure(0.0)
    assert [weight.coef(t) for t in (0, 50, 100, 200)] == pytest.approx([0.5, 0.3, 0.1, 0.1])
    assert EntropyCoefficient(0.5, None, None, None, t_max=100).coef(70) == 0.5


def test_the_target_goes_down_its_line():
    weight = EntropyCoefficient(0.01, None, 1.0, 0.2, t_max=100)
    assert [weight.target(t) for t in (0, 50, 100, 200)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert EntropyCoefficient(0.01, None, 1.0, None, t_max=100).target(70) == 1.0


def test_the_weight_grows_below_the_target_and_falls_above_it_by_hand():
    weight = EntropyCoefficient(0.01, None, 1.0, 0.0, t_max=100)
    assert weight.coef(0) == 0.01  # nothing measured yet
    weight.measure(0.75)  # a quarter of a nat below
    assert weight.coef(0) == pytest.approx(0.01 * math.exp(GAIN / 4))
    assert weight.coef(25) == pytest.approx(0.01)  # the target has come down to it
    assert weight.coef(50) == pytest.approx(0.01 / math.exp(GAIN / 4))


def test_the_weight_does_not_grow_without_bound():
    weight = EntropyCoefficient(0.01, None, 5.0, None, t_max=100)
    weight.measure(0.0)
    assert weight.coef(0) == HIGHEST


def test_a_learner_measures_each_update_and_saves_what_it_measured(new_learner, tiny_args, play, tmp_path):
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
