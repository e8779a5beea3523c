"""Runs as the JSON that marl-eval's plots read: environment, task, algorithm, run, step.

Gorsane et al., "Towards a Standardised Performance Evaluation Protocol for Cooperative MARL", NeurIPS 2022.
"""

from collections.abc import Callable, Iterable
from typing import Any

from lolm_plugin.report.records import RunRecord

NAMES = {"test_battle_won_mean": "win_rate", "test_return_mean": "return"}


def export(runs: Iterable[RunRecord], line: Callable[[RunRecord], str] = lambda run: run.algorithm) -> dict[str, Any]:
    """Tests of every run that learned from scratch; ``line`` says what its algorithm is called.

    ``absolute_metrics`` are the last test's: the protocol's ten times as many battles with the best policy are not
    played here. A seed that comes twice is numbered.
    """
    tree: dict[str, Any] = {}
    for run in runs:
        series = {name: run.series[key] for key, name in NAMES.items() if key in run.series}
        if run.kind != "scratch" or not series:
            continue
        algorithm = tree.setdefault(run.env, {}).setdefault(run.map_name, {}).setdefault(line(run), {})
        again = sum(name.split("_")[1] == str(run.seed) for name in algorithm)
        algorithm[f"seed_{run.seed}" + (f"_{again + 1}" if again else "")] = _steps(series)
    return tree


def _steps(series: dict[str, Any]) -> dict[str, Any]:
    steps = sorted({step for one in series.values() for step in one.steps})
    values = {name: dict(zip(one.steps, one.values, strict=True)) for name, one in series.items()}
    content: dict[str, Any] = {}
    for place, step in enumerate(steps):
        measured = {name: [found[step]] for name, found in values.items() if step in found}
        content[f"step_{place}"] = {"step_count": step, **measured}
    content["absolute_metrics"] = {name: [one.values[-1]] for name, one in series.items()}
    return content
