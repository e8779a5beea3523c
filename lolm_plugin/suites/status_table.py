"""What a suite's runs are doing, for a terminal that is watched and for a log that is read later."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lolm_plugin.suites.suite import Run
from lolm_plugin.tracking import record_files
from lolm_plugin.tracking.record_files import RecordError
from lolm_plugin.wording import duration

if TYPE_CHECKING:
    from rich.table import Table

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
RECENT = 5  # finished runs that are still shown


@dataclass
class Entry:
    """One run. ``weight``: its share of the work, in seconds; ``reason``: why it failed, in words."""

    run: Run
    folder: Path
    t_max: int
    weight: float
    state: str = WAITING
    tries: int = 0
    reason: str = ""
    step: int = 0
    won: float | None = None  # the last test's win rate, or return where nothing is won
    began: float = 0.0
    ended: float = 0.0
    output_from: int = 0  # where this try's output begins in its file

    def look(self) -> None:
        """Read how far the run is from its record."""
        if (found := progress(self.folder)) is not None:
            self.step, self.won = found

    @property
    def share(self) -> float:
        """How much of the run is done, from 0 to 1."""
        if self.state in (DONE, FAILED):
            return 1.0
        return min(1.0, self.step / max(1, self.t_max)) if self.run.kind != "zero_shot" else 0.0


def progress(folder: Path) -> tuple[int, float | None] | None:
    """The newest record's last step and test win rate (or return); None before it says anything."""
    try:
        files = sorted((folder / "results/sacred").glob("*/*/*/metrics.json"), key=lambda path: path.lstat().st_mtime)
        metrics = record_files.load_metrics(files[-1].parent) if files else {}
    except (OSError, RecordError):  # moved or half written; the next look may read it
        return None
    steps = [series.steps[-1] for series in metrics.values()]
    tests = [metrics[name].values[-1] for name in ("test_battle_won_mean", "test_return_mean") if name in metrics]
    return (max(steps), None if not tests or tests[0] is None else float(tests[0])) if steps else None


class Board:
    """All runs of a suite, and how long they will still take."""

    def __init__(self, entries: Iterable[Entry], where: str) -> None:
        self.entries = list(entries)
        self.where = where
        self.start()

    def start(self) -> None:
        """From now on, time is taken; what is done by now took none."""
        self._began, self._share_at_start = time.monotonic(), self._share()

    def count(self, state: str) -> int:
        """Runs in that state."""
        return sum(entry.state == state for entry in self.entries)

    def left(self) -> str:
        """Time to the end, as far as it went until now."""
        done, spent = self._share() - self._share_at_start, time.monotonic() - self._began
        return duration(spent / done * (1 - self._share())) if done > 0.01 else "unknown"

    def headline(self) -> str:
        """One line."""
        counts = [f"{self.count(DONE)} of {len(self.entries)} done", f"{self.count(RUNNING)} running"]
        if self.count(FAILED):
            counts.append(f"{self.count(FAILED)} failed")
        return f"{', '.join(counts)}, {self.left()} left; {self.where}"

    def line(self, entry: Entry) -> str:
        """What became of a run, for a log."""
        finished = self.count(DONE) + self.count(FAILED)
        how = f": {entry.reason}" if entry.reason else f", {result(entry)}"
        return f"[{finished}/{len(self.entries)}] {entry.run.title} {entry.state} in {spent(entry)}{how}"

    def table(self) -> "Table":
        """For a terminal: what runs, what ended last, what failed."""
        from rich.table import Table

        table = Table(title=self.headline(), title_justify="left", expand=False)
        table.add_column("run", overflow="fold")
        table.add_column("state", no_wrap=True, min_width=len(RUNNING))
        for column in ("steps", "win rate", "left"):
            table.add_column(column, justify="right", no_wrap=True)
        ended = sorted((e for e in self.entries if e.state == DONE and e.ended), key=lambda entry: entry.ended)
        failed = [entry for entry in self.entries if entry.state == FAILED]
        for entry in [*ended[-RECENT:], *failed, *(e for e in self.entries if e.state == RUNNING)]:
            steps = "" if entry.run.kind == "zero_shot" else f"{entry.step:,}/{entry.t_max:,}"
            left = spent(entry) if entry.state == DONE else ""
            if entry.state == RUNNING and entry.share > 0:
                left = duration((time.monotonic() - entry.began) * (1 / entry.share - 1))
            table.add_row(entry.run.title, entry.state, steps, result(entry), left)
        return table

    def _share(self) -> float:
        total = sum(entry.weight for entry in self.entries)
        return sum(entry.weight * entry.share for entry in self.entries) / total if total else 1.0


def result(entry: Entry) -> str:
    """The win rate of the last test."""
    return "" if entry.won is None else f"{entry.won:.0%}"


def spent(entry: Entry) -> str:
    """How long this process has seen the run take."""
    return duration((entry.ended or time.monotonic()) - entry.began) if entry.began else "no time"
