"""``lolm compare SUITE``: every run of a suite, on this machine or on a Ray cluster, until none is missing."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lolm_plugin.errors import ConfigError
from lolm_plugin.paths import expand_home, locate
from lolm_plugin.suites import job, plan, suite
from lolm_plugin.suites.status_table import DONE, FAILED, RUNNING, WAITING, Board, Entry
from lolm_plugin.suites.workers import LocalWorkers, RayWorkers, Workers

POLL = 0.5  # seconds between looks at what ended
LOOK = 5.0  # seconds between looks at how far the runs are
USAGE_CODE = 2  # a job's exit code for what the user has to mend: another try would say the same

DESCRIPTION = """\
Runs every algorithm of a suite on its maps and transfers with every seed, and goes on where it was stopped:
what is done is not done again, and a run that was interrupted resumes from its last checkpoint.

  lolm compare smax_quick --dry-run          the whole plan and how long it takes; nothing is started
  lolm compare smax_quick                    minutes on 2 cores; then `lolm report results/suites/smax_quick`
  lolm compare my_suite.yaml --workers 4     a suite of your own; docs/experiments.md explains the keys
  lolm compare paper --ray auto --gpus 0.5   on a Ray cluster, two runs a GPU
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code, 1 where a run failed and 130 after Ctrl-C."""
    options = _options(arguments)
    wanted = suite.load(options.suite)
    results = Path(expand_home(options.results or f"results/suites/{wanted.name}", "--results")).absolute()
    checkout = locate(options.epymarl)
    host = str(checkout.resolve()) if checkout else "none"
    runs = wanted.runs()
    planned = plan.check(runs, host)
    threads = options.threads or _threads(planned)
    slots = options.workers or max(1, (os.cpu_count() or 1) // threads)
    where = f"{slots} at a time" if options.ray is None else f"as many at a time as Ray at {options.ray} has room for"
    print(f"{wanted.name}: {wanted.description}\n\n{plan.describe(planned, f'{where}; results in {results}', slots)}\n")
    if outside := plan.named(planned):
        print(f"It names what is imported, opened, fetched, connected to or written to: {', '.join(outside)}\n")
    if options.dry_run:
        return 0
    folders = {run.key: results / "runs" / run.key for run in runs}
    with _alone(results):
        damaged = {}
        for run in runs:
            source = folders[run.source.key] if run.source else None
            try:
                job.write(folders[run.key], run.arguments(), source, host)
            except job.DamagedJob as error:
                damaged[run.key] = str(error)
        workers = _workers(options, slots, threads)
        try:
            weights = plan.weights(planned)
            entries = [Entry(p.run, folders[p.run.key], p.config["t_max"], weights[p.run.key]) for p in planned]
            for entry in entries:
                if entry.run.key in damaged:
                    entry.state, entry.reason = FAILED, damaged[entry.run.key]
            board = Board(entries, workers.where)
            code = _Compare(board, workers, options.retries).run()
        finally:
            workers.close()
    _closing(board, results)
    return code


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    names = "  ".join(suite.available())
    parser = argparse.ArgumentParser(
        "lolm compare", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", help=f"a yaml file, or one of: {names}")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, start nothing")
    parser.add_argument("--results", help="a folder for all of it; default results/suites/SUITE")
    parser.add_argument("--workers", type=_count, help="runs at a time on this machine; default: what its cores take")
    parser.add_argument("--threads", type=_count, help="CPU threads a run; default the suite's torch_threads, else all")
    parser.add_argument("--retries", type=int, default=1, help="further tries of a run that broke; default 1")
    parser.add_argument("--epymarl", help="EPyMARL checkout, or none, as for lolm train")
    parser.add_argument("--ray", metavar="ADDRESS", help="HOST:PORT of a Ray cluster, auto, or local (extra: ray)")
    parser.add_argument("--gpus", type=float, default=0.0, help="with --ray: GPUs a run, such as 0.5; default 0")
    parser.add_argument("--memory-gb", type=float, default=2.0, help="with --ray: main memory a run; default 2")
    return parser.parse_args(list(arguments))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of 1 or more")
    return int(text)


def _threads(planned: Sequence[plan.Planned]) -> int:
    """What the suite says; a run that finds its number out by itself may take every core."""
    said = [item.config.get("torch_threads") or os.cpu_count() or 1 for item in planned]
    return max(said)


def _workers(options: argparse.Namespace, slots: int, threads: int) -> Workers:
    if options.ray is None:
        return LocalWorkers(slots, threads)
    return RayWorkers(options.ray, threads, options.gpus, options.memory_gb)


@contextmanager
def _alone(results: Path) -> Iterator[None]:
    """Two at work in one folder would start everything twice."""
    results.mkdir(parents=True, exist_ok=True)
    with (results / ".lock").open("w") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows has no such locks
            pass
        except BlockingIOError as error:
            raise ConfigError(
                f"another lolm compare is at work in {results}; wait for it, or set --results to another folder."
            ) from error
        yield


class _Compare:
    """Hands over what is ready, looks what became of it, says so."""

    def __init__(self, board: Board, workers: Workers, retries: int) -> None:
        self.board, self.workers, self.retries = board, workers, retries
        self.running: dict[str, Any] = {}
        self.entries = {entry.run.key: entry for entry in board.entries}
        self._looked = 0.0

    def run(self) -> int:
        """Until every run is done or has failed."""
        self._reopen_sources()
        for entry in self.board.entries:
            if entry.state == WAITING and job.is_done(entry.folder):
                entry.state = DONE
                entry.look()
        self.board.start()
        before = signal.signal(signal.SIGTERM, _interrupt)
        with _shown(self.board) as say:
            try:
                while self._step(say):
                    time.sleep(POLL)
            except KeyboardInterrupt:
                self._stop(say)
                return 130
            finally:
                signal.signal(signal.SIGTERM, before)
        return int(self.board.count(FAILED) > 0)

    def _reopen_sources(self) -> None:
        """Have a source run again whose weights are needed and are gone, or were never saved."""
        for entry in self.board.entries:
            source = self.entries[entry.run.source.key] if entry.run.source else None
            if source is not None and not job.is_done(entry.folder) and job.models(source.folder) is None:
                job.reopen(source.folder)

    def _step(self, say: Any) -> bool:
        """One look at everything; False when nothing is left to do."""
        for key, handle in list(self.running.items()):
            if (code := self.workers.poll(handle)) is not None:
                del self.running[key]
                self._ended(self.entries[key], code, say)
        for entry in self.board.entries:
            if entry.state == WAITING and len(self.running) < self.workers.slots:
                self._start_if_ready(entry, say)
        if time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            for key in self.running:
                self.entries[key].look()
        say(None)
        return bool(self.running) or self.board.count(WAITING) > 0

    def _start_if_ready(self, entry: Entry, say: Any) -> None:
        source = self.entries[entry.run.source.key] if entry.run.source else None
        if source is not None and source.state != DONE:
            if source.state == FAILED:
                entry.state, entry.reason = FAILED, f"its source, {source.run.title}, failed"
                say(entry)
            return
        output = entry.folder / job.OUTPUT
        entry.output_from = output.stat().st_size if output.exists() else 0
        entry.state, entry.tries = RUNNING, entry.tries + 1
        entry.began = entry.began or time.monotonic()
        self.running[entry.run.key] = self.workers.start(entry.folder)

    def _ended(self, entry: Entry, code: int, say: Any) -> None:
        entry.look()
        if job.is_done(entry.folder):
            entry.state, entry.ended, entry.reason = DONE, time.monotonic(), ""
        elif code != USAGE_CODE and entry.tries <= self.retries:
            entry.state = WAITING
            return
        else:
            entry.state, entry.ended = FAILED, time.monotonic()
            entry.reason = _reason(entry, code)
        say(entry)

    def _stop(self, say: Any) -> None:
        say(f"stopping {len(self.running)} runs where nothing is lost; once more stops them at once")
        for handle in self.running.values():
            self.workers.stop(handle)
        try:
            while any(self.workers.poll(handle) is None for handle in self.running.values()):
                time.sleep(POLL)
        except KeyboardInterrupt:
            for handle in self.running.values():
                self.workers.stop(handle)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _reason(entry: Entry, code: int) -> str:
    """What the run said last: its error, or its last line."""
    with (entry.folder / job.OUTPUT).open("rb") as output:
        output.seek(entry.output_from)
        lines = [line.strip() for line in output.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    said = (errors or lines or ["it said nothing"])[-1]
    killed = f"killed by {signal.Signals(-code).name}: " if code < -1 else ""
    return f"{killed}{said.removeprefix('error: ')} ({entry.folder / job.OUTPUT})"


@contextmanager
def _shown(board: Board) -> Iterator[Any]:
    """Yields ``say``: an entry has ended, a sentence, or None for a moment that has passed."""
    if not sys.stdout.isatty():

        def say(what: Entry | str | None) -> None:
            if what is not None:
                print(board.line(what) if isinstance(what, Entry) else what, flush=True)

        print(board.headline(), flush=True)
        yield say
        return
    from rich.live import Live

    with Live(board.table(), refresh_per_second=2, transient=True) as live:

        def say(what: Entry | str | None) -> None:
            if what is not None:
                live.console.print(board.line(what) if isinstance(what, Entry) else what, highlight=False)
            live.update(board.table())

        yield say


def _closing(board: Board, results: Path) -> None:
    print(f"\n{board.count(DONE)} of {len(board.entries)} runs are done.")
    for entry in board.entries:
        if entry.state == FAILED:
            print(f"  failed: {entry.run.title}: {entry.reason}")
    if board.count(DONE) < len(board.entries):
        print("The same command goes on with what is missing.")
    if board.count(DONE):
        print(f"Tables and figures: lolm report {results}")
