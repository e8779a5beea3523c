"""Select the runs that count and group them into lines: runs of one algorithm with the same settings.

The name of a line contains the settings that differ from other lines of the algorithm.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lolm_plugin.configuration import experiment
from lolm_plugin.report import statistics
from lolm_plugin.report.records import Kind, RunRecord
from lolm_plugin.tracking.record_files import shown

WIN_RATE, RETURN = "test_battle_won_mean", "test_return_mean"
METRICS = {WIN_RATE: "test win rate", RETURN: "test return"}
SHOWN = 4  # settings in a line's name; if more differ, the name has three of them and a checksum of all
VALUE = 40  # characters of a value in a line's name
NOT_RECORDED = "not recorded"
SOURCE = "source."  # prefix of the settings of a transfer's source run


class Lines:
    """Names of lines, from the settings that differ between runs of one algorithm and kind on one task.

    A setting that differs only between maps, such as the length of a schedule, is ignored. So a line has the same name
    on all maps.
    """

    def __init__(self, runs: Sequence[RunRecord]) -> None:
        self._settings = {run.folder: _settings(run) for run in runs}
        tasks: dict[tuple[str, ...], list[RunRecord]] = {}
        for run in runs:
            tasks.setdefault(_task(run), []).append(run)
        differing: dict[tuple[str, str], set[str]] = {}
        for group in tasks.values():
            differing.setdefault((group[0].algorithm, group[0].kind), set()).update(self._differing(group))
        self.differing = {key: sorted(settings) for key, settings in differing.items()}
        self._meanings: dict[str, str] = {}

    def name(self, run: RunRecord, kind: str = "") -> str:
        """Return the name of a run's line. With ``kind``, name the line of that kind with the same settings."""
        values = self.values(run, kind)
        words = [f"{key}={_short(value)}" for key, value in values.items()]
        if len(words) > SHOWN:
            further = len(words) - SHOWN + 1
            words = [*words[: SHOWN - 1], f"{further} further settings {_checksum(experiment.text(values))}"]
        name, meaning = ", ".join([run.algorithm, *words]), experiment.text(values)
        # The text "1" and the number 1 look the same in a name; the checksum distinguishes them.
        return name if self._meanings.setdefault(name, meaning) == meaning else f"{name} {_checksum(meaning)}"

    def values(self, run: RunRecord, kind: str = "") -> dict[str, Any]:
        """Return the settings of ``run`` that differ between lines."""
        settings = self._settings.get(run.folder) or _settings(run)
        keys = self.differing.get((run.algorithm, kind or run.kind), [])
        return {key: settings.get(key, NOT_RECORDED) for key in keys}

    def _differing(self, group: Sequence[RunRecord]) -> set[str]:
        settings = [self._settings[run.folder] for run in group]
        keys = {key for one in settings for key in one}
        if not all(run.source_settings for run in group):  # older records do not have them
            keys = {key for key in keys if not key.startswith(SOURCE)}
        return {key for key in keys if len({experiment.text(one.get(key, NOT_RECORDED)) for one in settings}) > 1}


@dataclass
class Results:
    """The runs below a folder, and the ones that count.

    ``counted`` has a row for each run that counts. A repeated run is no new evidence, so each seed of a line counts
    once per task. Columns: kind, source (the map of a transfer's source run), map, task (the map, or "source → map"),
    line, algorithm, seed, run (RunRecord), curve (Series of tests), steps (the last step), final, asymptote, best,
    first, played (mean of the tests), untrained and steps_to_asymptote (both may be NaN).
    """

    runs: list[RunRecord]  # all runs, counted or not
    metric: str  # the win rate, or the return if no run has a win rate
    lines: Lines
    counted: pd.DataFrame
    excluded: dict[Path, str]  # record that does not count -> reason
    unusable: Sequence[str]  # a sentence for each record that could not be read

    @property
    def algorithms(self) -> list[str]:
        """Return the names of all lines: language models first, then by name."""
        return _ordered(self.counted["line"])

    @property
    def unfinished(self) -> list[RunRecord]:
        """Return the runs that failed, were interrupted, still run, or have an incomplete record."""
        return [run for run in self.runs if not run.is_complete]

    @property
    def metric_title(self) -> str:
        """Return the metric's name for a reader."""
        return METRICS[self.metric]

    def of_kind(self, kind: Kind) -> pd.DataFrame:
        """Return the counted runs of a kind, ordered by task and line."""
        return self.counted[self.counted["kind"] == kind]

    def scratch_for(self, line: pd.DataFrame) -> pd.DataFrame:
        """Return the runs from scratch on the target map, for comparison with the few-shot runs of one line.

        These runs have the same settings. If the algorithm has only one line on the target, they are its runs.
        """
        run, target = line["run"].iloc[0], line["map"].iloc[0]
        scratch = self.of_kind("scratch")
        scratch = scratch[(scratch["map"] == target) & (scratch["algorithm"] == run.algorithm)]
        same = scratch[scratch["line"] == self.lines.name(run, "scratch")]
        return same if len(same) or scratch["line"].nunique() > 1 else scratch


def select(runs: Sequence[RunRecord], unusable: Sequence[str] = ()) -> Results:
    """Select the runs that count, ordered by environment, map, kind, algorithm, seed and time."""
    ordered = sorted(runs, key=lambda run: (*_task(run), run.seed, run.started.isoformat() if run.started else ""))
    compared = [run for run in ordered if run.is_complete and run.kind != "evaluation"]
    metric = WIN_RATE if any(WIN_RATE in run.series for run in compared) else RETURN
    excluded = {run.folder: why for run in ordered if (why := _why_not(run, metric))}
    usable = [run for run in compared if run.folder not in excluded]
    lines = Lines(usable)
    # Runs with equal values here are repetitions of one run.
    same = {
        run.folder: (*_task(run), lines.name(run), run.seed, str(run.config.get("transfer_from"))) for run in usable
    }
    latest = {same[run.folder]: run.folder for run in usable}
    for run in usable:
        if latest[same[run.folder]] != run.folder:
            excluded[run.folder] = "this seed was run again, and only the last run counts"
    several = len({run.env for run in runs}) > 1
    counted = pd.DataFrame([_row(run, metric, lines, several) for run in usable if run.folder not in excluded])
    if len(counted):
        tasks, names = list(counted["task"]), _ordered(counted["line"])
        counted = counted.sort_values(
            ["task", "line"], key=lambda c: c.map((tasks if c.name == "task" else names).index)
        )
    else:
        counted = pd.DataFrame(columns=["kind", "task", "line", "run"])
    return Results(ordered, metric, lines, counted, excluded, unusable)


def _row(run: RunRecord, metric: str, lines: Lines, several_envs: bool) -> dict[str, Any]:
    map_name = f"{run.env} {run.map_name}" if several_envs else run.map_name
    source = run.source_map or "?"
    curve = run.series[metric]
    return {
        "kind": run.kind,
        "source": source,
        "map": map_name,
        "task": map_name if run.kind == "scratch" else f"{source} → {map_name}",
        "line": lines.name(run),
        "algorithm": run.algorithm,
        "seed": run.seed,
        "run": run,
        "curve": curve,
        "steps": curve.steps[-1],
        "final": curve.values[-1],
        "asymptote": statistics.asymptote(curve),
        "best": max(curve.values),
        "first": curve.values[0],
        "played": float(np.mean(curve.values)),
        "untrained": statistics.untrained(curve),
        "steps_to_asymptote": statistics.steps_to_asymptote(curve),
    }


def _why_not(run: RunRecord, metric: str) -> str:
    """Return why a run does not count; empty if it does."""
    if run.status != "COMPLETED":
        return run.status.lower() + (f" ({run.reason})" if run.reason else "")
    if run.defect:
        return f"completed, but {run.defect}"
    if run.kind == "evaluation":
        return "an evaluation, and evaluations are not compared"
    if metric not in run.series:
        return f"no {METRICS[metric]}"
    if not np.isfinite(run.series[metric].values).all():
        return f"a {METRICS[metric]} that is not finite"
    if any(later < step for step, later in pairwise(run.series[metric].steps)):
        return f"a {METRICS[metric]} whose steps decrease"
    return ""


def _task(run: RunRecord) -> tuple[str, str, str, str, str]:
    return run.env, run.map_name, run.source_map or "", run.kind, run.algorithm


def _ordered(lines: pd.Series) -> list[str]:
    return sorted(set(lines), key=lambda name: (not name.startswith("lolm"), name))


def _settings(run: RunRecord) -> dict[str, Any]:
    source: Mapping[str, Any] = run.source_settings or {}
    return {**experiment.settings(run.first_config), **{f"{SOURCE}{key}": value for key, value in source.items()}}


def _short(value: Any) -> str:
    """Format a value as on a command line. A long value is cut and gets a checksum."""
    text = value if isinstance(value, str) else "null" if value is None else f"{value}"
    return shown(text) if len(text) <= VALUE else f"{shown(text[: VALUE - 8])}… {_checksum(text)}"


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
