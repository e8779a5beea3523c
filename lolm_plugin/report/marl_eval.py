"""Runs as the JSON that marl-eval's plots read: environment, task, algorithm, run, step.

Gorsane et al., "Towards a Standardised Performance Evaluation Protocol for Cooperative MARL", NeurIPS 2022.
"""

from typing import Any

from lolm_plugin.report.records import Series
from lolm_plugin.report.results import Results

NAMES = {"test_battle_won_mean": "win_rate", "test_return_mean": "return"}


def export(results: Results) -> dict[str, Any]:
    """Export the tests of every counted run that learned from scratch.

    ``absolute_metrics`` are the last test's: the protocol's ten times as many battles with the best policy are not
    played here.
    """
    tree: dict[str, Any] = {}
    for run in results.of("scratch")["run"]:
        line = tree.setdefault(run.env, {}).setdefault(run.map_name, {}).setdefault(results.lines.name(run), {})
        line[f"seed_{run.seed}"] = _steps({NAMES[key]: run.series[key] for key in NAMES if key in run.series})
    return tree


def _steps(series: dict[str, Series]) -> dict[str, Any]:
    values = {name: dict(zip(one.steps, one.values, strict=True)) for name, one in series.items()}
    steps = sorted({step for known in values.values() for step in known})
    content: dict[str, Any] = {
        f"step_{number}": {
            "step_count": step,
            **{name: [known[step]] for name, known in values.items() if step in known},
        }
        for number, step in enumerate(steps)
    }
    return {**content, "absolute_metrics": {name: [one.values[-1]] for name, one in series.items()}}
