"""Collect a run's output for its record, within a fixed size."""

import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lolm_plugin.passwords import hidden

# Characters kept of the beginning, which has the configuration, and of the end. Larger values make each heartbeat
# slower and do not fit the document of a database (run_documents.OUTPUT).
BEGINNING, END = 100_000, 800_000


class Output:
    """Collector of stdout and stderr: keeps the first ``BEGINNING`` and the last ``END`` characters.

    Of a line that is redrawn, such as a progress bar, only the last state is kept. Secrets in addresses are left out.
    Memory and the cost of ``text`` do not grow with the run.
    """

    def __init__(self) -> None:
        self._beginning: list[str] = []
        self._room = BEGINNING
        self._end: deque[str] = deque()
        self._length = self._dropped = 0  # characters in ``_end``, and characters dropped before them
        self._line = ""  # the line that is not ended yet
        self._lock = threading.RLock()  # a signal handler may write during a write
        self._given = 0  # characters of ``text`` that ``take`` returned last

    @contextmanager
    def tee(self) -> Iterator[None]:
        """Collect everything that is written to ``sys.stdout`` and ``sys.stderr`` inside the context."""
        streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (_Tee(stream, self) for stream in streams)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = streams

    def write(self, text: str) -> None:
        """Collect ``text``."""
        with self._lock:
            *ended, line = (self._line + text).split("\n")
            for whole in ended:
                self._add(hidden(_last_drawn(whole)) + "\n")
            self._line = _last_drawn(line)[-END:]

    def text(self) -> str:
        """Return the kept output; one line says how much was dropped."""
        with self._lock:
            gap = [f"[{self._dropped:,} characters are left out here]\n"] if self._dropped else []
            return "".join((*self._beginning, *gap, *self._end, hidden(self._line)))

    def take(self, captured: str) -> str:
        """Filter Sacred's own capture (``--capture=fd``): ``captured`` is the last returned text plus new output."""
        if len(captured) > self._given:
            self.write(captured[self._given :])
        text = self.text()
        self._given = len(text)
        return text

    def _add(self, line: str) -> None:
        if not self._end and len(line) <= self._room:
            self._beginning.append(line)
            self._room -= len(line)
            return
        self._end.append(line)
        self._length += len(line)
        while self._length > END and len(self._end) > 1:
            dropped = len(self._end.popleft())
            self._length -= dropped
            self._dropped += dropped


class _Tee:
    """Stream that also collects its text. A closed terminal or a full disk behind it does not stop a run."""

    def __init__(self, stream: Any, output: Output) -> None:
        self._stream, self._output = stream, output

    def write(self, text: str) -> int:
        self._output.write(text)
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _last_drawn(line: str) -> str:
    return line.removesuffix("\r").rpartition("\r")[2]
