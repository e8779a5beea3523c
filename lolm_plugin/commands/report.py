"""``lolm report DIR``: write an html page, figures and tables about the runs below a folder."""

from collections.abc import Sequence
from pathlib import Path

from lolm_plugin.configuration.command_line import Parser
from lolm_plugin.paths import expand_home
from lolm_plugin.report import html_report

DESCRIPTION = """\
Reads every Sacred run below DIR, from this plugin or from EPyMARL alone, and writes DIR/report: index.html, which
opens offline; figures as PNG and PDF; tables as CSV, Markdown and LaTeX; results.json for marl-eval.

Examples
  lolm report results/suites/smax_quick      the runs of a suite, after `lolm compare smax_quick`
  lolm report results                        all your runs
  lolm report results --out paper/report     the same, written to another folder

Each number shows how many seeds it has. A single seed gets no confidence interval. A seed counts once, even if it ran
several times. Unfinished runs are listed but not counted. The tables results, zero_shot, transfer, aggregate and
improvement depend only on the numbers of the runs. Time, memory and commands are in the tables costs and runs.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    parser = Parser("lolm report", DESCRIPTION)
    parser.add_argument("dir", metavar="DIR", help="folder with runs at any depth below it")
    parser.add_argument("--out", help="folder of the report; default: DIR/report")
    parser.add_argument("--title", help="title of the page; default: the name of DIR")
    options = parser.parse_args(list(arguments))
    folder = Path(expand_home(options.dir, "DIR"))
    out = Path(expand_home(options.out, "--out")) if options.out else folder / "report"
    if not options.out:
        html_report.refuse_link(out)
    print(html_report.write(folder, out, options.title or folder.resolve().name))
    return 0
