"""Numbers of curves, checked by hand; aggregates over seeds and tasks, checked by hand and against rliable."""

import json
from pathlib import Path

import numpy as np
import pytest

from lolm_plugin.report import statistics
from lolm_plugin.report.records import Series

RLIABLE = json.loads(Path(__file__).with_name("rliable.json").read_text())  # make_rliable_json.py
X, Y = ([np.array(task) for task in zip(*RLIABLE[name], strict=True)] for name in ("x", "y"))


def arrays(*tasks):
    return [np.array(task, dtype=float) for task in tasks]


@pytest.mark.parametrize("name", ["mean", "median", "iqm", "optimality_gap"])
def test_point_estimates_equal_rliable(name):
    assert getattr(statistics, name)(X) == pytest.approx(RLIABLE[name], abs=1e-6)


def test_iqm_with_ties_equals_rliable():
    assert statistics.iqm(Y) == pytest.approx(RLIABLE["iqm_y"], abs=1e-6)


def test_probability_of_improvement_equals_rliable():
    assert statistics.probability_of_improvement(X, Y) == pytest.approx(RLIABLE["probability_of_improvement"], abs=1e-6)


def test_performance_profile_equals_rliable():
    computed = statistics.performance_profile(X, np.array(RLIABLE["taus"]))
    assert computed == pytest.approx(np.array(RLIABLE["profile"]), abs=1e-6)


@pytest.mark.parametrize(
    ("draws", "wanted", "statistic", "groups"),
    [
        ("draws", "iqm_interval", statistics.iqm, [X]),
        ("pair_draws", "improvement_interval", statistics.probability_of_improvement, [X, Y]),
    ],
)
def test_intervals_from_the_same_resamples_equal_rliable(monkeypatch, draws, wanted, statistic, groups):
    remaining = iter([np.array(indices).T for draw in RLIABLE[draws] for indices in draw])
    monkeypatch.setattr(
        statistics,
        "resample",
        lambda scores, generator: [task[drawn] for task, drawn in zip(scores, next(remaining), strict=True)],
    )
    computed = statistics.interval(statistic, *groups, resamples=len(RLIABLE[draws]))
    assert list(computed) == pytest.approx(RLIABLE[wanted], abs=1e-6)
    assert next(remaining, None) is None


def test_aggregates_by_hand():
    scores = arrays([0, 1], [1, 1, 1, 0.2])
    assert statistics.mean(scores) == pytest.approx((0.5 + 0.8) / 2)
    assert statistics.median(arrays([0], [1], [0.3])) == 0.3
    assert statistics.iqm(arrays([0, 1, 2, 3], [4, 5, 6, 100])) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert statistics.optimality_gap(arrays([0.5, 2.0])) == pytest.approx(0.25)
    assert statistics.probability_of_improvement(arrays([1, 2]), arrays([2, 0, 0])) == pytest.approx(4.5 / 6)
    assert statistics.performance_profile(scores, np.array([0.0, 0.5])).tolist() == [0.75, 0.625]


def test_one_run_has_no_interval():
    assert statistics.interval(statistics.mean, arrays([0.5])) is None
    assert statistics.interval(statistics.mean, arrays([0.5, 0.6], [0.5])) is None
    assert statistics.interval(statistics.probability_of_improvement, arrays([1, 2]), arrays([1])) is None


def test_an_interval_contains_the_estimate_narrows_with_runs_and_is_reproducible():
    generator = np.random.default_rng(0)
    few, many = arrays(generator.normal(size=5)), arrays(generator.normal(size=500))
    low, high = statistics.interval(statistics.mean, few)
    assert low < statistics.mean(few) < high
    narrow = statistics.interval(statistics.mean, many)
    assert narrow.high - narrow.low < (high - low) / 3
    # The width of a 95 % interval is twice 1.96 standard errors of the mean of 500 normal numbers.
    assert narrow.high - narrow.low == pytest.approx(2 * 1.96 / 500**0.5, rel=0.15)
    assert statistics.interval(statistics.mean, few) == (low, high)
    assert statistics.interval(statistics.mean, few, seed=1) != (low, high)


def test_runs_are_resampled_within_their_task():
    drawn = statistics.resample(arrays([1, 2, 3], [10, 20]), np.random.default_rng(0))
    assert [len(task) for task in drawn] == [3, 2]
    assert set(drawn[0]) <= {1, 2, 3}
    assert set(drawn[1]) <= {10, 20}


# --- One curve ---

RISING = Series((0, 10, 20, 30, 40), (0.0, 0.2, 0.4, 0.8, 0.8))
FLAT = Series((0, 10, 20, 30, 40), (0.0, 0.0, 0.0, 0.0, 0.0))
HEAD_START = Series((0, 10, 20, 30, 40), (0.6, 0.8, 0.8, 0.8, 0.8))


def test_the_untrained_policy_is_tested_at_step_0():
    assert statistics.untrained(Series((0, 9), (0.3, 0.5))) == 0.3
    assert statistics.untrained(Series((9, 18), (0.3, 0.5))) is None  # tested after an update


def test_the_asymptote_is_the_mean_of_the_last_tenth_or_of_three_tests():
    assert statistics.asymptote(RISING) == pytest.approx(2 / 3)
    fifty = Series(tuple(range(50)), (*[0.0] * 45, 0.1, 0.2, 0.3, 0.5, 0.7))
    assert statistics.asymptote(fifty) == pytest.approx(0.36)
    assert statistics.asymptote(Series((0,), (0.5,))) == 0.5


def test_a_level_is_reached_by_the_mean_of_three_tests():
    lucky = Series((0, 1, 2, 3, 4, 5), (0.0, 0.9, 0.0, 0.9, 0.9, 0.9))
    assert statistics.steps_to(0.9, lucky) == 5
    assert statistics.steps_to(0.6, lucky) == 3
    assert statistics.steps_to(0.0, lucky) == 0
    assert statistics.steps_to(0.95, lucky) is None


def test_steps_to_the_asymptote():
    # Means of three tests: 0, .1, .2, .4667, .6667, .8. The levels are .95 of .6667 and .95 of .8.
    assert statistics.steps_to_asymptote(RISING) == 40
    longer = Series((*RISING.steps, 50), (*RISING.values, 0.8))
    assert statistics.steps_to_asymptote(longer) == 50
    assert statistics.steps_to_asymptote(FLAT) is None


def test_speed_up():
    scratch = Series((*RISING.steps, 50), (*RISING.values, 0.8))
    # Means of up to three tests: .6, .7, .7333, .8. The level is .95 of .8.
    assert statistics.speed_up(HEAD_START, scratch) == pytest.approx(50 / 30)
    assert statistics.speed_up(FLAT, scratch) is None
    assert statistics.speed_up(HEAD_START, FLAT) is None
    assert statistics.speed_up(Series((0, 10), (0.8, 0.8)), scratch) is None


def test_areas():
    assert statistics.area(RISING, 20) == pytest.approx(10 * (0.1 + 0.3))
    assert statistics.area(RISING, 25) == pytest.approx(4 + 5 * (0.4 + 0.6) / 2)


def test_the_transfer_ratio_is_over_common_steps():
    short = Series((0, 10, 20), (0.6, 0.8, 0.8))
    assert statistics.transfer_ratio(short, RISING) == pytest.approx((15 - 4) / 4)
    later = Series((10, 20, 30), (0.8, 0.8, 0.8))
    assert statistics.transfer_ratio(later, RISING) == pytest.approx((16 - 9) / 9)
    assert statistics.transfer_ratio(RISING, FLAT) is None
    assert statistics.transfer_ratio(Series((50, 60), (1.0, 1.0)), RISING) is None


def test_the_common_grid_covers_the_steps_of_all_seeds():
    grid, values = statistics.on_grid([Series((0, 10), (0.0, 1.0)), Series((2, 6, 8), (0.0, 0.4, 1.0))], points=4)
    assert grid == pytest.approx([2, 4, 6, 8])
    assert values == pytest.approx(np.array([[0.2, 0.4, 0.6, 0.8], [0.0, 0.2, 0.4, 1.0]]))
    with pytest.raises(ValueError, match="no step in common"):
        statistics.on_grid([Series((0, 1), (0, 0)), Series((2, 3), (0, 0))])
    assert statistics.on_grid([Series((5,), (0.5,))])[1].tolist() == [[0.5]]
