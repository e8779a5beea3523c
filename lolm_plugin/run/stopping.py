"""Stop signals: after the first, a run finishes and saves its batch; the second stops it at once."""

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

# SIGHUP: the terminal is closed. SIGUSR1, SIGUSR2, SIGXCPU: a scheduler's warning before a job's time is over. Windows
# has only the first two signals.
NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
# A scheduler sends these to every process of a job, a closed terminal to every process that it started.
WARNINGS = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
PATIENCE = "this batch is finished and saved, then the run stops; a second signal stops it at once."


class Stopped(KeyboardInterrupt):
    """The run was asked to stop. Not an Exception, so that ``except Exception`` handlers do not swallow it."""

    STATUS = "INTERRUPTED"  # the run's status in Sacred's record

    def __init__(self, number: int, saved: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = signal.Signals(number)
        self.saved = saved  # folder of the last checkpoint; "": none

    @property
    def exit_code(self) -> int:
        """Exit code that a shell reports: 143 for SIGTERM, 130 for SIGINT, 129 for SIGHUP."""
        return 128 + self.number


class StopRequests:
    """Context in which a signal raises ``Stopped``. While ``patient``, the first signal only sets ``number``.

    Ignored signals stay ignored: ``nohup`` makes a program ignore SIGHUP, and a shell's ``&`` SIGINT.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.patient = False
        self._before: dict[int, Any] = {}
        self._owner = os.getpid()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python

    @contextmanager
    def for_children(self) -> Iterator[None]:
        """Let processes that are forked inside the context ignore SIGINT and end on SIGTERM.

        On Ctrl-C, a terminal sends SIGINT to all of them.
        """
        for number in self._before.keys() & {signal.SIGINT, signal.SIGTERM}:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
        try:
            yield
        finally:
            for number in self._before:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a process that was forked without ``for_children``
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        _drop_closed_streams()
        if not self.patient or self.number is not None:
            raise Stopped(number)
        self.number = number
        line = f"\n{signal.Signals(number).name}: {PATIENCE}\n"
        with suppress(OSError):  # the reader may be gone
            # Not through a stream: if the signal interrupts a write to it, one of the two texts would be lost.
            os.write(2, line.encode())


@contextmanager
def warnings_blocked() -> Iterator[None]:
    """Block ``WARNINGS`` for processes started inside the context; this process receives them afterwards.

    A worker that died of one would be restarted in the short time in which the run has to save.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _drop_closed_streams() -> None:
    """Redirect stdout and stderr to the null device if their reader is gone.

    Writing to a closed terminal raises an error, which would end the run before it has saved.
    """
    if not hasattr(select, "poll"):  # Windows
        return
    for stream in (1, 2):
        watched = select.poll()
        watched.register(stream, 0)  # errors and hang-ups are reported in any case
        with suppress(OSError):
            if watched.poll(0):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)
