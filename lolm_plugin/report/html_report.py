"""Write the report: one html file that opens offline, figures, tables, and results.json for marl-eval."""

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from tqdm import tqdm

from lolm_plugin import strict_json
from lolm_plugin.errors import ConfigError
from lolm_plugin.report import battles, figures, marl_eval, records
from lolm_plugin.report.battles import Watched
from lolm_plugin.report.records import RunRecord
from lolm_plugin.report.results import Results, select
from lolm_plugin.report.tables import Table, all_tables
from lolm_plugin.wording import several

TEMPLATE = "report.html"
NAMED = 10  # runs that a warning lists


def write(folder: Path, out: Path, title: str) -> str:
    """Write the report on the runs below ``folder`` to ``out``. Return the text to print.

    Raises:
        ConfigError: there is nothing to report, or ``out`` cannot be written.
    """
    results = read(folder)
    tables = list(all_tables(results))
    try:
        for kind in ("figures", "tables"):
            (out / kind).mkdir(parents=True, exist_ok=True)
        for path in (out / "figures", out / "tables", *out.glob("*"), *out.glob("*/*")):
            refuse_link(path)
        for table in tables:
            for ending, text in (("csv", table.csv()), ("md", table.markdown()), ("tex", table.latex())):
                (out / "tables" / f"{table.name}.{ending}").write_text(text)
        drawn = []
        for figure in tqdm(list(figures.all_figures(results)), desc="figures", unit="figure", leave=False):
            png = figures.draw(figure, results, out / "figures")
            drawn.append((figure, base64.b64encode(png.read_bytes()).decode()))
        (out / "results.json").write_text(strict_json.dumps(marl_eval.export(results), indent=1))
        watched = battles.write(results, out)
        (out / "index.html").write_text(_html(title, results, drawn, tables, watched))
    except OSError as error:
        raise ConfigError(
            f"The report cannot be written to {out} ({error.strerror}); set --out to a folder that can be written."
        ) from error
    printed = [table.text() for table in tables if table.name in ("results", "held_out", "zero_shot", "transfer")]
    return "\n".join([*printed, *warnings(results), f"\nThe report: {out / 'index.html'}"])


def read(folder: Path) -> Results:
    """Read and select the runs below ``folder``. Raises ConfigError if no run can be compared."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; name one with runs below it, such as results.")
    unusable: list[str] = []
    results = select(records.read_all(folder, unusable), unusable)
    if not results.runs and unusable:
        raise ConfigError(f"{folder} has no record that can be used; {_unreadable(unusable)}")
    if not results.runs:
        raise ConfigError(f"{folder} has no Sacred run below it (a folder with run.json); name one that does.")
    if results.algorithms:
        return results
    if len(results.unfinished) == len(results.runs):
        states = sorted({f"{run.status}, but {run.defect}" if run.defect else run.status for run in results.runs})
        raise ConfigError(
            f"{folder} has no finished run yet (status: {', '.join(states)}); try again when one has completed."
        )
    reasons = "; ".join(sorted(set(results.excluded.values())))
    raise ConfigError(
        f"{folder} has no run that can be compared ({reasons}); name a folder with tested training runs or transfers."
    )


def refuse_link(path: Path) -> None:
    """Raise ConfigError if ``path`` is a link. In a folder from someone else, it could point to a file of the user."""
    if path.is_symlink():
        raise ConfigError(f"{path} is a link, and a report is not written through links; remove it, or set --out.")


def _html(
    title: str,
    results: Results,
    drawn: Sequence[tuple[figures.Figure, str]],
    tables: Sequence[Table],
    watched: Sequence[Watched],
) -> str:
    """Render the template. Every text in it is escaped."""
    loader = FileSystemLoader(Path(__file__).parent)
    template = Environment(autoescape=True, trim_blocks=True, loader=loader).get_template(TEMPLATE)
    return template.render(
        title=title,
        summary=_summary(results),
        warnings=warnings(results),
        figures=drawn,
        tables=tables,
        battles=watched,
    )


def _summary(results: Results) -> str:
    maps = sorted({run.map_name for run in results.runs})
    seeds = sorted({run.seed for run in results.runs})
    listed = ", ".join(map(str, seeds)) if len(seeds) <= 10 else f"{len(seeds)} seeds"
    return (
        f"{len(results.runs) - len(results.unfinished)} finished runs of {', '.join(results.algorithms)} on "
        f"{', '.join(maps)}; seeds {listed}. All results are {results.metric_title}s of greedy tests."
    )


def warnings(results: Results) -> list[str]:
    """Return the warnings shown above the results."""
    return [*_group_warnings(results), *_left_out(results)]


def _group_warnings(results: Results) -> Iterator[str]:
    """Warn about means over a single seed, over transfers from one source run, and over runs of different lengths."""
    groups = [list(group) for _, group in results.counted.groupby(["kind", "task", "line"], sort=False)["run"]]
    if single := sum(len(runs) == 1 for runs in groups):
        yield (
            f"{single} of {len(groups)} results of an algorithm on a map or transfer have only one seed. They get no "
            "interval and no spread, because another seed may give a very different result."
        )
    for runs in groups:
        first = runs[0]
        line, kind = results.lines.name(first), first.kind.replace("_", "-").replace("scratch", "from scratch")
        if (
            first.kind != "scratch"
            and len(runs) > 1
            and len({str(run.config.get("transfer_from")) for run in runs}) == 1
        ):
            yield (
                f"{line} from {first.source_map} to {first.map_name}, {kind}: all {len(runs)} seeds start from one "
                "source run, so the spread does not include the variation between source runs."
            )
        lengths = sorted({run.t_max for run in runs})
        if first.kind != "zero_shot" and len(lengths) > 1:
            yield (
                f"{line} on {first.map_name}, {kind}: its seeds had different numbers of steps (t_max "
                f"{', '.join(f'{length:,}' for length in lengths)}) but are averaged together."
            )


def _left_out(results: Results) -> Iterator[str]:
    # Evaluations are never compared, so leaving them out needs no warning.
    others = [
        run for run in results.runs if run.folder in results.excluded and run.is_complete and run.kind != "evaluation"
    ]
    if runs := results.unfinished:
        yield f"{_are(len(runs), 'run')} not finished and not counted: {_named(results, runs)}."
    if others:
        yield f"{_are(len(others), 'finished run')} not counted: {_named(results, others)}."
    if results.unusable:
        yield _unreadable(results.unusable)


def _unreadable(sentences: Sequence[str]) -> str:
    rest = f" And {len(sentences) - NAMED} more." if len(sentences) > NAMED else ""
    return f"{_are(len(sentences), 'record')} left out: {' '.join(sentences[:NAMED])}{rest}"


def _named(results: Results, runs: Sequence[RunRecord]) -> str:
    names = [
        f"{results.lines.name(run)} on {run.map_name}, seed {run.seed}: {results.excluded[run.folder]}" for run in runs
    ]
    rest = [f"and {len(names) - NAMED} more, see the table of every run"] if len(names) > NAMED else []
    return "; ".join([*names[:NAMED], *rest])


def _are(number: int, thing: str) -> str:
    return f"{several(number, thing)} {'is' if number == 1 else 'are'}"
