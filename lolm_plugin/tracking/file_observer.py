"""Write Sacred's file record: complete at every moment, at bounded cost, and robust against temporary disk errors."""

import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sacred.observers import FileStorageObserver
from sacred.serializer import flatten

from lolm_plugin import strict_json
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import hidden
from lolm_plugin.paths import write_whole

# Seconds until a file is written again, per second that writing it took: writing takes at most 1/20 of the time.
# The record of a killed run lacks at most this pause and one heartbeat (10 seconds): 10 s for a record that is written
# in 0.5 s, 30 s for one of 100 MB that takes 1 s. A larger value costs less time and loses more.
PAUSE = 20.0
LAST = 15.0  # seconds to keep trying to write the end of the record while the disk fails
RETRY = 0.5  # seconds between these tries
ORDER = (
    "config.json",
    "metrics.json",
    "info.json",
    "cout.txt",
    "run.json",
)  # run.json last: ``complete`` covers the rest


class FileObserver(FileStorageObserver):
    """Observer that writes each file under a temporary name and then renames it.

    If that fails, as on a full disk, one line is logged and the old file stays. The next heartbeat tries again with all
    data since then. Nothing is raised, because Sacred stops calling an observer that has raised.

    ``run.json`` has a key ``complete``: true once the run is over and all its data are in these files. If it is false,
    the end of the record is missing, regardless of ``status``. Records by other writers have no such key.
    """

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Set up the observer. Sacred calls this instead of a constructor."""
        super().initialize(*args, **kwargs)
        self._metrics: dict[str, dict[str, list]] = {}
        self._complete = False
        self._printed: str | None = None  # content of cout.txt after the next write
        self._lock = threading.RLock()  # the heartbeat is a thread, and Sacred waits only 2 seconds for its last beat
        self._pending: dict[str, Callable[[], str]] = {"metrics.json": self._metrics_text}  # file -> its content
        self._not_before: dict[str, float] = {}
        self._failing: set[str] = set()  # names of files whose last write failed
        self._not_finite: set[str] = set()  # names of series that had a NaN or infinite value

    def started_event(self, *args: Any, **event: Any) -> str:
        """Record the start, with the command line without secrets.

        Raises:
            ConfigError: the record's folder cannot be created, or belongs to another run.
        """
        try:
            number = super().started_event(*args, **{**event, "meta_info": hidden(event["meta_info"])})
        except FileExistsError as error:
            raise ConfigError(
                f"--id={event['_id']} is the number of an existing record ({error.filename}); set --id to another "
                "number, or leave it out."
            ) from error
        except OSError as error:
            raise ConfigError(
                f"{self.basedir} cannot store the run's record ({error.strerror}); free some space there, or set "
                "local_results_path to another folder."
            ) from error
        self._write_due()
        return number

    def heartbeat_event(self, *args: Any, **event: Any) -> None:
        """Write what has changed; called by Sacred every 10 seconds."""
        with self._lock:
            super().heartbeat_event(*args, **event)
            self._write_due()

    def completed_event(self, *args: Any, **event: Any) -> None:
        """Record that the run completed."""
        self._end(super().completed_event, *args, **event)

    def interrupted_event(self, *args: Any, **event: Any) -> None:
        """Record that the run was stopped."""
        self._end(super().interrupted_event, *args, **event)

    def failed_event(self, *args: Any, **event: Any) -> None:
        """Record that the run failed, with its traceback without secrets."""
        self._end(super().failed_event, *args, **{key: hidden(value) for key, value in event.items()})

    def close(self, printed: str, seconds: float = LAST) -> None:
        """Write all pending files after Sacred's last heartbeat. ``printed`` is the run's whole output.

        If the disk fails, retry for ``seconds``, then log which files are missing.
        """
        if self.dir is None or self.run_entry is None:
            return
        deadline = time.monotonic() + seconds
        with self._lock:
            self.cout = printed
            self.save_cout()
            while not self._finish():
                if time.monotonic() >= deadline:
                    lacking = ", ".join(sorted(self._pending))
                    logging.getLogger("lolm").warning(
                        "The record %s lacks its end: %s could not be written.", self.dir, lacking
                    )
                    return
                time.sleep(RETRY)

    def _maximum_existing_run_id(self) -> int:
        """Return the highest run number. Sacred's own method fails on a folder named ``²``, which ``int`` refuses."""
        names = (path.name for path in Path(self.basedir).iterdir() if path.is_dir())
        return max((int(name) for name in names if name.isascii() and name.isdecimal()), default=0)

    def save_json(self, obj: Any, filename: str) -> None:
        """Mark a file for the next write; ``obj`` is serialised then."""
        marked = filename == "run.json"
        self._pending[filename] = lambda: strict_json.dumps(
            flatten({**obj, "complete": self._complete} if marked else obj), sort_keys=True, indent=2
        )

    def save_cout(self) -> None:
        """Mark the output, which has a bounded size, for the next write."""
        if self.cout != self._printed:
            self._printed = printed = self.cout
            self._pending["cout.txt"] = lambda: printed

    def log_metrics(self, metrics_by_name: dict[str, dict[str, list]], info: dict[str, Any]) -> None:
        """Add the values logged since the last heartbeat; ``heartbeat_event`` writes them."""
        with self._lock:
            for name, new in metrics_by_name.items():
                series = self._metrics.setdefault(name, {"values": [], "steps": [], "timestamps": []})
                series["values"] += [self._number(name, value) for value in new["values"]]
                series["steps"] += new["steps"]
                series["timestamps"] += [time.isoformat() for time in new["timestamps"]]
            if metrics_by_name:
                self._pending["metrics.json"] = self._metrics_text

    def _number(self, name: str, value: Any) -> Any:
        """Convert a value of a series for JSON: null for NaN and infinity, with one warning for each name."""
        value = value if isinstance(value, float | int) else flatten(value)
        if not isinstance(value, float) or math.isfinite(value):
            return value
        if name not in self._not_finite:
            self._not_finite.add(name)
            logging.getLogger("lolm").warning(
                "%s is %s: the record stores null for such values (logged once for each name).", name, value
            )
        return None

    def _metrics_text(self) -> str:
        return strict_json.dumps(self._metrics, sort_keys=True)

    def _end(self, event: Callable[..., None], *args: Any, **given: Any) -> None:
        """Record how the run ended, if its start was recorded."""
        if self.run_entry is not None:
            with self._lock:
                event(*args, **given)
                self._write_due(now=True)

    def _finish(self) -> bool:
        """Write the pending files, then mark run.json as complete. Returns True if all of them are on the disk."""
        self._write_due(now=True)
        if self._pending:
            return False
        self._complete = True
        self.save_json(self.run_entry, "run.json")
        self._write_due(now=True)
        return not self._pending

    def _write_due(self, now: bool = False) -> None:
        """Write all pending files if ``now``, else those whose pause is over."""
        for name in sorted(self._pending, key=lambda name: ORDER.index(name) if name in ORDER else -1):
            if now or time.monotonic() >= self._not_before.get(name, 0.0):
                self._write(name)

    def _write(self, name: str) -> None:
        make, path, began = self._pending.pop(name), Path(self.dir, name), time.monotonic()
        try:
            write_whole(path, make())
        except Exception as error:  # Sacred stops calling an observer that raises
            self._pending.setdefault(name, make)
            if name not in self._failing:
                logging.getLogger("lolm").warning(
                    "%s could not be written (%s); training continues, and the write is tried again.",
                    path,
                    getattr(error, "strerror", None) or error,
                )
            self._failing.add(name)
        else:
            self._failing.discard(name)
            self._not_before[name] = time.monotonic() + PAUSE * (time.monotonic() - began)
