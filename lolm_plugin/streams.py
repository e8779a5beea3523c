"""How a command ends: its exit code, errors as a sentence, and a reader of its output that has gone (``| head``)."""

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress

from lolm_plugin.errors import ConfigError, one_line
from lolm_plugin.passwords import hidden

SIGPIPE_CODE = 141  # 128 + SIGPIPE, what a shell reports of a program that the signal ended


def exit_code(command: Callable[[], int]) -> int:
    """Run a command and return its exit code: 2 for what the user can fix, 130 for Ctrl-C, 0 after ``--help``."""
    try:
        return end_on_broken_pipe(command)
    except ConfigError as error:
        print(f"error: {one_line(hidden(str(error)))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return 130
    except SystemExit as ended:  # argparse, after --help
        return int(ended.code or 0)


def end_on_broken_pipe(command: Callable[[], int]) -> int:
    """Return the exit code of ``command``; ``SIGPIPE_CODE``, without a traceback, if its reader went away before."""
    try:
        return command()
    except BrokenPipeError:
        if not _has_lost_its_reader():  # another pipe broke, such as an environment's
            raise
        return SIGPIPE_CODE
    finally:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError:  # no reader, or no room: drop it, or Python would fail over it once more when it ends
            with suppress(ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
