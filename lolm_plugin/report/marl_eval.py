"""Export runs as JSON for marl-eval's plots, nested as environment, task, algorithm, run, step.

Gorsane et al., "Towards a Standardised Performance Evaluation Protocol for Cooperative MARL", NeurIPS 2022.
"""

from typing import Any

from lolm_plugin.report.records import Series
from lolm_plugin.report.results import Results

NAMES = {"test_battle_won_mean": "win_rate", "test_return_mean": "return"}


def export(results: Results) -> dict[str, Any]:
    """Export the tests of every counted run that learned from scratch.

    ``absolute_metrics`` are the values of the last test. The protocol asks for ten times as many battles with the best
    policy; the plugin does not play these.
    """
    tree: dict[str, Any] = {}
    for run in results.of_kind("scratch")["run"]:
        line = tree.setdefault(run.env, {}).setdefault(run.map_name, {}).setdefault(results.lines.name(run), {})
        line[f"seed_{run.seed}"] = _steps({NAMES[key]: run.series[key] for key in NAMES if key in run.series})
    return tree


def _steps(series: dict[str, Series]) -> dict[str, Any]:
    values = {name: dict(zip(curve.steps, curve.values, strict=True)) for name, curve in series.items()}
    steps = sorted({step for by_step in values.values() for step in by_step})
    content: dict[str, Any] = {
        f"step_{number}": {
            "step_count": step,
            **{name: [by_step[step]] for name, by_step in values.items() if step in by_step},
        }
        for number, step in enumerate(steps)
    }
    return {**content, "absolute_metrics": {name: [curve.values[-1]] for name, curve in series.items()}}
