"""The state of a suite's runs: a live table for a terminal, lines for a log."""

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
RECENT = 5  # finished runs that the table shows


@dataclass
class RunStatus:
    """The state of one run. ``weight`` is its work (estimated seconds, or steps if no run has finished yet)."""

    run: Run
    folder: Path
    t_max: int
    weight: float
    state: str = WAITING
    tries: int = 0
    reason: str = ""  # why it failed
    step: int = 0
    result: str = ""  # win rate of the last test, or its return without a win rate
    began: float = 0.0  # time.monotonic() at its first start; 0 if this process has not started it
    ended: float = 0.0
    output_from: int = 0  # offset in bytes of this try's output in output.txt

    def read_progress(self) -> None:
        """Update ``step`` and ``result`` from the newest record, if there is one that can be read."""
        try:
            paths = (self.folder / "results/sacred").glob("*/*/*/metrics.json")
            newest = max(paths, key=lambda path: path.lstat().st_mtime, default=None)
            metrics = record_files.load_metrics(newest.parent) if newest else {}
        except (OSError, RecordError):  # moved or half written; the next update may succeed
            return
        self.step = max((metric.steps[-1] for metric in metrics.values()), default=self.step)
        for name, form in (("test_battle_won_mean", "{:.0%}"), ("test_return_mean", "return {:.3g}")):
            if name in metrics:
                value = metrics[name].values[-1]
                self.result = "" if value is None else form.format(value)
                return

    @property
    def share(self) -> float:
        """Return the finished share of the run, from 0 to 1. A failed run counts as finished."""
        if self.state in (DONE, FAILED):
            return 1.0
        return min(1.0, self.step / max(1, self.t_max)) if self.run.kind != "zero_shot" else 0.0

    @property
    def spent(self) -> str:
        """Return the time since the first start of the run by this process, as text."""
        return duration((self.ended or time.monotonic()) - self.began) if self.began else "no time"


class StatusTable:
    """The states of all runs of a suite, with an estimate of the time left."""

    def __init__(self, statuses: Iterable[RunStatus], where: str) -> None:
        self.statuses = list(statuses)
        self.where = where
        self.start()

    def start(self) -> None:
        """Start the clock for ``left``. Runs that are already done do not count in the speed."""
        self._began, self._share_at_start = time.monotonic(), self._share()

    def count(self, state: str) -> int:
        """Count the runs in a state."""
        return sum(status.state == state for status in self.statuses)

    def left(self) -> str:
        """Estimate the time left from the speed since ``start``, as text."""
        done, spent = self._share() - self._share_at_start, time.monotonic() - self._began
        return duration(spent / done * (1 - self._share())) if done > 0.01 else "unknown"

    def headline(self) -> str:
        """Summarise the suite in one line."""
        failed = f", {self.count(FAILED)} failed" if self.count(FAILED) else ""
        done = f"{self.count(DONE)} of {len(self.statuses)} done, {self.count(RUNNING)} running"
        return f"{done}{failed}, {self.left()} left; {self.where}"

    def line(self, status: RunStatus) -> str:
        """Format a log line about a run that ended."""
        finished = self.count(DONE) + self.count(FAILED)
        how = f": {status.reason}" if status.reason else f", {status.result}"
        return f"[{finished}/{len(self.statuses)}] {status.run.title} {status.state} in {status.spent}{how}"

    def table(self) -> "Table":
        """Build the table for a terminal: the last finished runs, then failed and running ones."""
        from rich.table import Table

        table = Table(title=self.headline(), title_justify="left", expand=False)
        table.add_column("run", overflow="fold")
        table.add_column("state", no_wrap=True, min_width=len(RUNNING))
        for column in ("steps", "win rate", "left"):
            table.add_column(column, justify="right", no_wrap=True)
        by_state = {state: [s for s in self.statuses if s.state == state] for state in (DONE, FAILED, RUNNING)}
        ended = sorted((status for status in by_state[DONE] if status.ended), key=lambda status: status.ended)
        for status in [*ended[-RECENT:], *by_state[FAILED], *by_state[RUNNING]]:
            steps = "" if status.run.kind == "zero_shot" else f"{status.step:,}/{status.t_max:,}"
            left = status.spent if status.state == DONE else ""
            if status.state == RUNNING and status.share > 0:
                left = duration((time.monotonic() - status.began) * (1 / status.share - 1))
            table.add_row(status.run.title, status.state, steps, status.result, left)
        return table

    def _share(self) -> float:
        total = sum(status.weight for status in self.statuses)
        return sum(status.weight * status.share for status in self.statuses) / total if total else 1.0
