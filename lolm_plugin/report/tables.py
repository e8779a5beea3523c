"""Results as tables, each to be written as CSV, Markdown, LaTeX and HTML."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from lolm_plugin.report import metrics, statistics
from lolm_plugin.report.records import RunRecord, Series
from lolm_plugin.report.results import Results

NONE = "–"
LATEX = {
    **{sign: rf"\{sign}" for sign in "&%_#${}"},
    **{"±": r"$\pm$", "–": "--", "→": r"$\to$", "<": r"$<$", ">": r"$>$", "|": r"$|$"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"},
}


@dataclass
class Table:
    """Cells are text; ``name`` is its file's."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def text(self) -> str:
        """For a terminal."""
        rows = [self.columns, *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.columns))]
        lines = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        return "\n".join([self.title, *(f"  {line}" for line in lines), ""])

    def csv(self) -> str:
        """Comma-separated."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()

    def markdown(self) -> str:
        """GitHub's."""
        rows = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows) + "\n"

    def latex(self) -> str:
        """For booktabs."""
        lines = [" & ".join(map(_latex, row)) + r" \\" for row in (self.columns, *self.rows)]
        frame = rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}"
        return "\n".join([frame, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}", ""])


def results_table(results: Results) -> Table:
    """Every algorithm on every map, from scratch."""
    rows = []
    for place, group in results.scratch.items():
        for algorithm in _present(results, group):
            curves = results.curves(group[algorithm])
            if curves:
                ends = [
                    spread(list(map(number, curves))) for number in (metrics.final, metrics.asymptote, metrics.best)
                ]
                last = max(curve.steps[-1] for curve in curves)
                rows.append([place, algorithm, str(len(curves)), f"{last:,}", *ends])
    note = "Mean ± standard deviation over seeds. At the end: the last test. Asymptote: the last tenth, at least three."
    return Table(
        "results",
        f"Learning from scratch: {results.what}",
        ["map", "algorithm", "seeds", "env steps", "at the end", "asymptote", "best (optimistic)"],
        rows,
        note,
    )


def zero_shot_table(results: Results) -> Table:
    """The paper's table 5: a row for each transfer, a column for each algorithm."""
    algorithms = [name for name in results.algorithms if any(name in group for group in results.zero_shot.values())]
    rows = []
    for (source, target), group in results.zero_shot.items():
        played = [results.played(group.get(name, [])) for name in algorithms]
        rows.append([f"{source} → {target}", *(f"{spread(one)} (n={len(one)})" if one else NONE for one in played)])
    note = "The source's last checkpoint, played on the target without learning. Mean ± standard deviation over seeds."
    return Table("zero_shot", f"Zero-shot {results.what} (table 5)", ["transfer", *algorithms], rows, note)


def transfer_table(results: Results) -> Table:
    """The paper's table 6: few-shot against learning the target from scratch."""
    rows = []
    for (source, target), group in results.few_shot.items():
        for algorithm in _present(results, group):
            scratch = {run.seed: run for run in results.scratch_for(group[algorithm], target)}
            rows.append([f"{source} → {target}", algorithm, *_transfer(results, group[algorithm], scratch)])
    columns = ["jumpstart", "untrained", "asymptote", "scratch's", "steps to it", "scratch's", "speed-up"]
    note = (
        "Each transfer against the run from scratch of the same seed. Jumpstart: the test before the first update. Its "
        "zero is the test of the untrained policy from scratch, where a run has one at step 0. "
        "Steps to it: until three tests together have 95 % of the asymptote. Speed-up: steps from scratch by steps of "
        "the transfer until 95 % of what is reached from scratch, of the seeds that take steps to it, as a transfer "
        "that is there at once has none. Transfer ratio: gain in area under the curve over the common steps, by the "
        "area from scratch. Budgets of the two may differ."
    )
    title = f"Few-shot transfer against learning from scratch: {results.what} (table 6)"
    return Table("transfer", title, ["transfer", "algorithm", "seeds", *columns, "transfer ratio"], rows, note)


def _transfer(results: Results, runs: Sequence[RunRecord], scratch: dict[int, RunRecord]) -> list[str]:
    curves = results.curves(runs)
    alone = results.curves(scratch.values())
    pairs = [
        (run.series[results.metric], scratch[run.seed].series[results.metric])
        for run in runs
        if run.seed in scratch and results.metric in run.series and results.metric in scratch[run.seed].series
    ]

    def of(number: Callable[[Series], float | None], many: Sequence[Series], form: str = "{:.2f}") -> str:
        return spread([value for curve in many if (value := number(curve)) is not None], form)

    def both(number: Callable[[Series, Series], float | None]) -> str:
        known = [value for pair in pairs if (value := number(*pair)) is not None]
        return spread(known) + (f" ({len(known)} of {len(pairs)})" if 0 < len(known) < len(pairs) else "")

    return [
        str(len(curves)),
        of(metrics.jumpstart, curves),
        of(metrics.untrained, alone),
        *(of(metrics.asymptote, many) for many in (curves, alone)),
        *(of(metrics.steps_to_asymptote, many, "{:,.0f}") for many in (curves, alone)),
        both(metrics.speed_up),
        both(metrics.transfer_ratio),
    ]


def aggregate_table(results: Results) -> Table:
    """All maps together, with intervals where more than one seed allows any."""
    rows = []
    for algorithm in results.algorithms:
        scores = _scores(results, algorithm)
        if scores:
            gap = statistics.optimality_gap if results.metric.endswith("won_mean") else None
            numbers = [statistics.iqm, statistics.mean, statistics.median, *([gap] if gap else [])]
            seeds = "-".join(str(n) for n in sorted({len(task) for task in scores}))
            rows.append([algorithm, str(len(scores)), seeds, *(_with_interval(number, scores) for number in numbers)])
    columns = ["IQM", "mean", "median", *(["optimality gap"] if results.metric.endswith("won_mean") else [])]
    note = (
        "Last tests from scratch, all maps together: the interquartile mean and others with 95 % stratified bootstrap "
        "intervals (Agarwal et al. 2021). One seed allows no interval, so none is given where a map has one seed."
    )
    return Table("aggregate", f"All maps: {results.what}", ["algorithm", "maps", "seeds a map", *columns], rows, note)


def improvement_table(results: Results) -> Table:
    """How likely one algorithm beats another, on the maps that both have."""
    rows = []
    for better, worse in permutations(results.algorithms, 2):
        common = [
            g
            for g in results.scratch.values()
            if results.curves(g.get(better, [])) and results.curves(g.get(worse, []))
        ]
        if common:
            pair = [[_ends(results, g[name]) for g in common] for name in (better, worse)]
            found = _with_interval(statistics.probability_of_improvement, *pair)
            rows.append([better, worse, str(len(common)), found])
    note = "How likely a run of the first has the higher last test on a map that both played; 0.5 is no difference."
    return Table("improvement", "Probability of improvement", ["algorithm", "over", "maps", "probability"], rows, note)


def lines_table(results: Results) -> Table:
    """The settings by which lines of one algorithm differ, in full."""
    rows = []
    for (algorithm, kind), keys in sorted(results.lines.differing.items()):
        runs = [run for run in results.counted if (run.algorithm, run.kind) == (algorithm, kind)] if keys else []
        for line, values in sorted({results.lines.name(run): results.lines.values(run) for run in runs}.items()):
            rows.append([kind.replace("_", "-"), line, "; ".join(f"{key}={value}" for key, value in values.items())])
    note = (
        "Every setting that differs between runs of one algorithm at one place; runs that differ are no seeds of one."
    )
    return Table("lines", "Settings that differ", ["kind", "algorithm", "settings"], rows, note)


def costs_table(results: Results) -> Table:
    """Wall time and memory, which differ from machine to machine and from day to day."""
    groups: dict[tuple[str, str, str], list[RunRecord]] = {}
    for run in results.runs:
        if run.is_whole and run.kind != "evaluation":
            place = f"{run.source_map} → {run.map_name}" if run.source_map else run.map_name
            groups.setdefault((run.kind.replace("_", "-"), results.lines.name(run), place), []).append(run)
    rows = []
    for key, runs in groups.items():
        minutes = [run.wall_seconds / 60 for run in runs if run.wall_seconds is not None]
        memory = [run.peak_memory_mb for run in runs if run.peak_memory_mb is not None]
        rows.append(
            [*key, str(len(runs)), spread(minutes, "{:.1f}"), f"{max(memory):,.0f}" if memory else "not recorded"]
        )
    note = "Wall time with whatever else ran beside it; memory is the most that a run's main process held."
    return Table("costs", "Time and memory", ["kind", "algorithm", "map", "runs", "minutes", "peak MB"], rows, note)


def runs_table(results: Results) -> Table:
    """Each run, so that anybody can make it again."""
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
        place = f"{run.source_map} → {run.map_name}" if run.source_map else run.map_name
        steps = max((series.steps[-1] for series in run.series.values()), default=0)
        said = (run.command, run.commit, run.version, run.hostname, run.started and f"{run.started:%Y-%m-%d %H:%M}")
        line = results.lines.name(run)
        facts = [run.kind.replace("_", "-"), line, place, str(run.seed), _status(results, run), f"{steps:,}"]
        rows.append([*facts, *(text or "not recorded" for text in said)])
    return Table("runs", "Every run", columns, rows)


def _status(results: Results, run: RunRecord) -> str:
    if run.status != "COMPLETED":
        return run.status + (f" ({run.reason})" if run.reason else "")
    why = results.left_out.get(run.folder)
    return f"{run.status} (in no number: {why})" if why else run.status


def spread(values: Sequence[float], form: str = "{:.2f}") -> str:
    """Mean ± sample standard deviation; of a single run the value alone."""
    if not values:
        return NONE
    if len(values) == 1:
        return form.format(values[0])
    return f"{form.format(np.mean(values))} ± {form.format(np.std(values, ddof=1))}"


def _with_interval(number: Callable[..., float], *groups: Sequence[np.ndarray]) -> str:
    found = statistics.interval(number, *groups)
    return f"{number(*groups):.2f}" + (f" [{found.low:.2f}, {found.high:.2f}]" if found else " (one seed: no interval)")


def _ends(results: Results, runs: Sequence[RunRecord]) -> np.ndarray:
    return np.array([metrics.final(curve) for curve in results.curves(runs)])


def _scores(results: Results, algorithm: str) -> list[np.ndarray]:
    found = (_ends(results, group.get(algorithm, [])) for group in results.scratch.values())
    return [ends for ends in found if len(ends)]


def _present(results: Results, group: dict[str, list[RunRecord]]) -> list[str]:
    return [name for name in results.algorithms if name in group]


def _latex(cell: str) -> str:
    return "".join(LATEX.get(character, character) for character in cell)
