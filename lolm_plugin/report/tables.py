"""Build the tables of a report, to be written as CSV, Markdown, LaTeX and HTML."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pandas as pd

from lolm_plugin.report import statistics
from lolm_plugin.report.records import RunRecord, Series
from lolm_plugin.report.results import WIN_RATE, Results
from lolm_plugin.report.team_sizes import moments, of_seeds

NONE = "–"
LATEX_SIGNS = {"±": r"$\pm$", "–": "--", "→": r"$\to$", "<": r"$<$", ">": r"$>$", "|": r"$|$"}


@dataclass
class Table:
    """A table whose cells are texts. ``name`` is the name of its files."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    @property
    def frame(self) -> pd.DataFrame:
        """Return the cells as a DataFrame."""
        return pd.DataFrame(self.rows, columns=self.columns)

    def text(self) -> str:
        """Format the table for a terminal."""
        columns = list(zip(self.columns, *self.rows, strict=True))
        padded = [[f"{cell:<{max(map(len, column))}}" for cell in column] for column in columns]
        return "\n".join([self.title, *(f"  {'  '.join(row)}".rstrip() for row in zip(*padded, strict=True)), ""])

    def csv(self) -> str:
        """Format the table as comma-separated values."""
        return self.frame.to_csv(index=False, lineterminator="\n")

    def markdown(self) -> str:
        """Format the table as GitHub Markdown."""
        rows = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows) + "\n"

    def latex(self) -> str:
        """Format the table for LaTeX with booktabs."""
        text = self.frame.to_latex(index=False, escape=True, column_format="l" + "r" * (len(self.columns) - 1))
        return text.translate(str.maketrans(LATEX_SIGNS))


def all_tables(results: Results) -> Iterator[Table]:
    """Yield every table that is not empty."""
    makers = (results_table, held_out_table, zero_shot_table, transfer_table, aggregate_table, improvement_table)
    for make in (*makers, team_sizes_table, lines_table, costs_table, runs_table):
        if (table := make(results)).rows:
            yield table


def results_table(results: Results) -> Table:
    """Tabulate every algorithm on every map, learning from scratch."""
    columns = ["map", "algorithm", "seeds", "env steps", "at the end", "asymptote", "best (optimistic)"]
    rows = [
        [
            task,
            line,
            str(len(runs)),
            f"{runs['steps'].max():,}",
            *(spread(runs[of]) for of in ("final", "asymptote", "best")),
        ]
        for (task, line), runs in _groups(results.of_kind("scratch"))
    ]
    note = "Mean ± standard deviation over seeds. At the end: last test. Asymptote: mean of the last tenth (3 or more)."
    return Table("results", f"Learning from scratch: {results.metric_title}", columns, rows, note)


def held_out_table(results: Results) -> Table:
    """Tabulate means over the maps of training and over held-out maps, for runs that play several maps."""
    rows = []
    for task, when, points in moments(results):
        largest = points.loc[points["trained"], "size"].max()
        parts = [points[points["trained"]], points[~points["trained"]]]
        parts += [parts[1][parts[1]["size"] <= largest], parts[1][parts[1]["size"] > largest]]
        for line, of_line in points.groupby("line", sort=False):
            means = [of_seeds(part[part["line"] == line])["value"] for part in parts]
            rows.append([task, str(line), str(of_line["seed"].nunique()), when, *map(spread, means)])
    note = (
        "Means over maps, then mean ± standard deviation over seeds. 'Up to' and 'larger' divide the held-out maps at "
        "the largest team of training. Runs are compared at equal steps, and at equal seconds from the end of the "
        "first test, tests included, which depend on the machine. There is no number if a map was not tested by then."
    )
    columns = ["trained on", "algorithm", "seeds", "after", "maps of training", "held-out maps", "up to", "larger"]
    return Table("held_out", f"Maps never trained on: {results.metric_title}", columns, rows, note)


def team_sizes_table(results: Results) -> Table:
    """Tabulate every map that runs on several maps play: a row for each map, a column for each algorithm."""
    rows, lines = [], results.algorithms
    for task, when, points in moments(results):
        for (size, of_map, trained), of_one in points.sort_values("size", kind="stable").groupby(
            ["size", "map", "trained"], sort=False
        ):
            cells = [spread(of_one.loc[of_one["line"] == line, "value"]) for line in lines]
            rows.append([task, when, str(of_map), str(size), "yes" if trained else "no", *cells])
    note = "Mean ± standard deviation over seeds, at equal steps or at equal seconds; see the table of held-out maps."
    columns = ["trained on", "after", "map", "team", "trained", *lines]
    return Table("team_sizes", f"Over team size: {results.metric_title}", columns, rows, note)


def zero_shot_table(results: Results) -> Table:
    """Tabulate zero-shot transfer as in the paper's table 5: a row for each transfer, a column for each algorithm."""
    cells = {key: f"{spread(runs['played'])} (n={len(runs)})" for key, runs in _groups(results.of_kind("zero_shot"))}
    lines = [line for line in results.algorithms if any(line == played for _, played in cells)]
    tasks = dict.fromkeys(task for task, _ in cells)
    rows = [[task, *(cells.get((task, line), NONE) for line in lines)] for task in tasks]
    note = "The source's last checkpoint, tested on the target without learning. Mean ± standard deviation over seeds."
    return Table("zero_shot", f"Zero-shot {results.metric_title} (table 5)", ["transfer", *lines], rows, note)


def transfer_table(results: Results) -> Table:
    """Tabulate few-shot transfer against learning the target from scratch, as in the paper's table 6."""
    columns = ["jumpstart", "untrained", "asymptote", "from scratch", "steps to it", "steps from scratch", "speed-up"]
    rows = [
        [task, line, *_transfer(runs, results.scratch_for(runs))]
        for (task, line), runs in _groups(results.of_kind("few_shot"))
    ]
    note = (
        "Each transfer is compared with the run from scratch of the same seed. Jumpstart: the test before the first "
        "update. Its baseline (untrained) is the test at step 0 of learning from scratch, if a run has one. "
        "Steps to it: until the mean of three tests is 95 % of the asymptote. Speed-up: steps from scratch divided by "
        "steps of the transfer, each to 95 % of the asymptote from scratch. It does not exist for a transfer that is "
        "there at step 0. Transfer ratio: gain in area under the curve over the common steps, divided by the area from "
        "scratch. The budgets of the two may differ."
    )
    title = f"Few-shot transfer against learning from scratch: {results.metric_title} (table 6)"
    return Table("transfer", title, ["transfer", "algorithm", "seeds", *columns, "transfer ratio"], rows, note)


def _transfer(few_shot: pd.DataFrame, scratch: pd.DataFrame) -> list[str]:
    """Return the numbers of one line's transfer, in the order of ``columns`` in ``transfer_table``."""
    curves = dict(zip(scratch["seed"], scratch["curve"], strict=True))
    pairs = [
        (curve, curves[seed]) for seed, curve in zip(few_shot["seed"], few_shot["curve"], strict=True) if seed in curves
    ]

    def of_pairs(number: Callable[[Series, Series], float | None]) -> str:
        known = [value for pair in pairs if (value := number(*pair)) is not None]
        return spread(known) + (f" ({len(known)} of {len(pairs)})" if 0 < len(known) < len(pairs) else "")

    return [
        str(len(few_shot)),
        spread(few_shot["first"]),
        spread(scratch["untrained"]),
        *(spread(runs["asymptote"]) for runs in (few_shot, scratch)),
        *(spread(runs["steps_to_asymptote"], "{:,.0f}") for runs in (few_shot, scratch)),
        of_pairs(statistics.speed_up),
        of_pairs(statistics.transfer_ratio),
    ]


def aggregate_table(results: Results) -> Table:
    """Tabulate statistics over all maps, with intervals if there is more than one seed."""
    numbers = {"IQM": statistics.iqm, "mean": statistics.mean, "median": statistics.median}
    if results.metric == WIN_RATE:
        numbers["optimality gap"] = statistics.optimality_gap
    rows = []
    for line in results.algorithms:
        if scores := scores_by_task(results, line):
            seeds = "-".join(map(str, sorted({len(task) for task in scores})))
            rows.append(
                [line, str(len(scores)), seeds, *(_with_interval(number, scores) for number in numbers.values())]
            )
    note = (
        "Last tests from scratch over all maps: interquartile mean (IQM) and other statistics, with 95 % stratified "
        "bootstrap intervals (Agarwal et al. 2021). There is no interval if a map has only one seed."
    )
    columns = ["algorithm", "maps", "seeds a map", *numbers]
    return Table("aggregate", f"All maps: {results.metric_title}", columns, rows, note)


def improvement_table(results: Results) -> Table:
    """Tabulate the probability that one algorithm beats another on the maps that both have."""
    ends = {line: dict(_scores(results, line)) for line in results.algorithms}
    rows = []
    for better, worse in permutations(results.algorithms, 2):
        common = [task for task in ends[better] if task in ends[worse]]
        if common:
            pair = [[ends[line][task] for task in common] for line in (better, worse)]
            probability = _with_interval(statistics.probability_of_improvement, *pair)
            rows.append([better, worse, str(len(common)), probability])
    note = "Probability that a run of the first has the higher last test, mean over common maps; 0.5 is no difference."
    return Table("improvement", "Probability of improvement", ["algorithm", "over", "maps", "probability"], rows, note)


def lines_table(results: Results) -> Table:
    """Tabulate all settings that differ between the lines of one algorithm."""
    settings = {
        (run.algorithm, _hyphened(run.kind), results.lines.name(run)): results.lines.values(run)
        for run in results.counted["run"]
    }
    rows = [
        [kind, line, "; ".join(f"{key}={value}" for key, value in values.items())]
        for (_, kind, line), values in sorted(settings.items(), key=lambda item: item[0])
        if values
    ]
    note = "Every setting that differs between runs of one algorithm on one task. Each line is a separate experiment."
    return Table("lines", "Settings that differ", ["kind", "algorithm", "settings"], rows, note)


def costs_table(results: Results) -> Table:
    """Tabulate wall time and memory. Unlike the other tables, these numbers depend on the machine."""
    groups: dict[tuple[str, str, str], list[RunRecord]] = {}
    for run in results.runs:
        if run.is_complete and run.kind != "evaluation":
            groups.setdefault((_hyphened(run.kind), results.lines.name(run), _task(run)), []).append(run)
    rows = []
    for key, runs in groups.items():
        minutes = [run.wall_seconds / 60 for run in runs if run.wall_seconds is not None]
        memory = [run.peak_memory_mb for run in runs if run.peak_memory_mb is not None]
        peak = f"{max(memory):,.0f}" if memory else "not recorded"
        rows.append([*key, str(len(runs)), spread(minutes, "{:.1f}"), peak])
    note = "Wall time depends on what else ran on the machine. Memory is the peak of a run's main process."
    return Table("costs", "Time and memory", ["kind", "algorithm", "map", "runs", "minutes", "peak MB"], rows, note)


def runs_table(results: Results) -> Table:
    """Tabulate each run with what is needed to repeat it."""
    columns = [
        "kind",
        "algorithm",
        "map",
        "seed",
        "status",
        "env steps",
        "command",
        "commit",
        "version",
        "host",
        "started",
    ]
    rows = []
    for run in results.runs:
        steps = max((series.steps[-1] for series in run.series.values()), default=0)
        started = run.started and f"{run.started:%Y-%m-%d %H:%M}"
        origin = (run.command, run.commit, run.version, run.hostname, started)
        facts = [
            _hyphened(run.kind),
            results.lines.name(run),
            _task(run),
            str(run.seed),
            _status(results, run),
            f"{steps:,}",
        ]
        rows.append([*facts, *(text or "not recorded" for text in origin)])
    return Table("runs", "Every run", columns, rows)


def _status(results: Results, run: RunRecord) -> str:
    if run.status != "COMPLETED":
        return run.status + (f" ({run.reason})" if run.reason else "")
    why = results.excluded.get(run.folder)
    return f"{run.status} (not counted: {why})" if why else run.status


def spread(values: Iterable[float], form: str = "{:.2f}") -> str:
    """Format the mean ± sample standard deviation of the known values, or the value alone if there is only one."""
    known = pd.Series(values, dtype=float).dropna()
    if len(known) < 2:
        return form.format(known.iloc[0]) if len(known) else NONE
    return f"{form.format(known.mean())} ± {form.format(known.std())}"


def scores_by_task(results: Results, line: str) -> list[np.ndarray]:
    """Return the score of the last test of each run without transfer of algorithm ``line``: [runs] for each map."""
    return [scores for _, scores in _scores(results, line)]


def _scores(results: Results, line: str) -> Iterator[tuple[str, np.ndarray]]:
    for (task, name), runs in _groups(results.of_kind("scratch")):
        if name == line:
            yield task, runs["final"].to_numpy(dtype=float)


def _groups(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Yield the runs of each line on each task."""
    if len(frame):
        yield from frame.groupby(["task", "line"], sort=False)


def _with_interval(number: Callable[..., np.ndarray], *groups: Sequence[np.ndarray]) -> str:
    bounds = statistics.interval(number, *groups)
    text = f" [{bounds.low:.2f}, {bounds.high:.2f}]" if bounds else " (one seed: no interval)"
    return f"{number(*groups):.2f}{text}"


def _task(run: RunRecord) -> str:
    return f"{run.source_map} → {run.map_name}" if run.source_map else run.map_name


def _hyphened(kind: str) -> str:
    return kind.replace("_", "-")
