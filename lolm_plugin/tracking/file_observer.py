"""Sacred's file record, whole at every moment, that a full disk does not end."""

import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from sacred.observers import FileStorageObserver
from sacred.serializer import flatten

from lolm_plugin.passwords import hidden


class FileObserver(FileStorageObserver):
    """Writes each file anew beside the old one and then in its place.

    Where that fails, as on a full disk, one line says so, the old file stays, and the next heartbeat, which has
    everything since, tries again. Series are kept in memory: Sacred's own would be read back and lost with a file.
    """

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Sacred's constructor."""
        super().initialize(*args, **kwargs)
        self._metrics: dict[str, dict[str, list]] = {}
        self._failing: set[str] = set()  # names of files that the disk did not take last time

    def started_event(self, *args: Any, **event: Any) -> str:
        """Sacred's, which records how the program was called: without passwords."""
        return super().started_event(*args, **{**event, "meta_info": hidden(event["meta_info"])})

    def save_json(self, obj: Any, filename: str) -> None:
        """Write or keep what was there."""
        path = Path(self.dir, filename)
        unfinished = path.with_name(f".{filename}.writing")
        try:
            with unfinished.open("w") as file:
                json.dump(flatten(obj), file, sort_keys=True, indent=2)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            if filename not in self._failing:
                logging.getLogger("lolm").warning(
                    "%s could not be written (%s); training goes on, and it is tried again.", path, error.strerror
                )
            self._failing.add(filename)
        else:
            self._failing.discard(filename)

    def save_cout(self) -> None:
        """Append what was printed since; kept for the next time where that fails."""
        cursor, path = self.cout_write_cursor, Path(self.dir, "cout.txt")
        length = path.stat().st_size if path.exists() else 0
        try:
            super().save_cout()
        except OSError:
            self.cout_write_cursor = cursor
            with suppress(OSError):
                os.truncate(path, length)

    def log_metrics(self, metrics_by_name: dict[str, dict[str, list]], info: dict[str, Any]) -> None:
        """Add what was measured since the last heartbeat to metrics.json."""
        for name, new in metrics_by_name.items():
            series = self._metrics.setdefault(name, {"values": [], "steps": [], "timestamps": []})
            series["values"] += new["values"]
            series["steps"] += new["steps"]
            series["timestamps"] += [time.isoformat() for time in new["timestamps"]]
        self.save_json(self._metrics, "metrics.json")
