"""``lolm report DIR``: report on the runs below a folder, as an html page, figures, and tables for a paper."""

from collections.abc import Sequence
from pathlib import Path

from lolm_plugin.configuration.command_line import Parser
from lolm_plugin.paths import expand_home
from lolm_plugin.report import html_report

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
    parser = Parser("lolm report", DESCRIPTION)
    parser.add_argument("dir", metavar="DIR", help="a folder with runs somewhere below it")
    parser.add_argument("--out", help="where the report goes; default DIR/report")
    parser.add_argument("--title", help="of the page; default DIR's name")
    options = parser.parse_args(list(arguments))
    folder = Path(expand_home(options.dir, "DIR"))
    out = Path(expand_home(options.out, "--out")) if options.out else folder / "report"
    if not options.out:
        html_report.refuse_link(out)
    print(html_report.write(folder, out, options.title or folder.resolve().name))
    return 0
