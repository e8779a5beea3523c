"""Standard output whose reader has gone, as in ``lolm prompt | head``."""

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress

SIGPIPE_CODE = 141  # 128 + SIGPIPE, what a shell reports of a program that the signal ended


def end_on_broken_pipe(command: Callable[[], int]) -> int:
    """Return the exit code of ``command``; ``SIGPIPE_CODE``, without a traceback, if its reader went away before."""
    try:
        return command()
    except BrokenPipeError:
        if not _has_lost_its_reader():  # another pipe broke, such as an environment's
            raise
        return SIGPIPE_CODE
    finally:
        _flush()


def _has_lost_its_reader() -> bool:
    """Return whether standard output is a pipe that no one reads; True where the operating system cannot tell."""
    if not hasattr(select, "poll"):
        return True
    try:
        number = sys.stdout.fileno()
    except (AttributeError, ValueError):  # a program that calls this one has put something else there
        return False
    asked = select.poll()
    asked.register(number, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0))


def _flush() -> None:
    """Hand on what was printed; if that fails, drop it, or Python would fail over it once more when it ends."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # no reader, or no room
        with suppress(ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
