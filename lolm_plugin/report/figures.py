"""Results as figures: PNG for the html report and PDF for a paper."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lolm_plugin.report import statistics
from lolm_plugin.report.records import RunRecord, Series
from lolm_plugin.report.results import WIN_RATE, Results
from lolm_plugin.report.tables import scores_by_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

ABLATIONS = ("lolm_mappo_no_kl", "lolm_mappo_static_prompt", "transformer_mappo")
ABLATED = "lolm_mappo"  # what they are ablations of
# Okabe and Ito's colours, told apart by the colour-blind; lines differ in style and marker as well.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#8C8C00")
MARKERS = "osD^vP*X"
STEPS = "environment steps"
DASHED = (0, (4, 2))
COLUMNS = 4
UNDATED = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}

Paint = Callable[["Axes"], None]


@dataclass
class Figure:
    """One figure: the name of its files, a title, how to read it, and titles of its panels with what paints them."""

    name: str
    title: str
    reading: str
    panels: Sequence[tuple[str, Paint]]
    xlabel: str = STEPS
    ylabel: str = ""


def all_figures(results: Results) -> Iterator[Figure]:
    """Make the figures for which there are runs."""
    painter = Painter(results)
    band = "Lines are means over seeds, bands ± one standard deviation; a single seed is a line without a band"
    tasks = {kind: list(results.of(kind).groupby("task", sort=False)) for kind in ("scratch", "zero_shot", "few_shot")}

    def panels(kind: str, paint: Callable[[pd.DataFrame], Paint]) -> list[tuple[str, Paint]]:
        return [(str(task), paint(runs)) for task, runs in tasks[kind]]

    ablations, entropies = list(painter.ablations()), list(painter.entropies())
    figures = [
        Figure(
            "learning",
            "Learning from scratch (figure 5)",
            f"{band}.",
            panels("scratch", painter.curves),
            ylabel=results.what,
        ),
        Figure(
            "zero_shot",
            "Zero-shot transfer (figure 6)",
            "Dots are means, thick bars ± one standard deviation, thin bars extremes, crosses single runs.",
            panels("zero_shot", painter.distribution),
            xlabel="",
            ylabel=results.what,
        ),
        Figure(
            "few_shot",
            "Few-shot against from scratch (figure 7)",
            f"Solid: few-shot on the target. Dashed: the target from scratch, as far as few-shot went. {band}.",
            panels("few_shot", painter.few_shot),
            ylabel=results.what,
        ),
        Figure(
            "jumpstart",
            "Jumpstart and asymptote (figure 8)",
            "From the test before the first update (hollow) to the asymptote (full), means over seeds. Dotted: the "
            "untrained policy of learning from scratch, the zero of the jumpstart.",
            panels("few_shot", painter.jumpstart),
            xlabel="",
            ylabel=results.what,
        ),
        Figure("ablations", "Ablations (figures 9 and 10)", f"{band}.", ablations, ylabel=results.what),
        Figure(
            "entropy",
            "Policy entropy (figure 11)",
            f"Mean entropy of the policy's choices while it learns. {band}.",
            entropies,
            ylabel="nats",
        ),
    ]
    if len(tasks["scratch"]) > 1 and results.metric == WIN_RATE:
        reading = "The share of runs, over all maps, whose last test is above a win rate: higher is better everywhere."
        profile = [("all maps, from scratch", painter.profile)]
        ylabel = "share of runs above it"
        figures.append(Figure("profile", "Performance profile", reading, profile, xlabel="win rate", ylabel=ylabel))
    yield from (figure for figure in figures if figure.panels)


def draw(figure: Figure, folder: Path, win_rate: bool) -> Path:
    """Write ``NAME.png`` and ``NAME.pdf``; returns the former."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import EngFormatter

    columns = min(COLUMNS, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    size = (max(5.0, 3.4 * columns), 2.9 * rows + 0.6)
    canvas, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", sharey=win_rate)
    for axis, (title, paint) in zip(axes.flat, figure.panels, strict=False):
        paint(axis)
        axis.set_title(title, fontsize=10, parse_math=False)  # names hold dollar signs and are no formulas
        axis.set_xlabel(figure.xlabel)
        if figure.xlabel == STEPS:
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k
        axis.grid(alpha=0.25, lw=0.5)
        if win_rate and figure.ylabel != "nats":
            axis.set_ylim(-0.04, 1.04)
    for axis in axes.flat[len(figure.panels) :]:
        axis.set_axis_off()
    for row in axes:
        row[0].set_ylabel(figure.ylabel)
    _legend(canvas, axes)
    for ending, metadata in UNDATED.items():
        canvas.savefig(folder / f"{figure.name}.{ending}", dpi=130, metadata=metadata)
    pyplot.close(canvas)
    return folder / f"{figure.name}.png"


class Painter:
    """Makes what paints a panel. A line has the same colour and marker in every figure."""

    def __init__(self, results: Results) -> None:
        self._results = results
        # The ninth line has the first one's colour and another marker.
        self._styles = {
            line: (COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)])
            for number, line in enumerate(results.algorithms)
        }

    def curves(self, runs: pd.DataFrame, dashed: Iterable[str] = (), metric: str = "") -> Paint:
        """Paint the curves of each line; those of the lines ``dashed`` are dashed."""

        def paint(axis: "Axes") -> None:
            for line, group in runs.groupby("line", sort=False):
                curves = [run.series.get(metric or self._results.metric) for run in group["run"]]
                self._curve(axis, [curve for curve in curves if curve], str(line), DASHED if line in dashed else "-")

        return paint

    def distribution(self, runs: pd.DataFrame) -> Paint:
        """Paint what evaluations of each line came to."""

        def paint(axis: "Axes") -> None:
            for x, (line, group) in enumerate(runs.groupby("line", sort=False)):
                values, (colour, marker) = group["played"].to_numpy(dtype=float), self._styles[str(line)]
                if len(values) > 1:
                    spread = values.std(ddof=1)
                    axis.vlines(x, values.min(), values.max(), color=colour, lw=1)
                    axis.vlines(x, values.mean() - spread, values.mean() + spread, color=colour, lw=5, alpha=0.5)
                axis.plot([x] * len(values), values, "x", color=colour, ms=5)
                axis.plot(x, values.mean(), marker, color=colour, ms=7, label=f"{line} (n={len(values)})")
            _categories(axis, runs)

        return paint

    def few_shot(self, runs: pd.DataFrame) -> Paint:
        """Paint few-shot curves and, as far as they went, those from scratch: what comes later has no counterpart."""

        def paint(axis: "Axes") -> None:
            for line, group in runs.groupby("line", sort=False):
                self._curve(axis, list(group["curve"]), str(line), "-", " few-shot")
                last = group["steps"].max()
                scratch = [curve for curve in self._results.scratch_for(group)["curve"] if curve.steps[0] <= last]
                self._curve(axis, [_until(curve, last) for curve in scratch], str(line), DASHED, " from scratch")

        return paint

    def jumpstart(self, runs: pd.DataFrame) -> Paint:
        """Paint an arrow from the first test to the asymptote, and the untrained policy from scratch."""

        def paint(axis: "Axes") -> None:
            for x, (line, group) in enumerate(runs.groupby("line", sort=False)):
                colour, marker = self._styles[str(line)]
                low, high = group["first"].mean(), group["asymptote"].mean()
                axis.annotate("", (x, high), (x, low), arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.5})
                axis.plot(x, low, marker, color=colour, mfc="white", ms=7)
                untrained = pd.Series(self._results.scratch_for(group)["untrained"], dtype=float).mean()
                if np.isfinite(untrained):
                    axis.hlines(untrained, x - 0.3, x + 0.3, color=colour, ls=":", lw=1.5)
                axis.plot(x, high, marker, color=colour, ms=7, label=f"{line} (n={len(group)})")
            _categories(axis, runs)

        return paint

    def ablations(self) -> Iterator[tuple[str, Paint]]:
        """Yield a panel for each ablation and task, beside the algorithm with the same settings."""
        for kind in ("scratch", "few_shot"):
            for task, runs in self._results.of(kind).groupby("task", sort=False):
                first: list[RunRecord] = list(runs.drop_duplicates("line")["run"])
                ablated = sorted(
                    (run for run in first if run.algorithm in ABLATIONS), key=lambda run: ABLATIONS.index(run.algorithm)
                )
                for one, other in product((run for run in first if run.algorithm == ABLATED), ablated):
                    values = [self._results.lines.values(run) for run in (one, other)]
                    if all(values[0][key] == values[1][key] for key in values[0].keys() & values[1].keys()):
                        names = [self._results.lines.name(run) for run in (one, other)]
                        title = f"{task}, few-shot" if kind == "few_shot" else str(task)
                        yield title, self.curves(runs[runs["line"].isin(names)], dashed=names[1:])

    def entropies(self) -> Iterator[tuple[str, Paint]]:
        """Yield a panel for each map with runs that logged the policy's entropy."""
        for task, runs in self._results.of("scratch").groupby("task", sort=False):
            logged = runs[[("entropy" in run.series) for run in runs["run"]]]
            if len(logged):
                yield str(task), self.curves(logged, metric="entropy")

    def profile(self, axis: "Axes") -> None:
        """Paint the performance profile of each line over all maps."""
        thresholds = np.linspace(0, 1, 101)
        for line, (colour, marker) in self._styles.items():
            if scores := scores_by_task(self._results, line):
                label = f"{line} ({len(scores)} maps, {sum(map(len, scores))} runs)"
                share = statistics.performance_profile(scores, thresholds)
                axis.step(thresholds, share, where="post", color=colour, label=label)
                axis.plot(thresholds[::20], share[::20], marker, color=colour, ms=4)

    def _curve(self, axis: "Axes", curves: Sequence[Series], line: str, style: Any, suffix: str = "") -> None:
        if not curves:
            return
        colour, marker = self._styles[line]
        label, look = f"{line}{suffix} (n={len(curves)}", {"ls": style, "color": colour, "marker": marker, "ms": 4}
        try:
            grid, values = statistics.on_grid(curves)
        except ValueError:  # no two runs have a step in common, so there is no mean
            for number, curve in enumerate(curves):
                once = None if number else f"{label}, each run: no common steps)"
                axis.plot(curve.steps, curve.values, label=once, lw=1, **look)
            return
        mean = values.mean(axis=0)
        axis.plot(grid, mean, label=f"{label})", markevery=max(1, len(grid) // 6), lw=1.5, **look)
        if len(curves) > 1:
            spread = values.std(axis=0, ddof=1)
            axis.fill_between(grid, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)


def _until(curve: Series, step: int) -> Series:
    """Cut a curve at ``step``, where its value is interpolated."""
    kept = sum(at <= step for at in curve.steps)
    steps, values = curve.steps[:kept], curve.values[:kept]
    if steps[-1] < step < curve.steps[-1]:
        return Series((*steps, step), (*values, float(np.interp(step, curve.steps, curve.values))))
    return Series(steps, values)


def _categories(axis: "Axes", runs: pd.DataFrame) -> None:
    axis.set_xticks([])
    axis.set_xlim(-0.7, runs["line"].nunique() - 0.3)


def _legend(canvas: "Canvas", axes: np.ndarray) -> None:
    """Draw one legend below all panels; if panels differ in their number of seeds, a line has an entry for each."""
    entries: dict[str, Any] = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if entries:
        columns = max(1, min(3, int(canvas.get_figwidth() // 3)))
        look = {"loc": "outside lower center", "ncols": columns, "frameon": False, "fontsize": 8, "handlelength": 3.5}
        for text in canvas.legend(entries.values(), entries.keys(), **look).get_texts():
            text.set_parse_math(False)
