"""Results as pictures, PNG for the page and PDF for the paper."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lolm_plugin.report import metrics, statistics
from lolm_plugin.report.records import RunRecord, Series
from lolm_plugin.report.results import ABLATIONS, WHOLE, Group, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by the colour-blind; lines differ in style and marker as well.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#8C8C00")
MARKERS = "osD^vP*X"
STEPS = "environment steps"
DASHED = (0, (4, 2))
COLUMNS = 4
UNDATED = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}


@dataclass
class Picture:
    """One picture: ``name`` of its files, a title, how to read it, and what draws its panels."""

    name: str
    title: str
    reading: str
    panels: Sequence[tuple[str, Callable[["Axes"], None]]]
    xlabel: str = STEPS
    ylabel: str = ""


def all_figures(results: Results) -> Iterator[Picture]:
    """Those for which there are runs."""
    style = Style(results.algorithms)
    band = "Lines are means over seeds, bands ± one standard deviation; a single seed is a line without a band"
    if results.scratch:
        panels = [
            (place, _curves(results, style, [(name, group[name], "-") for name in results.algorithms if name in group]))
            for place, group in results.scratch.items()
        ]
        yield Picture("learning", "Learning from scratch (figure 5)", f"{band}.", panels, ylabel=results.what)
    if results.zero_shot:
        panels = [
            (" → ".join(places), _distribution(results, style, group)) for places, group in results.zero_shot.items()
        ]
        reading = "Dots are means, thick bars ± one standard deviation, thin bars extremes, crosses single runs."
        yield Picture("zero_shot", "Zero-shot transfer (figure 6)", reading, panels, xlabel="", ylabel=results.what)
    if results.few_shot:
        panels = [
            (" → ".join(places), _few_shot(results, style, places, group)) for places, group in results.few_shot.items()
        ]
        reading = f"Solid: few-shot on the target. Dashed: the target from scratch, as far as few-shot went. {band}."
        yield Picture("few_shot", "Few-shot against from scratch (figure 7)", reading, panels, ylabel=results.what)
        panels = [
            (" → ".join(places), _jumpstart(results, style, places, group))
            for places, group in results.few_shot.items()
        ]
        reading = (
            "From the test before the first update (hollow) to the asymptote (full), means over seeds. Dotted: the "
            "untrained policy of learning from scratch, the zero of the jumpstart."
        )
        title = "Jumpstart and asymptote (figure 8)"
        yield Picture("jumpstart", title, reading, panels, xlabel="", ylabel=results.what)
    if panels := list(_ablations(results, style)):
        yield Picture("ablations", "Ablations (figures 9 and 10)", f"{band}.", panels, ylabel=results.what)
    if panels := list(_entropies(results, style)):
        reading = f"Mean entropy of the policy's choices while it learns. {band}."
        yield Picture("entropy", "Policy entropy (figure 11)", reading, panels, ylabel="nats")
    if len(results.scratch) > 1 and results.what == "test win rate":
        reading = "The share of runs, over all maps, whose last test is above a win rate: higher is better everywhere."
        panels = [("all maps, from scratch", _profile(results, style))]
        yield Picture(
            "profile", "Performance profile", reading, panels, xlabel="win rate", ylabel="share of runs above it"
        )


def draw(figure: Picture, folder: Path, win_rate: bool) -> Path:
    """Write ``NAME.png`` and ``NAME.pdf``; returns the former."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import EngFormatter

    columns = min(COLUMNS, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    size = (max(5.0, 3.4 * columns), 2.9 * rows + 0.6)
    picture, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", sharey=win_rate)
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
    _legend(picture, axes)
    for kind, metadata in UNDATED.items():
        picture.savefig(folder / f"{figure.name}.{kind}", dpi=130, metadata=metadata)
    pyplot.close(picture)
    return folder / f"{figure.name}.png"


class Style:
    """The same colour and marker for an algorithm in every figure."""

    def __init__(self, algorithms: Sequence[str]) -> None:
        self._place = {name: place for place, name in enumerate(algorithms)}

    def colour(self, algorithm: str) -> str:
        return COLOURS[self._place[algorithm] % len(COLOURS)]

    def marker(self, algorithm: str) -> str:
        # The ninth algorithm has the first one's colour and another marker.
        place = self._place[algorithm]
        return MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]


def _curve(axis: "Axes", curves: Sequence[Series], name: str, colour: str, marker: str, line: Any) -> None:
    look = {"ls": line, "color": colour, "marker": marker, "ms": 4}
    try:
        grid, values = metrics.on_grid(curves)
    except ValueError:  # a mean would be of no two runs
        for place, curve in enumerate(curves):
            label = None if place else f"{name} (n={len(curves)}, each run: no common steps)"
            axis.plot(curve.steps, curve.values, label=label, lw=1, **look)
        return
    mean = values.mean(axis=0)
    axis.plot(grid, mean, label=f"{name} (n={len(curves)})", markevery=max(1, len(grid) // 6), lw=1.5, **look)
    if len(curves) > 1:
        spread = values.std(axis=0, ddof=1)
        axis.fill_between(grid, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)


def _curves(
    results: Results, style: Style, lines: Sequence[tuple[str, Sequence[RunRecord], Any]], metric: str = ""
) -> Callable[["Axes"], None]:
    def paint(axis: "Axes") -> None:
        for name, runs, line in lines:
            if curves := results.curves(runs, metric):
                _curve(axis, curves, name, style.colour(name), style.marker(name), line)

    return paint


def _distribution(results: Results, style: Style, group: Group) -> Callable[["Axes"], None]:
    def paint(axis: "Axes") -> None:
        names = [name for name in results.algorithms if name in group]
        for place, name in enumerate(names):
            values, colour = np.array(results.played(group[name])), style.colour(name)
            if len(values) > 1:
                spread = values.std(ddof=1)
                axis.vlines(place, values.min(), values.max(), color=colour, lw=1)
                axis.vlines(place, values.mean() - spread, values.mean() + spread, color=colour, lw=5, alpha=0.5)
            axis.plot([place] * len(values), values, "x", color=colour, ms=5)
            label = f"{name} (n={len(values)})"
            axis.plot(place, values.mean(), style.marker(name), color=colour, ms=7, label=label)
        axis.set_xticks([])
        axis.set_xlim(-0.7, len(names) - 0.3)

    return paint


def _few_shot(results: Results, style: Style, places: tuple[str, str], group: Group) -> Callable[["Axes"], None]:
    def paint(axis: "Axes") -> None:
        for name in (name for name in results.algorithms if name in group):
            curves = results.curves(group[name])
            scratch = results.curves(results.scratch_for(group[name], places[1]))
            colour, marker = style.colour(name), style.marker(name)
            if curves:
                _curve(axis, curves, f"{name} few-shot", colour, marker, "-")
            if curves and scratch:
                # As far as few-shot went: what comes after it cannot be compared.
                upto = max(curve.steps[-1] for curve in curves)
                cut = [_until(curve, upto) for curve in scratch if curve.steps[0] <= upto]
                if cut:
                    _curve(axis, cut, f"{name} from scratch", colour, marker, DASHED)

    return paint


def _until(curve: Series, step: int) -> Series:
    kept = [place for place, at in enumerate(curve.steps) if at <= step]
    steps, values = [curve.steps[place] for place in kept], [curve.values[place] for place in kept]
    if steps[-1] < step < curve.steps[-1]:
        steps.append(step)
        values.append(float(np.interp(step, curve.steps, curve.values)))
    return Series(tuple(steps), tuple(values))


def _jumpstart(results: Results, style: Style, places: tuple[str, str], group: Group) -> Callable[["Axes"], None]:
    def paint(axis: "Axes") -> None:
        names = [name for name in results.algorithms if name in group]
        for place, name in enumerate(names):
            curves, colour = results.curves(group[name]), style.colour(name)
            if not curves:
                continue
            low, high = (
                np.mean([number(curve) for curve in curves]) for number in (metrics.jumpstart, metrics.asymptote)
            )
            axis.annotate("", (place, high), (place, low), arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.5})
            axis.plot(place, low, style.marker(name), color=colour, mfc="white", ms=7)
            scratch = results.curves(results.scratch_for(group[name], places[1]))
            if zeros := [zero for curve in scratch if (zero := metrics.untrained(curve)) is not None]:
                axis.hlines(float(np.mean(zeros)), place - 0.3, place + 0.3, color=colour, ls=":", lw=1.5)
            axis.plot(place, high, style.marker(name), color=colour, ms=7, label=f"{name} (n={len(curves)})")
        axis.set_xticks([])
        axis.set_xlim(-0.7, len(names) - 0.3)

    return paint


def _ablations(results: Results, style: Style) -> Iterator[tuple[str, Callable[["Axes"], None]]]:
    places: list[tuple[str, Group]] = [(place, group) for place, group in results.scratch.items()]
    places += [(f"{' → '.join(both)}, few-shot", group) for both, group in results.few_shot.items()]
    for title, group in places:
        whole = [name for name, runs in group.items() if runs[0].algorithm == WHOLE]
        ablated = [name for name, runs in group.items() if runs[0].algorithm in ABLATIONS]
        for one, other in product(whole, sorted(ablated, key=lambda name: ABLATIONS.index(group[name][0].algorithm))):
            values = [results.lines.values(group[name][0]) for name in (one, other)]
            if all(values[0][key] == values[1][key] for key in values[0].keys() & values[1].keys()):
                yield title, _curves(results, style, [(one, group[one], "-"), (other, group[other], DASHED)])


def _entropies(results: Results, style: Style) -> Iterator[tuple[str, Callable[["Axes"], None]]]:
    for place, group in results.scratch.items():
        lines = [
            (name, group[name], "-") for name in results.algorithms if results.curves(group.get(name, []), "entropy")
        ]
        if lines:
            yield place, _curves(results, style, lines, "entropy")


def _profile(results: Results, style: Style) -> Callable[["Axes"], None]:
    def paint(axis: "Axes") -> None:
        thresholds = np.linspace(0, 1, 101)
        for name in results.algorithms:
            ends = [
                [metrics.final(curve) for curve in results.curves(g.get(name, []))] for g in results.scratch.values()
            ]
            scores = [np.array(task) for task in ends if task]
            if not scores:
                continue
            label = f"{name} ({len(scores)} maps, {sum(map(len, scores))} runs)"
            share = statistics.performance_profile(scores, thresholds)
            axis.step(thresholds, share, where="post", color=style.colour(name), label=label)
            axis.plot(thresholds[::20], share[::20], style.marker(name), color=style.colour(name), ms=4)

    return paint


def _legend(picture: "Figure", axes: np.ndarray) -> None:
    """One below all panels; where panels differ in their number of seeds, an algorithm has an entry for each."""
    entries: Mapping[str, Any] = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if entries:
        columns = max(1, min(3, int(picture.get_figwidth() // 3)))
        legend = picture.legend(
            entries.values(),
            entries.keys(),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=8,
            handlelength=3.5,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
