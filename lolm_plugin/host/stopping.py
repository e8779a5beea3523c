"""SIGTERM and SIGINT ask a run to stop where nothing is lost; a second one stops it at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PATIENCE = "this batch is finished and saved, then the run stops; once more stops it at once."


class Stopped(KeyboardInterrupt):
    """The run was asked to stop and did. No ``Exception``: nothing that mends errors may swallow it."""

    STATUS = "INTERRUPTED"  # what Sacred calls the run

    def __init__(self, number: int, saved: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = signal.Signals(number)
        self.saved = saved  # the last checkpoint's folder, if there is one

    @property
    def exit_code(self) -> int:
        """As shells have it: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.number


class StopRequests:
    """While open, a signal raises ``Stopped`` wherever the run is; if ``patient``, the first only sets ``number``."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.patient = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {number: signal.signal(number, self._heard) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def for_children(self) -> Iterator[None]:
        """Processes forked within leave Ctrl-C, which reaches all of a terminal's, to this one, and can be ended."""
        if self._before:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            yield
        finally:
            for number in self._before:
                signal.signal(number, self._heard)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if not self.patient or self.number is not None:
            raise Stopped(number)
        self.number = number
        line = f"\n{signal.Signals(number).name}: {PATIENCE}\n"
        with suppress(OSError):  # whoever reads may be gone
            # Not through a stream: the signal may have come within a write to it, and one of the two would be lost.
            os.write(2, line.encode())
