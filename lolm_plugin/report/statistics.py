"""Statistics of one learning curve, of transfer against learning from scratch, and of many runs.

A curve is a ``Series`` of tests: steps ascending, values such as win rates. The paper (section 5.3) uses jumpstart,
asymptotic performance and the steps to reach it, after Taylor and Stone, "Transfer Learning for Reinforcement
Learning Domains: A Survey", JMLR 10 (2009). That survey also defines the transfer ratio. Neither source says how to
compute these numbers from a curve; each function below states its definition.

Aggregates follow Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021.
``scores`` has one array [..., runs] for each task. Tasks may have different numbers of runs; leading axes are
resamples. The results equal those of rliable (``tests/report/rliable.json``).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from lolm_plugin.report.records import Series

LAST = 0.1  # share of a curve's tests that the asymptote averages
CLOSE = 0.95  # share of the asymptote at which it counts as reached
WINDOW = 3  # tests that are averaged; with 1, a single lucky test would count as reaching the level
RESAMPLES = 2000  # of the bootstrap

Scores = Sequence[np.ndarray]


def untrained(curve: Series) -> float | None:
    """Return the test at step 0 of learning from scratch: the baseline of a jumpstart. None without such a test."""
    return curve.values[0] if curve.steps[0] == 0 else None


def asymptote(curve: Series) -> float:
    """Return the mean of the last tenth of the tests: at least three tests, or all if there are fewer."""
    return float(np.mean(curve.values[-max(WINDOW, round(LAST * len(curve.values))) :]))


def steps_to(level: float, curve: Series) -> int | None:
    """Return the first step at which the mean of the latest three tests (or fewer, early on) is at least ``level``."""
    for index, step in enumerate(curve.steps):
        recent = curve.values[max(0, index + 1 - WINDOW) : index + 1]
        if np.mean(recent) >= level - 1e-12:  # rounding can put a mean of equal numbers below them
            return step
    return None


def steps_to_asymptote(curve: Series) -> int | None:
    """Return the steps to 95 % of the curve's own asymptote. None if the asymptote is 0 or less."""
    end = asymptote(curve)
    return steps_to(CLOSE * end, curve) if end > 0 else None


def speed_up(transfer: Series, scratch: Series) -> float | None:
    """Return steps from scratch divided by steps of the transfer, each to 95 % of the asymptote from scratch.

    None if either never reaches it, or if the transfer reaches it at step 0: then the ratio does not exist.
    """
    end = asymptote(scratch)
    if end <= 0:
        return None
    slow, fast = (steps_to(CLOSE * end, curve) for curve in (scratch, transfer))
    return slow / fast if slow is not None and fast else None


def area(curve: Series, upto: float) -> float:
    """Integrate the curve from its first step to ``upto`` by the trapezoidal rule, with the last value interpolated."""
    steps = np.array([step for step in curve.steps if step < upto] + [upto], dtype=float)
    return float(np.trapezoid(np.interp(steps, curve.steps, curve.values), steps))


def transfer_ratio(transfer: Series, scratch: Series) -> float | None:
    """Return (area under transfer - area under scratch) / area under scratch, over the common steps.

    None if the area from scratch is 0 or less, or if the curves have no steps in common.
    """
    start = max(transfer.steps[0], scratch.steps[0])
    upto = min(transfer.steps[-1], scratch.steps[-1])
    if upto <= start:
        return None
    area_transfer, area_scratch = (area(curve, upto) - area(curve, start) for curve in (transfer, scratch))
    return (area_transfer - area_scratch) / area_scratch if area_scratch > 0 else None


def on_grid(curves: Sequence[Series], points: int = 101) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate curves of several seeds at common steps. Return steps [points] and values [curves, points].

    The grid spans the steps that all curves cover. Raises ValueError if there are none.
    """
    first, last = max(curve.steps[0] for curve in curves), min(curve.steps[-1] for curve in curves)
    if last < first:
        raise ValueError("the curves have no step in common")
    grid = np.linspace(first, last, points if last > first else 1)
    return grid, np.array([np.interp(grid, curve.steps, curve.values) for curve in curves])


class Interval(NamedTuple):
    """Bounds of a confidence interval."""

    low: float
    high: float


def mean(scores: Scores) -> np.ndarray:
    """Return the mean over tasks of the mean over runs."""
    return np.mean([np.mean(task, axis=-1) for task in scores], axis=0)


def median(scores: Scores) -> np.ndarray:
    """Return the median over tasks of the mean over runs."""
    return np.median([np.mean(task, axis=-1) for task in scores], axis=0)


def iqm(scores: Scores) -> np.ndarray:
    """Return the interquartile mean: the mean of the middle half of all runs of all tasks."""
    return stats.trim_mean(np.concatenate(scores, axis=-1), 0.25, axis=-1)


def optimality_gap(scores: Scores, optimum: float = 1.0) -> np.ndarray:
    """Return ``optimum`` minus the mean score. Scores above ``optimum`` count as ``optimum``."""
    return optimum - mean([np.minimum(task, optimum) for task in scores])


def probability_of_improvement(better: Scores, worse: Scores) -> np.ndarray:
    """Return the probability that a run of ``better`` beats one of ``worse``, mean over tasks. A tie counts half.

    For each task this is the Mann-Whitney U statistic divided by the number of pairs.
    """
    pairs = list(zip(better, worse, strict=True))
    tests = [stats.mannwhitneyu(left, right, axis=-1, method="asymptotic") for left, right in pairs]
    shares = [
        test.statistic / (left.shape[-1] * right.shape[-1]) for test, (left, right) in zip(tests, pairs, strict=True)
    ]
    return np.mean(shares, axis=0)


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """Return the share of runs whose score is above each threshold [thresholds], mean over tasks."""
    return np.mean([np.mean(task[:, None] > thresholds, axis=0) for task in scores], axis=0)


def interval(
    statistic: Callable[..., np.ndarray],
    *groups: Scores,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """Compute the percentile bootstrap interval of ``statistic(*groups)``, stratified by task and group.

    None if a task has a single run, because one run does not show the variation between runs.
    """
    if min(len(task) for group in groups for task in group) < 2:
        return None
    generator = np.random.default_rng(seed)
    draws = [[resample(group, generator) for group in groups] for _ in range(resamples)]
    # For each group and task: [resamples, runs].
    drawn = [[np.stack(task) for task in zip(*group, strict=True)] for group in zip(*draws, strict=True)]
    low, high = np.percentile(statistic(*drawn), [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(low), float(high))


def resample(scores: Scores, generator: np.random.Generator) -> list[np.ndarray]:
    """Resample the runs of each task with replacement. The number of runs does not change."""
    return [task[generator.integers(len(task), size=len(task))] for task in scores]
