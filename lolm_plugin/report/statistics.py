"""What several seeds and maps say together, and how sure it is.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021. ``scores`` are one
array of runs' scores for each task; tasks may have different numbers of runs. The numbers are rliable's
(``tests/report/rliable.json``), without the packages that it pins.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Scores = Sequence[np.ndarray]
RESAMPLES = 2000


class Interval(NamedTuple):
    """From ``low`` to ``high``."""

    low: float
    high: float


def mean(scores: Scores) -> float:
    """The mean over tasks of the mean over runs."""
    return float(np.mean([np.mean(task) for task in scores]))


def median(scores: Scores) -> float:
    """The median over tasks of the mean over runs."""
    return float(np.median([np.mean(task) for task in scores]))


def iqm(scores: Scores) -> float:
    """The interquartile mean: of all runs of all tasks, the middle half's."""
    values = np.sort(np.concatenate([np.asarray(task, dtype=float) for task in scores]))
    cut = len(values) // 4
    return float(values[cut : len(values) - cut].mean())


def optimality_gap(scores: Scores, optimum: float = 1.0) -> float:
    """How much is missing to ``optimum`` on average, more than it counting as it."""
    return float(optimum - np.mean([np.mean(np.minimum(task, optimum)) for task in scores]))


def probability_of_improvement(better: Scores, worse: Scores) -> float:
    """How likely a run of ``better`` beats one of ``worse`` on a task, mean over tasks; a tie counts half.

    It is Mann and Whitney's U by the number of pairs.
    """
    shares = []
    for left, right in zip(better, worse, strict=True):
        difference = np.subtract.outer(np.asarray(left, dtype=float), np.asarray(right, dtype=float))
        shares.append(np.mean((difference > 0) + 0.5 * (difference == 0)))
    return float(np.mean(shares))


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """The share of runs whose score is above each threshold, mean over tasks: [thresholds]."""
    return np.mean([np.mean(np.asarray(task)[:, None] > thresholds, axis=0) for task in scores], axis=0)


def interval(
    statistic: Callable[..., float], *groups: Scores, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """The percentile bootstrap interval of ``statistic(*groups)``, runs drawn anew within each task and group.

    None where a task has a single run: one run says nothing about how others would come out.
    """
    if min(len(task) for group in groups for task in group) < 2:
        return None
    generator = np.random.default_rng(seed)
    values = [statistic(*(resample(group, generator) for group in groups)) for _ in range(resamples)]
    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(low), float(high))


def resample(scores: Scores, generator: np.random.Generator) -> list[np.ndarray]:
    """As many runs of each task as there are, drawn with replacement."""
    return [np.asarray(task)[generator.integers(len(task), size=len(task))] for task in scores]
