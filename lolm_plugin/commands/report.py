"""``lolm report DIR``: what the runs below a folder say, as a page, pictures, and tables for a paper."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from lolm_plugin import strict_json
from lolm_plugin.errors import ConfigError
from lolm_plugin.paths import expand_home
from lolm_plugin.report import figures, marl_eval, page, records, tables
from lolm_plugin.report.results import WIN_RATE, Results, sort
from lolm_plugin.report.tables import Table

DESCRIPTION = """\
Reads every Sacred file run below DIR, of this plugin or of EPyMARL alone, and writes DIR/report: index.html, which
opens offline; figures as PNG and PDF; tables as CSV, Markdown and LaTeX; results.json for marl-eval.

  lolm report results/suites/smax_quick      what lolm compare made
  lolm report results                        your own runs
  lolm report results --out paper/report

Each number says how many seeds are behind it. One seed gets no interval, and counts once however often it ran. Runs
that did not finish are listed, not counted. The tables results, zero_shot, transfer, aggregate and improvement depend
on the runs' numbers alone; time, memory and commands are in costs and runs.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        "lolm report", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", metavar="DIR", help="a folder with runs somewhere below it")
    parser.add_argument("--out", help="where the report goes; default DIR/report")
    parser.add_argument("--title", help="of the page; default DIR's name")
    options = parser.parse_args(list(arguments))
    folder = Path(expand_home(options.dir, "DIR"))
    out = Path(expand_home(options.out, "--out")) if options.out else folder / "report"
    if not options.out:
        _refuse_link(out)
    written = write(folder, out, options.title or folder.resolve().name)
    print(written)
    return 0


def write(folder: Path, out: Path, title: str) -> str:
    """The whole report; returns what to print. Raises ConfigError where there is nothing to report."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; name one with runs below it, such as results.")
    unusable: list[str] = []
    results = sort(records.read_all(folder, unusable), unusable)
    if not results.runs and unusable:
        raise ConfigError(f"{folder} has no record that can be used; {page.unreadable(unusable)}")
    if not results.runs:
        raise ConfigError(f"{folder} has no Sacred run below it (a folder with run.json); name one that does.")
    if not results.algorithms:
        raise ConfigError(_nothing(folder, results))
    found = list(all_tables(results))
    try:
        _write(out, title, results, found)
    except OSError as error:
        raise ConfigError(
            f"The report cannot be written to {out} ({error.strerror}); set --out to a folder that can be written."
        ) from error
    shown = [table.text() for table in found if table.name in ("results", "zero_shot", "transfer")]
    return "\n".join([*shown, *page.warnings(results), f"\nThe report: {out / 'index.html'}"])


def _write(out: Path, title: str, results: Results, found: Sequence[Table]) -> None:
    for kind in ("figures", "tables"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    for path in (out / "figures", out / "tables", *out.glob("*"), *out.glob("*/*")):
        _refuse_link(path)
    for table in found:
        for ending, text in (("csv", table.csv()), ("md", table.markdown()), ("tex", table.latex())):
            (out / "tables" / f"{table.name}.{ending}").write_text(text)
    pictures = list(figures.all_figures(results))
    drawn = [
        (picture, figures.draw(picture, out / "figures", results.metric == WIN_RATE))
        for picture in tqdm(pictures, desc="figures", unit="figure", leave=False)
    ]
    (out / "results.json").write_text(
        strict_json.dumps(marl_eval.export(results.counted, results.lines.name), indent=1)
    )
    (out / "index.html").write_text(page.html(title, results, drawn, found))


def _refuse_link(path: Path) -> None:
    """A folder of runs may come from elsewhere, with links in the place of a report, to be written through."""
    if path.is_symlink():
        raise ConfigError(f"{path} is a link, and a report is not written through one; remove it, or set --out.")


def _nothing(folder: Path, results: Results) -> str:
    if len(results.unfinished) == len(results.runs):
        states = sorted({f"{run.status}, but {run.defect}" if run.defect else run.status for run in results.runs})
        return f"{folder} has no finished run yet (they are {', '.join(states)}); try again when one has completed."
    reasons = "; ".join(sorted(set(results.left_out.values())))
    return f"{folder} has no run that can be compared ({reasons}); name one with training runs or transfers that test."


def all_tables(results: Results) -> Iterator[Table]:
    """Those that have a row."""
    makers = (tables.results_table, tables.zero_shot_table, tables.transfer_table, tables.aggregate_table)
    for make in (*makers, tables.improvement_table, tables.lines_table, tables.costs_table, tables.runs_table):
        if (table := make(results)).rows:
            yield table
