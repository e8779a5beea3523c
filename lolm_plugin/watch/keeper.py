"""Keep the battles of tests, each file whole or absent. No failure stops a run."""

import logging
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lolm_plugin.paths import write_whole
from lolm_plugin.protocols import Batch
from lolm_plugin.watch import page
from lolm_plugin.watch.record import Record, dumps, read
from lolm_plugin.watch.recorder import Recorder

FOLDER, LAST, BEST = "battles", "last.json", "best.json"  # below a run's record
PAGE = "battle.html"  # in a run's record
MOST_BYTES = 16 * 2**20  # of a run's battles of all tests; 50 tests on 3s5z_vs_3s6z with two battles each


class Keeper:
    """Records the first battles of each test, and writes them below a run's record.

    ``battles/STEP.json`` has the battles of the test at that step. If these files together exceed ``MOST_BYTES``, every
    second one is deleted.
    ``last.json`` and ``best.json`` are copies of the last and the best test's.

    Args:
        args: the configuration.
        learner: the learner, whose controller plays.
        wanted: number of battles of each test.
        folder: the run's record; None: nothing is written, and ``record`` has the battles.
        reference: True: also record the frozen reference's probabilities.
    """

    def __init__(
        self, args: Namespace, learner: Any, wanted: int, folder: Path | None, log: logging.Logger, reference: bool
    ) -> None:
        self.folder, self.log, self.wanted = folder, log, wanted
        self.record: Record | None = None
        self._args, self._learner, self._reference = args, learner, reference
        self._recorder: Recorder | None = None
        self._best: list[float] = []
        self._add_reference: Callable[[Record], Record] | None = None  # to the best test's record
        with self._surviving():
            self._recorder = Recorder(args, learner, wanted, reference)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record the battles that are played while the context is open."""
        self.record = None
        if self._recorder is None:
            yield
            return
        with self._recorder.listening():
            yield

    def add(self, batch: Batch, count: int, t_env: int, infos: Sequence[Mapping[str, Any]]) -> None:
        """Add the first ``count`` episodes of a batch that was just played, as far as they are wanted."""
        with self._surviving():
            if self._recorder is not None:
                self._recorder.add(batch, count, t_env, infos)

    def finish(self) -> None:
        """Finish the record of a whole test."""
        with self._surviving():
            if self._recorder is not None:
                self.record = self._recorder.record()

    def save(self, score: Sequence[float], step: int) -> None:
        """Write the record of the last test, of the policy of ``step``.

        If no earlier test of this process scored higher, it is also written as the best.
        """
        with self._surviving():
            if self.record is None or not self.record.battles:
                return
            self.record = self.record.model_copy(update={"step": step})
            if self.folder is None:
                return
            text = dumps(self.record)
            (self.folder / FOLDER).mkdir(exist_ok=True)
            write_whole(self.folder / FOLDER / f"{step}.json", text)
            _thin_out(self.folder / FOLDER)
            write_whole(self.folder / FOLDER / LAST, text)
            if list(score) >= self._best:
                self._best = list(score)
                write_whole(self.folder / FOLDER / BEST, text)
                self._add_reference = self._recorder.deferred() if self._recorder else None

    def publish(self, sacred_run: Any, logger: Any) -> None:
        """Add the page of the best test to the run's record, as an artifact, so that Omniboard serves it.

        The logger passes it to TensorBoard, W&B and Trackio. The frozen reference is added to the record first.
        """
        with self._surviving():
            best = self.folder / FOLDER / BEST if self.folder else None
            if self.folder is None or best is None or not best.is_file():
                return
            record = read(best)
            if self._add_reference:
                record = self._add_reference(record)
                write_whole(best, dumps(record))
            with TemporaryDirectory() as folder:
                file = Path(folder, PAGE)
                file.write_text(page.html([record]), encoding="utf-8")
                sacred_run.add_artifact(str(file), PAGE)
            logger.log_page("battles", self.folder / PAGE)

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """Log an error as one warning and stop recording. A run never ends because of it."""
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            self.log.warning("Battles are no longer recorded (%s); the run continues (keep_battles).", reason)
            self._recorder = self.record = None


def _thin_out(folder: Path) -> None:
    """Delete every second test's battles, but not the last test's, while all of them are larger than ``MOST_BYTES``."""
    files = sorted((file for file in folder.glob("*.json") if file.stem.isdigit()), key=lambda file: int(file.stem))
    while len(files) > 1 and sum(file.stat().st_size for file in files) > MOST_BYTES:
        for file in files[-2::-2]:
            file.unlink()
        files = files[-1::-2][::-1]
