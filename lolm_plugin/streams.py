"""The end of a command: exit codes, errors as one sentence, and broken pipes (``| head``)."""

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress

from lolm_plugin.errors import ConfigError, one_line
from lolm_plugin.passwords import hidden

SIGPIPE_CODE = 141  # 128 + SIGPIPE, as shells report for a program that this signal ended


def exit_code(command: Callable[[], int]) -> int:
    """Run a command and return its exit code: 2 for a ConfigError, 130 for Ctrl-C, 0 after ``--help``."""
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
    """Run a command and return its exit code; ``SIGPIPE_CODE``, without a traceback, if the reader closed the pipe."""
    try:
        return command()
    except BrokenPipeError:
        if not _has_lost_its_reader():  # the broken pipe is another one, such as an environment's
            raise
        return SIGPIPE_CODE
    finally:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError:  # no reader, or a full disk: discard the rest, or Python would raise again at its end
            with suppress(ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _has_lost_its_reader() -> bool:
    """Return True if standard output is a pipe without a reader, or if the operating system cannot tell."""
    if not hasattr(select, "poll"):
        return True
    try:
        number = sys.stdout.fileno()
    except (AttributeError, ValueError):  # a calling program has replaced standard output
        return False
    asked = select.poll()
    asked.register(number, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0))
