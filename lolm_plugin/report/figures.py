"""Draw the figures of a report: PNG for the html page, PDF for a paper."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lolm_plugin.report import statistics
from lolm_plugin.report.records import Kind, RunRecord, Series
from lolm_plugin.report.results import WIN_RATE, Results
from lolm_plugin.report.tables import scores_by_task
from lolm_plugin.report.team_sizes import moments, of_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

ABLATIONS = ("lolm_mappo_no_kl", "lolm_mappo_static_prompt", "transformer_mappo")
ABLATED = "lolm_mappo"  # the algorithm that they are ablations of
# Colours of Okabe and Ito, which colour-blind readers can distinguish. Lines also differ in style and marker.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#8C8C00")
MARKERS = "osD^vP*X"
STEPS = "environment steps"
DASHED = (0, (4, 2))
COLUMNS = 4
UNDATED = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
BAND = "Lines are means over seeds, bands ± one standard deviation; a single seed is a line without a band."


@dataclass
class Figure:
    """One figure. ``reading`` explains it, ``paint`` draws a panel, ``panels`` has a title and runs for each panel."""

    name: str
    title: str
    reading: str
    paint: "Callable[[Axes, Results, pd.DataFrame], None]"
    panels: Sequence[tuple[str, pd.DataFrame]]
    ylabel: str
    xlabel: str = STEPS


def all_figures(results: Results) -> Iterator[Figure]:
    """Yield the figures for which there are runs."""
    scratch, zero_shot, few_shot = (_by_task(results, kind) for kind in ("scratch", "zero_shot", "few_shot"))
    what, runs = results.metric_title, results.of_kind("scratch")
    reading = {
        "zero_shot": "Dots are means, thick bars ± one standard deviation, thin bars extremes, crosses single runs.",
        "few_shot": f"Solid: few-shot on the target. Dashed: from scratch, up to the last few-shot step. {BAND}",
        "jumpstart": "From the test before the first update (hollow) to the asymptote (filled), means over seeds. "
        "Dotted: the untrained policy from scratch, the baseline of the jumpstart.",
        "team_sizes": "Agents of a map (log scale). Filled marks and grey bars: sizes of training; hollow marks: maps "
        f"never trained on. At equal steps, and at equal seconds after the first test. {BAND}",
        "entropy": f"Mean policy entropy during training. {BAND}",
        "profile": "Share of runs, over all maps, whose last test is above each win rate. A higher curve is better.",
    }
    logged = [(task, group[["entropy" in run.series for run in group["run"]]]) for task, group in scratch]
    entropies = [(task, group) for task, group in logged if len(group)]
    profile = [("all maps, from scratch", runs)] if len(scratch) > 1 and results.metric == WIN_RATE else []
    sizes = [(f"{task}, {when}", points) for task, when, points in moments(results)]
    paint_ablation, paint_entropy = partial(paint_curves, dashed=ABLATIONS), partial(paint_curves, metric="entropy")
    for name, title, paint, panels, *labels in (
        ("learning", "Learning from scratch (figure 5)", paint_curves, scratch, what),
        ("team_sizes", "Over team size", paint_team_sizes, sizes, what, "agents"),
        ("zero_shot", "Zero-shot transfer (figure 6)", paint_distribution, zero_shot, what, ""),
        ("few_shot", "Few-shot against from scratch (figure 7)", paint_few_shot, few_shot, what),
        ("jumpstart", "Jumpstart and asymptote (figure 8)", paint_jumpstart, few_shot, what, ""),
        ("ablations", "Ablations (figures 9 and 10)", paint_ablation, list(_ablations(results)), what),
        ("entropy", "Policy entropy (figure 11)", paint_entropy, entropies, "nats"),
        ("profile", "Performance profile", paint_profile, profile, "share of runs above it", "win rate"),
    ):
        if panels:
            yield Figure(name, title, reading.get(name, BAND), paint, panels, *labels)


def draw(figure: Figure, results: Results, folder: Path) -> Path:
    """Write ``NAME.png`` and ``NAME.pdf`` to ``folder``. Return the path of the PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import EngFormatter

    columns = min(COLUMNS, len(figure.panels))
    rows, is_win_rate = -(-len(figure.panels) // columns), results.metric == WIN_RATE
    size = (max(5.0, 3.4 * columns), 2.9 * rows + 0.6)
    canvas, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", sharey=is_win_rate)
    for axis, (title, runs) in zip(axes.flat, figure.panels, strict=False):
        figure.paint(axis, results, runs)
        axis.set_title(title, fontsize=10, parse_math=False)  # a name with dollar signs is not a formula
        axis.set_xlabel(figure.xlabel)
        if figure.xlabel == STEPS:
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k
        axis.grid(alpha=0.25, lw=0.5)
        if is_win_rate and figure.ylabel != "nats":
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


def paint_curves(
    axis: "Axes", results: Results, runs: pd.DataFrame, metric: str = "", dashed: Sequence[str] = ()
) -> None:
    """Paint the mean curve of each line. Curves of the algorithms in ``dashed`` are dashed."""
    for line, group in _by_line(runs):
        curves = [curve for run in group["run"] if (curve := run.series.get(metric or results.metric))]
        _curve(axis, curves, line, DASHED if group["algorithm"].iloc[0] in dashed else "-", _look(results, line))


def paint_distribution(axis: "Axes", results: Results, runs: pd.DataFrame) -> None:
    """Paint mean, standard deviation, range and single results of each line's evaluations."""
    for x, (line, group) in enumerate(_by_line(runs)):
        values, (colour, marker) = group["played"].to_numpy(dtype=float), _look(results, line)
        if len(values) > 1:
            spread = values.std(ddof=1)
            axis.vlines(x, values.min(), values.max(), color=colour, lw=1)
            axis.vlines(x, values.mean() - spread, values.mean() + spread, color=colour, lw=5, alpha=0.5)
        axis.plot([x] * len(values), values, "x", color=colour, ms=5)
        axis.plot(x, values.mean(), marker, color=colour, ms=7, label=f"{line} (n={len(values)})")
    _hide_x_ticks(axis, runs)


def paint_team_sizes(axis: "Axes", results: Results, points: pd.DataFrame) -> None:
    """Paint each line's results over team size, with the sizes of training marked."""
    trained = set(points.loc[points["trained"], "size"])
    for size in trained:
        axis.axvline(size, color="0.9", lw=5, zorder=0)
    for line, of_line in _by_line(points):
        by_size = of_seeds(of_line, "size").dropna().groupby("size")["value"].agg(["mean", "std"])
        if by_size.empty:
            continue
        (colour, marker), seeds = _look(results, line), of_line["seed"].nunique()
        axis.plot(by_size.index, by_size["mean"], color=colour, lw=1.5)
        for filled in (True, False):
            shown = by_size[by_size.index.isin(trained) == filled]
            fill = colour if filled else "white"
            label = f"{line} (n={seeds})" if filled else None
            axis.plot(shown.index, shown["mean"], marker, color=colour, mfc=fill, ms=5, label=label)
        if len(band := by_size.dropna()):
            low, high = band["mean"] - band["std"], band["mean"] + band["std"]
            axis.fill_between(band.index, low, high, color=colour, alpha=0.15, lw=0)
    axis.set_xscale("log")
    axis.set_xticks(sorted(set(points["size"])), labels=[str(size) for size in sorted(set(points["size"]))], fontsize=8)
    axis.minorticks_off()


def paint_few_shot(axis: "Axes", results: Results, runs: pd.DataFrame) -> None:
    """Paint the few-shot curves, and the curves from scratch up to the last few-shot step."""
    for line, group in _by_line(runs):
        look, last = _look(results, line), group["steps"].max()
        scratch = [_until(curve, last) for curve in results.scratch_for(group)["curve"] if curve.steps[0] <= last]
        _curve(axis, list(group["curve"]), f"{line} few-shot", "-", look)
        _curve(axis, scratch, f"{line} from scratch", DASHED, look)


def paint_jumpstart(axis: "Axes", results: Results, runs: pd.DataFrame) -> None:
    """Paint an arrow from the first test to the asymptote, and the untrained policy of learning from scratch."""
    for x, (line, group) in enumerate(_by_line(runs)):
        colour, marker = _look(results, line)
        low, high = group["first"].mean(), group["asymptote"].mean()
        axis.annotate("", (x, high), (x, low), arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.5})
        axis.plot(x, low, marker, color=colour, mfc="white", ms=7)
        untrained = results.scratch_for(group)["untrained"].astype(float).mean()
        if np.isfinite(untrained):
            axis.hlines(untrained, x - 0.3, x + 0.3, color=colour, ls=":", lw=1.5)
        axis.plot(x, high, marker, color=colour, ms=7, label=f"{line} (n={len(group)})")
    _hide_x_ticks(axis, runs)


def paint_profile(axis: "Axes", results: Results, runs: pd.DataFrame) -> None:
    """Paint the performance profile of each line over all maps."""
    thresholds = np.linspace(0, 1, 101)
    for line in results.algorithms:
        if scores := scores_by_task(results, line):
            colour, marker = _look(results, line)
            label = f"{line} ({len(scores)} maps, {sum(map(len, scores))} runs)"
            share = statistics.performance_profile(scores, thresholds)
            axis.step(thresholds, share, where="post", color=colour, label=label)
            axis.plot(thresholds[::20], share[::20], marker, color=colour, ms=4)


def _curve(axis: "Axes", curves: Sequence[Series], name: str, style: Any, look: tuple[str, str]) -> None:
    """Paint the mean of the curves with a band, or each curve alone if they have no steps in common."""
    if not curves:
        return
    label = f"{name} (n={len(curves)}"
    options: dict[str, Any] = {"ls": style, "color": look[0], "marker": look[1], "ms": 4}
    try:
        grid, values = statistics.on_grid(curves)
    except ValueError:
        for number, curve in enumerate(curves):
            once = None if number else f"{label}, each run: no common steps)"
            axis.plot(curve.steps, curve.values, label=once, lw=1, **options)
        return
    mean = values.mean(axis=0)
    axis.plot(grid, mean, label=f"{label})", markevery=max(1, len(grid) // 6), lw=1.5, **options)
    if len(curves) > 1:
        spread = values.std(axis=0, ddof=1)
        axis.fill_between(grid, mean - spread, mean + spread, color=look[0], alpha=0.15, lw=0)


def _ablations(results: Results) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield, for each task and ablation, its runs and the runs of ``ABLATED`` with the same settings."""
    kinds: tuple[tuple[Kind, str], ...] = (("scratch", ""), ("few_shot", ", few-shot"))
    for kind, suffix in kinds:
        for task, runs in _by_task(results, kind):
            first: list[RunRecord] = list(runs.drop_duplicates("line")["run"])
            ablated = [run for name in ABLATIONS for run in first if run.algorithm == name]
            for pair in product([run for run in first if run.algorithm == ABLATED], ablated):
                one, other = (results.lines.values(run) for run in pair)
                if all(one[key] == other[key] for key in one.keys() & other.keys()):
                    yield f"{task}{suffix}", runs[runs["line"].isin([results.lines.name(run) for run in pair])]


def _by_task(results: Results, kind: Kind) -> list[tuple[str, pd.DataFrame]]:
    return [(str(task), runs) for task, runs in results.of_kind(kind).groupby("task", sort=False)]


def _by_line(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(line), group) for line, group in runs.groupby("line", sort=False)]


def _look(results: Results, line: str) -> tuple[str, str]:
    """Return the colour and marker of a line. They are the same in every figure."""
    number = results.algorithms.index(line)
    # The ninth line has the colour of the first one, with another marker.
    return COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]


def _until(curve: Series, step: int) -> Series:
    """Cut a curve at ``step``. The value there is interpolated."""
    kept = sum(at <= step for at in curve.steps)
    steps, values = curve.steps[:kept], curve.values[:kept]
    if steps[-1] < step < curve.steps[-1]:
        return Series((*steps, step), (*values, float(np.interp(step, curve.steps, curve.values))))
    return Series(steps, values)


def _hide_x_ticks(axis: "Axes", runs: pd.DataFrame) -> None:
    axis.set_xticks([])
    axis.set_xlim(-0.7, runs["line"].nunique() - 0.3)


def _legend(canvas: "Canvas", axes: np.ndarray) -> None:
    """Draw one legend below all panels. Equal labels share one entry; a label includes the number of seeds."""
    entries: dict[str, Any] = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if entries:
        columns = max(1, min(3, int(canvas.get_figwidth() // 3)))
        look: dict[str, Any] = {"ncols": columns, "frameon": False, "fontsize": 8, "handlelength": 3.5}
        legend = canvas.legend(list(entries.values()), list(entries), loc="outside lower center", **look)
        for text in legend.get_texts():
            text.set_parse_math(False)
