"""Pages of the best and the worst battle of each line, from the records of the last tests of its runs.

A run's own ``battle.html`` is not linked: a record may come from someone else, and a page can run scripts. The battles
are read strictly and written into new pages.
"""

from dataclasses import dataclass
from pathlib import Path

from lolm_plugin.errors import ConfigError
from lolm_plugin.report.results import Results
from lolm_plugin.watch import page
from lolm_plugin.watch.keeper import FOLDER, LAST
from lolm_plugin.watch.record import Battle, Record, read


@dataclass(frozen=True)
class Watched:
    """A page of one battle: ``file`` is its path below the report."""

    line: str
    task: str
    which: str  # "best" or "worst"
    result: str
    seed: int
    file: str


def write(results: Results, out: Path) -> list[Watched]:
    """Write the pages below ``out``. Runs without a record of battles are left out. Raises OSError."""
    written = []
    for number, ((task, line), group) in enumerate(results.counted.groupby(["task", "line"], sort=False), 1):
        records = [record for run in group["run"] if (record := _record(run.folder)) is not None]
        battles = [(record, battle) for record in records for battle in record.battles]
        if not battles:
            continue
        ordered = sorted(battles, key=lambda pair: (bool(pair[1].won), pair[1].total_reward))
        chosen = {"best": ordered[-1], "worst": ordered[0]} if len(ordered) > 1 else {"best": ordered[0]}
        for which, (record, battle) in chosen.items():
            file = f"{FOLDER}/{number}-{which}.html"
            (out / FOLDER).mkdir(exist_ok=True)
            (out / file).write_text(page.html([record.model_copy(update={"battles": [battle]})]), encoding="utf-8")
            written.append(Watched(str(line), str(task), which, _result(battle), record.seed, file))
    return written


def _record(folder: Path) -> Record | None:
    path = folder / FOLDER / LAST
    if path.parent.is_symlink() or not path.is_file():
        return None
    try:
        return read(path)
    except ConfigError:  # the numbers of the run count without its battles
        return None


def _result(battle: Battle) -> str:
    won = "" if battle.won is None else "won, " if battle.won else "lost, "
    return f"{won}return {battle.total_reward:.2f}"
