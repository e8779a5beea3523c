"""The report as one HTML file that needs nothing else: pictures inside, no scripts, no network."""

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path

from jinja2 import Environment

from lolm_plugin.report.figures import Picture
from lolm_plugin.report.records import RunRecord
from lolm_plugin.report.results import Results
from lolm_plugin.report.tables import Table
from lolm_plugin.wording import several

NAMED = 10  # runs that a warning lists

TEMPLATE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
  :root { color-scheme: light dark; --line: #8886; --soft: #8881; }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 0 auto; padding: 1rem; }
  h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
  nav a { display: inline-block; margin-right: 1rem; }
  p, nav { overflow-wrap: anywhere; }
  figure { margin: 1rem 0; } img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
  figcaption, .note { font-size: .88rem; opacity: .8; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
  th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
  tbody tr:nth-child(odd) { background: var(--soft); }
  td.command { font-family: ui-monospace, monospace; font-size: .75rem; white-space: normal; min-width: 28rem; }
  .warning { border-left: 4px solid #D55E00; padding: .3rem .8rem; background: var(--soft); }
</style>
<h1>{{ title }}</h1>
<p>{{ summary }}</p>
{% for sentence in warnings %}<p class="warning">{{ sentence }}</p>
{% endfor %}
<nav>{% for picture, _ in pictures %}<a href="#{{ picture.name }}">{{ picture.title }}</a> {% endfor %}
{% for table in tables %}<a href="#table-{{ table.name }}">{{ table.title }}</a> {% endfor %}</nav>
{% for picture, image in pictures %}
<h2 id="{{ picture.name }}">{{ picture.title }}</h2>
<figure><img alt="{{ picture.title }}: {{ picture.reading }}" src="data:image/png;base64,{{ image }}">
<figcaption>{{ picture.reading }}</figcaption></figure>
{% endfor %}
{% for table in tables %}
<h2 id="table-{{ table.name }}">{{ table.title }}</h2>
<div class="wide"><table><thead><tr>{% for cell in table.columns %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in table.rows %}<tr>
{%- for cell in row %}<td class="{{ table.columns[loop.index0] }}">{{ cell }}</td>{% endfor -%}
</tr>
{% endfor %}</tbody></table></div>
<p class="note">{{ table.note }}</p>
{% endfor %}
</html>
"""


def html(title: str, results: Results, pictures: Sequence[tuple[Picture, Path]], tables: Sequence[Table]) -> str:
    """The whole page; every text in it is escaped, wherever it comes from."""
    images = [(picture, base64.b64encode(path.read_bytes()).decode()) for picture, path in pictures]
    template = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    return template.render(
        title=title, summary=summary(results), warnings=warnings(results), pictures=images, tables=tables
    )


def summary(results: Results) -> str:
    """How much there is, in a sentence."""
    maps = {run.map_name for run in results.runs}
    seeds = sorted({run.seed for run in results.runs})
    done = len(results.runs) - len(results.unfinished)
    shown = ", ".join(map(str, seeds)) if len(seeds) <= 10 else f"{len(seeds)} seeds"
    return (
        f"{done} finished runs of {', '.join(results.algorithms) or 'no algorithm'} on {', '.join(sorted(maps))}; "
        f"seeds {shown}. Everything is measured in {results.what}s of greedy tests."
    )


def warnings(results: Results) -> list[str]:
    """What a reader has to know before the numbers."""
    return [*_single(results), *_uneven(results), *_left_out(results)]


def _single(results: Results) -> Iterator[str]:
    groups = _groups(results)
    single = sum(len(runs) == 1 for runs in groups)
    if single:
        yield (
            f"{single} of {len(groups)} results of an algorithm on a map or transfer rest on one seed. They get no "
            "interval and no spread, as another seed may come out quite differently."
        )


def _uneven(results: Results) -> Iterator[str]:
    """Runs in one mean that a reader would not expect there."""
    for runs in _groups(results):
        first = runs[0]
        sources = {str(run.config.get("transfer_from")) for run in runs}
        if first.kind != "scratch" and len(runs) > 1 and len(sources) == 1:
            yield (
                f"{results.lines.name(first)} from {first.source_map} to {first.map_name}, {_word(first.kind)}: all "
                f"{len(runs)} seeds start from one source run, so the spread says nothing of other sources."
            )
        lengths = sorted({run.t_max for run in runs})
        written = ", ".join(f"{length:,}" for length in lengths)
        if first.kind != "zero_shot" and len(lengths) > 1:
            yield (
                f"{results.lines.name(first)} on {first.map_name}, {_word(first.kind)}: its seeds had different "
                f"numbers of steps (t_max {written}), and are in one mean all the same."
            )


def _left_out(results: Results) -> Iterator[str]:
    unfinished = results.unfinished
    # Evaluations are not meant to be compared; nobody misses them.
    left = [run for run in results.runs if run.folder in results.left_out and run.kind != "evaluation"]
    others = [run for run in left if run.is_whole]
    if unfinished:
        yield f"{_are(len(unfinished), 'run')} not finished and in no number: {_named(results, unfinished)}."
    if others:
        yield f"{_are(len(others), 'finished run')} in no number: {_named(results, others)}."
    if results.unusable:
        yield unreadable(results.unusable)


def unreadable(sentences: Sequence[str]) -> str:
    """Name the records that could not be used, the first few of many."""
    rest = f" And {len(sentences) - NAMED} more." if len(sentences) > NAMED else ""
    return f"{_are(len(sentences), 'record')} left out: {' '.join(sentences[:NAMED])}{rest}"


def _groups(results: Results) -> list[list[RunRecord]]:
    groups = (results.scratch, results.zero_shot, results.few_shot)
    return [runs for by in groups for group in by.values() for runs in group.values()]


def _named(results: Results, runs: Sequence[RunRecord]) -> str:
    names = [
        f"{results.lines.name(run)} on {run.map_name}, seed {run.seed}: {results.left_out[run.folder]}" for run in runs
    ]
    rest = [f"and {len(names) - NAMED} more, see the table of every run"] if len(names) > NAMED else []
    return "; ".join([*names[:NAMED], *rest])


def _are(number: int, thing: str) -> str:
    return f"{several(number, thing)} {'is' if number == 1 else 'are'}"


def _word(kind: str) -> str:
    return "from scratch" if kind == "scratch" else kind.replace("_", "-")
