"""Aggregates over seeds and tasks: by hand, and against rliable's on the same arrays."""

import json
from pathlib import Path

import numpy as np
import pytest

from lolm_plugin.report import statistics

RLIABLE = json.loads(Path(__file__).with_name("rliable.json").read_text())  # make_rliable_json.py
X, Y = ([np.array(task) for task in zip(*RLIABLE[name], strict=True)] for name in ("x", "y"))


def arrays(*tasks):
    return [np.array(task, dtype=float) for task in tasks]


@pytest.mark.parametrize("name", ["mean", "median", "iqm", "optimality_gap"])
def test_rliables_point_estimates(name):
    assert getattr(statistics, name)(X) == pytest.approx(RLIABLE[name], abs=1e-6)


def test_rliables_iqm_with_other_numbers_and_ties():
    assert statistics.iqm(Y) == pytest.approx(RLIABLE["iqm_y"], abs=1e-6)


def test_rliables_probability_of_improvement():
    assert statistics.probability_of_improvement(X, Y) == pytest.approx(RLIABLE["probability_of_improvement"], abs=1e-6)


def test_rliables_performance_profile():
    found = statistics.performance_profile(X, np.array(RLIABLE["taus"]))
    assert found == pytest.approx(np.array(RLIABLE["profile"]), abs=1e-6)


@pytest.mark.parametrize(
    ("draws", "wanted", "statistic", "groups"),
    [
        ("draws", "iqm_interval", statistics.iqm, [X]),
        ("pair_draws", "improvement_interval", statistics.probability_of_improvement, [X, Y]),
    ],
)
def test_rliables_intervals_from_the_same_draws(monkeypatch, draws, wanted, statistic, groups):
    remaining = iter([np.array(indices).T for draw in RLIABLE[draws] for indices in draw])
    monkeypatch.setattr(
        statistics,
        "resample",
        lambda scores, generator: [task[drawn] for task, drawn in zip(scores, next(remaining), strict=True)],
    )
    found = statistics.interval(statistic, *groups, resamples=len(RLIABLE[draws]))
    assert list(found) == pytest.approx(RLIABLE[wanted], abs=1e-6)
    assert next(remaining, None) is None


def test_by_hand():
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


def test_an_interval_holds_the_estimate_narrows_with_runs_and_repeats():
    generator = np.random.default_rng(0)
    few, many = arrays(generator.normal(size=5)), arrays(generator.normal(size=500))
    low, high = statistics.interval(statistics.mean, few)
    assert low < statistics.mean(few) < high
    narrow = statistics.interval(statistics.mean, many)
    assert narrow.high - narrow.low < (high - low) / 3
    # The standard error of a mean of 500 normal numbers, for 95 % twice 1.96 of it.
    assert narrow.high - narrow.low == pytest.approx(2 * 1.96 / 500**0.5, rel=0.15)
    assert statistics.interval(statistics.mean, few) == (low, high)
    assert statistics.interval(statistics.mean, few, seed=1) != (low, high)


def test_runs_are_drawn_within_their_task():
    drawn = statistics.resample(arrays([1, 2, 3], [10, 20]), np.random.default_rng(0))
    assert [len(task) for task in drawn] == [3, 2]
    assert set(drawn[0]) <= {1, 2, 3}
    assert set(drawn[1]) <= {10, 20}
