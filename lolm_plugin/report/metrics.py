"""Numbers of one learning curve, and of a transfer against learning from scratch.

The paper (section 5.3) names jumpstart, asymptotic performance and the steps until it is reached, after Taylor and
Stone, "Transfer Learning for Reinforcement Learning Domains: A Survey", JMLR 10 (2009), who add the transfer ratio. How
a number is read off a curve neither says; what is chosen here stands with each function. A curve is a ``Series`` of
tests: steps ascending, values such as win rates.
"""

from collections.abc import Sequence

import numpy as np

from lolm_plugin.report.records import Series

LAST = 0.1  # the share of a curve's tests that counts as its end
CLOSE = 0.95  # the share of the asymptote at which it counts as reached
WINDOW = 3  # tests that are averaged, so that one lucky test reaches nothing


def final(curve: Series) -> float:
    """The last test."""
    return curve.values[-1]


def best(curve: Series) -> float:
    """The highest test: optimistic, the more so the more tests there are."""
    return max(curve.values)


def jumpstart(curve: Series) -> float:
    """The first test, which a transfer plays before its first update."""
    return curve.values[0]


def untrained(curve: Series) -> float | None:
    """The test at step 0 of learning from scratch: the zero of a jumpstart. None where the first test came later."""
    return curve.values[0] if curve.steps[0] == 0 else None


def asymptote(curve: Series) -> float:
    """The mean of the last tenth of the tests, three at least, or of all where there are fewer."""
    return float(np.mean(curve.values[-max(WINDOW, round(LAST * len(curve.values))) :]))


def steps_to(level: float, curve: Series) -> int | None:
    """The first step at which the mean of up to three tests, this one and those before, is at least ``level``."""
    for place, step in enumerate(curve.steps):
        recent = curve.values[max(0, place + 1 - WINDOW) : place + 1]
        if np.mean(recent) >= level - 1e-12:  # a mean of equal numbers may come out below them
            return step
    return None


def steps_to_asymptote(curve: Series) -> int | None:
    """Steps to 95 % of the curve's own asymptote; None where that is 0 or less."""
    end = asymptote(curve)
    return steps_to(CLOSE * end, curve) if end > 0 else None


def speed_up(transfer: Series, scratch: Series) -> float | None:
    """How many times fewer steps the transfer takes to 95 % of what is reached from scratch.

    None where either never gets there or the transfer is there before its first step, so that no ratio exists.
    """
    end = asymptote(scratch)
    if end <= 0:
        return None
    slow, fast = (steps_to(CLOSE * end, curve) for curve in (scratch, transfer))
    return slow / fast if slow is not None and fast else None


def area(curve: Series, upto: float) -> float:
    """The area under the curve from its first step to ``upto``, by trapezia, the end of the last one interpolated."""
    steps = np.array([step for step in curve.steps if step < upto] + [upto], dtype=float)
    values = np.interp(steps, curve.steps, curve.values)
    return float(np.trapezoid(values, steps))


def transfer_ratio(transfer: Series, scratch: Series) -> float | None:
    """(area under transfer - area under scratch) / area under scratch, over the steps that both have.

    Each curve starts at its first test. None where nothing was learned from scratch, or no step is common.
    """
    start = max(transfer.steps[0], scratch.steps[0])
    upto = min(transfer.steps[-1], scratch.steps[-1])
    if upto <= start:
        return None
    grown, alone = (area(curve, upto) - area(curve, start) for curve in (transfer, scratch))
    return (grown - alone) / alone if alone > 0 else None


def on_grid(curves: Sequence[Series], points: int = 101) -> tuple[np.ndarray, np.ndarray]:
    """Curves of several seeds at common steps: steps [points] and values [curves, points], interpolated.

    The grid spans what all curves have, so that none is continued beyond its tests.
    """
    first, last = max(curve.steps[0] for curve in curves), min(curve.steps[-1] for curve in curves)
    if last < first:
        raise ValueError("the curves have no step in common")
    grid = np.linspace(first, last, points if last > first else 1)
    return grid, np.array([np.interp(grid, curve.steps, curve.values) for curve in curves])
