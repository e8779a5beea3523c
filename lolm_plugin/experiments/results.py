"""The runs below a folder, sorted into what a report compares."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from lolm_plugin.experiments.records import RunRecord, Series

WIN_RATE, RETURN = "test_battle_won_mean", "test_return_mean"
ABLATIONS = ("lolm_mappo_no_kl", "lolm_mappo_static_prompt", "transformer_mappo")
WHOLE = "lolm_mappo"  # what they are ablations of

Group = dict[str, list[RunRecord]]  # runs of one comparison, by algorithm


@dataclass
class Results:
    """Finished runs, by place and algorithm. A place is a map, or a source map and a target map."""

    runs: list[RunRecord]  # all of them, finished or not
    scratch: dict[str, Group] = field(default_factory=dict)
    zero_shot: dict[tuple[str, str], Group] = field(default_factory=dict)
    few_shot: dict[tuple[str, str], Group] = field(default_factory=dict)

    @property
    def algorithms(self) -> list[str]:
        """The language models first, then by name."""
        names = {
            name for groups in (self.scratch, self.zero_shot, self.few_shot) for g in groups.values() for name in g
        }
        return sorted(names, key=lambda name: (not name.startswith("lolm"), name))

    @property
    def unfinished(self) -> list[RunRecord]:
        """Runs that are in no number."""
        return [run for run in self.runs if run.status != "COMPLETED"]

    @property
    def metric(self) -> str:
        """What is compared: win rates, or returns where no run has a win rate."""
        return WIN_RATE if any(WIN_RATE in run.series for run in self.runs) else RETURN

    @property
    def what(self) -> str:
        """The metric in words."""
        return "test win rate" if self.metric == WIN_RATE else "test return"

    def curves(self, runs: Iterable[RunRecord], metric: str = "") -> list[Series]:
        """The tests of those runs that have any."""
        found = (run.series.get(metric or self.metric) for run in runs)
        return [series for series in found if series is not None]

    def played(self, runs: Iterable[RunRecord]) -> list[float]:
        """What evaluations came to, each the mean of its tests."""
        return [float(np.mean(curve.values)) for curve in self.curves(runs)]


def sort(runs: list[RunRecord]) -> Results:
    """Runs with their tests, in the order of algorithm, map and seed, whatever folder they lie in."""
    ordered = sorted(
        runs,
        key=lambda run: (
            run.env,
            run.map_name,
            run.source_map or "",
            run.kind,
            run.algorithm,
            run.seed,
            str(run.started),
        ),
    )
    results = Results(ordered)
    several = len({run.env for run in runs}) > 1
    for run in ordered:
        if run.status != "COMPLETED":
            continue
        place = f"{run.env} {run.map_name}" if several else run.map_name
        if run.kind == "scratch":
            results.scratch.setdefault(place, {}).setdefault(run.algorithm, []).append(run)
        elif run.kind in ("zero_shot", "few_shot"):
            groups = results.zero_shot if run.kind == "zero_shot" else results.few_shot
            groups.setdefault((run.source_map or "?", place), {}).setdefault(run.algorithm, []).append(run)
    return results


def seeds(runs: Iterable[RunRecord]) -> str:
    """How many runs stand behind a number."""
    return f"n={len(list(runs))}"
