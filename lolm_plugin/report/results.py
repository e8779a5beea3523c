"""The runs below a folder, sorted into what a report compares."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from lolm_plugin.report.lines import Lines
from lolm_plugin.report.records import RunRecord, Series

WIN_RATE, RETURN = "test_battle_won_mean", "test_return_mean"
METRICS = {WIN_RATE: "test win rate", RETURN: "test return"}
ABLATIONS = ("lolm_mappo_no_kl", "lolm_mappo_static_prompt", "transformer_mappo")
WHOLE = "lolm_mappo"  # what they are ablations of

Group = dict[str, list[RunRecord]]  # runs of one comparison, by line


@dataclass
class Results:
    """Runs that count, by place and line. A place is a map, or a source map and a target map.

    A line is an algorithm with one set of settings, named by what differs (see lines.py). Of a line at a place each
    seed counts once: the same run again is no further evidence.
    """

    runs: list[RunRecord]  # all of them, whether they count or not
    metric: str  # what is compared: win rates, or returns where no run has a win rate
    lines: Lines
    unusable: Sequence[str] = ()  # a sentence for each record that could not be read
    left_out: dict[Path, str] = field(default_factory=dict)  # records that are in no number, and why
    scratch: dict[str, Group] = field(default_factory=dict)
    zero_shot: dict[tuple[str, str], Group] = field(default_factory=dict)
    few_shot: dict[tuple[str, str], Group] = field(default_factory=dict)

    @property
    def algorithms(self) -> list[str]:
        """The names of all lines: the language models first, then by name."""
        names = {
            name for groups in (self.scratch, self.zero_shot, self.few_shot) for g in groups.values() for name in g
        }
        return sorted(names, key=lambda name: (not name.startswith("lolm"), name))

    @property
    def unfinished(self) -> list[RunRecord]:
        """Those that did not end well or still go on."""
        return [run for run in self.runs if not run.is_whole]

    @property
    def counted(self) -> list[RunRecord]:
        """Those that the numbers are made of."""
        return [run for run in self.runs if run.folder not in self.left_out]

    @property
    def what(self) -> str:
        """The metric in words."""
        return METRICS[self.metric]

    def curves(self, runs: Iterable[RunRecord], metric: str = "") -> list[Series]:
        """The tests of those runs that have any."""
        found = (run.series.get(metric or self.metric) for run in runs)
        return [series for series in found if series is not None]

    def scratch_for(self, runs: Sequence[RunRecord], place: str) -> list[RunRecord]:
        """Return the runs from scratch at ``place`` that the few-shot ``runs`` of one line are compared with.

        They are the runs of the line with the same settings or, if the algorithm has only one line there, of that line.
        """
        there = self.scratch.get(place, {})
        same = self.lines.name(runs[0], "scratch")
        own = [name for name, group in there.items() if group[0].algorithm == runs[0].algorithm]
        return there[same] if same in own else there[own[0]] if len(own) == 1 else []

    def played(self, runs: Iterable[RunRecord]) -> list[float]:
        """What evaluations came to, each the mean of its tests."""
        return [float(np.mean(curve.values)) for curve in self.curves(runs)]


def sort(runs: Sequence[RunRecord], unusable: Sequence[str] = ()) -> Results:
    """Runs in the order of algorithm, map, seed and time, whatever folder they lie in, and which of them count."""
    ordered = sorted(runs, key=lambda run: (*_place(run), run.seed, run.started.isoformat() if run.started else ""))
    compared = [run for run in ordered if run.is_whole and run.kind != "evaluation"]
    metric = WIN_RATE if any(WIN_RATE in run.series for run in compared) else RETURN
    usable = [run for run in compared if not _unusable(run, metric)]
    lines = Lines([(_place(run), run) for run in usable])
    results = Results(ordered, metric, lines, unusable)
    latest = {_identity(run, lines): run.folder for run in usable}
    several = len({run.env for run in runs}) > 1
    for run in ordered:
        why = _unusable(run, metric)
        if not why and latest[_identity(run, lines)] != run.folder:
            why = "the same seed again, of which the last run counts"
        if why:
            results.left_out[run.folder] = why
            continue
        place, line = f"{run.env} {run.map_name}" if several else run.map_name, lines.name(run)
        if run.kind == "scratch":
            results.scratch.setdefault(place, {}).setdefault(line, []).append(run)
        else:
            groups = results.zero_shot if run.kind == "zero_shot" else results.few_shot
            groups.setdefault((run.source_map or "?", place), {}).setdefault(line, []).append(run)
    return results


def _place(run: RunRecord) -> tuple[str, str, str, str, str]:
    return run.env, run.map_name, run.source_map or "", run.kind, run.algorithm


def _identity(run: RunRecord, lines: Lines) -> tuple[object, ...]:
    """Runs that have this in common are one run, made twice."""
    return (*_place(run), lines.name(run), run.seed, str(run.config.get("transfer_from") or ""))


def _unusable(run: RunRecord, metric: str) -> str:
    """Why no number can be read off a run; empty where one can."""
    if run.status != "COMPLETED":
        return run.status.lower() + (f" ({run.reason})" if run.reason else "")
    if run.defect:
        return f"completed, but {run.defect}"
    if run.kind == "evaluation":
        return "an evaluation, which is compared with nothing"
    if metric not in run.series:
        return f"no {METRICS[metric]}"
    if not np.isfinite(run.series[metric].values).all():
        return f"a {METRICS[metric]} that is not finite"
    if any(later < step for step, later in pairwise(run.series[metric].steps)):
        return f"a {METRICS[metric]} whose steps go back"
    return ""
