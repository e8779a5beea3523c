"""Copy a run's file record into a MongoDB while it trains."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sacred.observers import RunObserver

from lolm_plugin.passwords import Address
from lolm_plugin.tracking import mongo, run_documents
from lolm_plugin.tracking.record_files import RecordError

AGAIN = 30.0  # seconds between tries while the database does not answer
SHARE = 0.05  # of the time; copying takes no more
LAST = 15.0  # seconds for the copy of the finished run


class MongoObserver(RunObserver):
    """Observer that copies the file record ``folder()`` in a thread after each of Sacred's heartbeats.

    The database can be absent, slow or full: training never waits for it, and the file record is complete. Missing data
    are copied when the database answers again, or by ``lolm import-runs``. One line is logged when it stops answering
    and one when it answers again.
    """

    priority = -10  # after the files are written

    def __init__(self, address: Address, folder: Callable[[], Path | None]) -> None:
        self._address, self._folder = address, folder
        self._database = mongo.connect(address)
        self._log = logging.getLogger("lolm")
        self._changed, self._closing = threading.Event(), threading.Event()
        self._works: bool | None = None  # None: not tried yet
        self._written = self._copied = 0  # number of changes of the files; number of the last copied one
        self._thread = threading.Thread(target=self._copy, name="mongo", daemon=True)

    def started_event(self, *args: Any, **event: Any) -> None:
        """Start the thread. Sacred calls this at the start of a run. The file record gives the run its number."""
        self._thread.start()
        self._wake()

    def heartbeat_event(self, *args: Any, **event: Any) -> None:
        """Request a copy. Sacred calls this every 10 seconds."""
        self._wake()

    def close(self) -> None:
        """Copy the finished run. After ``LAST`` seconds, give up and log the command that completes the copy."""
        if not self._thread.is_alive():
            return
        self._closing.set()
        self._wake()
        self._thread.join(LAST)
        if self._copied < self._written:
            self._log.warning(
                "The database at %s lacks the end of this run; the file record is complete, and `lolm import-runs %s` "
                "completes the database.",
                self._address,
                self._folder(),
            )

    def _wake(self) -> None:
        self._written += 1
        self._changed.set()

    def _copy(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            closing, began = self._closing.is_set(), time.monotonic()
            copied = self._try_once()
            if closing:
                return
            if not copied:
                self._changed.set()
            # Only the end of the run shortens this wait.
            self._closing.wait((time.monotonic() - began) / SHARE if copied else AGAIN)

    def _try_once(self) -> bool:
        folder = self._folder()
        if folder is None:
            return True
        written = self._written
        try:
            mongo.write(self._database, run_documents.read(folder))
        except RecordError:  # Sacred has not yet written all files of the record
            return False
        except Exception as error:  # no database error may end a training run
            if self._works is not False:
                self._log.warning(
                    "The database at %s does not accept this run (%s); training continues, its file record is "
                    "complete, and the copy is tried again.",
                    self._address,
                    self._address.hide(str(error)).splitlines()[0][:200],
                )
            self._works = False
            return False
        if self._works is False:
            self._log.info("The database at %s has the whole run again.", self._address)
        self._works, self._copied = True, written
        return True
