"""Start the runs of a suite on workers, retry failed runs, and stop all runs so that they can be resumed."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lolm_plugin.errors import ConfigError
from lolm_plugin.suites import plan, run_process
from lolm_plugin.suites.plan import Planned
from lolm_plugin.suites.status_table import DONE, FAILED, RUNNING, WAITING, RunStatus, StatusTable
from lolm_plugin.suites.workers import Workers

POLL = 0.5  # seconds between checks for runs that ended
PROGRESS_SECONDS = 5.0  # seconds between updates of the runs' progress
USAGE_CODE = 2  # a run's exit code for a mistake in its settings; another try would fail in the same way

# Shows a run that ended or a sentence. None only refreshes the table.
Show = Callable[[RunStatus | str | None], None]


@contextmanager
def locked(results: Path) -> Iterator[None]:
    """Lock the results folder of a suite. Raises ConfigError if another process has locked it."""
    results.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(results / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ConfigError(
            f"another lolm compare is running in {results}; wait for it, or set --results to another folder."
        ) from error


def prepare(planned: Sequence[Planned], results: Path, host: str) -> list[RunStatus]:
    """Write the command line of each run to its folder below ``results``. Return the status of every run.

    Raises:
        ConfigError: a folder holds a run with other settings.
    """
    folders = {item.run.key: results / "runs" / item.run.key for item in planned}
    weights = plan.weights(planned)
    statuses = []
    for item in planned:
        run = item.run
        status = RunStatus(run, folders[run.key], item.config["t_max"], weights[run.key])
        try:
            source_folder = folders[run.source.key] if run.source else None
            run_process.write(status.folder, run.arguments(), source_folder, host)
        except run_process.DamagedFile as error:
            status.state, status.reason = FAILED, str(error)
        statuses.append(status)
    by_key = {status.run.key: status for status in statuses}
    for status in statuses:  # run a source again if a transfer needs its weights and no checkpoint exists
        source = by_key[status.run.source.key] if status.run.source else None
        if source and not run_process.is_done(status.folder) and run_process.models(source.folder) is None:
            run_process.reopen(source.folder)
    for status in statuses:
        if status.state == WAITING and run_process.is_done(status.folder):
            status.state = DONE
            status.read_progress()
    return statuses


class Scheduler:
    """Scheduler of a suite's runs. Runs start in order, a transfer only after its source is done."""

    def __init__(self, table: StatusTable, workers: Workers, retries: int) -> None:
        self._table, self._workers, self._retries = table, workers, retries
        self._running: dict[str, Any] = {}
        self._statuses = {status.run.key: status for status in table.statuses}
        self._read_progress_at = 0.0

    def run(self, show: Show) -> int:
        """Run the suite until every run is done or failed. Return 0, 1 if a run failed, or 130 after Ctrl-C."""
        self._table.start()
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            while self._step(show):
                time.sleep(POLL)
        except KeyboardInterrupt:
            self._stop(show)
            return 130
        finally:
            signal.signal(signal.SIGTERM, before)
        return int(self._table.count(FAILED) > 0)

    def _step(self, show: Show) -> bool:
        """Check running runs once and start waiting ones. Return False if no run is running or waiting."""
        for key, handle in list(self._running.items()):
            if (code := self._workers.poll(handle)) is not None:
                del self._running[key]
                self._finish(self._statuses[key], code, show)
        for status in self._table.statuses:
            if status.state == WAITING and len(self._running) < self._workers.slots:
                self._start_if_ready(status, show)
        if time.monotonic() - self._read_progress_at > PROGRESS_SECONDS:
            self._read_progress_at = time.monotonic()
            for key in self._running:
                self._statuses[key].read_progress()
        show(None)
        return bool(self._running) or self._table.count(WAITING) > 0

    def _start_if_ready(self, status: RunStatus, show: Show) -> None:
        source = self._statuses[status.run.source.key] if status.run.source else None
        if source and source.state == FAILED:
            status.state, status.reason = FAILED, f"its source, {source.run.title}, failed"
            show(status)
        elif source is None or source.state == DONE:
            output = status.folder / run_process.OUTPUT
            status.output_from = output.stat().st_size if output.exists() else 0
            status.state, status.tries = RUNNING, status.tries + 1
            status.began = status.began or time.monotonic()
            self._running[status.run.key] = self._workers.start(status.folder)

    def _finish(self, status: RunStatus, code: int, show: Show) -> None:
        status.read_progress()
        if run_process.is_done(status.folder):
            status.state, status.ended, status.reason = DONE, time.monotonic(), ""
        elif code != USAGE_CODE and status.tries <= self._retries:
            status.state = WAITING
            return
        else:
            status.state, status.ended, status.reason = FAILED, time.monotonic(), _reason(status, code)
        show(status)

    def _stop(self, show: Show) -> None:
        show(f"stopping {len(self._running)} runs after they save; press Ctrl-C again to stop them at once")
        for handle in self._running.values():
            self._workers.stop(handle)
        try:
            while any(self._workers.poll(handle) is None for handle in self._running.values()):
                time.sleep(POLL)
        except KeyboardInterrupt:
            for handle in self._running.values():
                self._workers.stop(handle)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _reason(status: RunStatus, code: int) -> str:
    """Return why a run failed: its last error, or else the last line that it printed."""
    file = status.folder / run_process.OUTPUT
    with file.open("rb") as output:
        output.seek(status.output_from)
        lines = [line.strip() for line in output.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    printed = (errors or lines or ["it printed nothing"])[-1]
    killed = f"killed by {signal.Signals(-code).name}: " if code < -1 else ""
    return f"{killed}{printed.removeprefix('error: ')} ({file})"
