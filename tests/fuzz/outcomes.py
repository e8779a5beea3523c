"""Run a command in this process and check how it ends."""

import contextlib
import io
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any

PATIENCE = 20  # seconds, for a check that takes milliseconds


class Hang(BaseException):
    """A command that does not end. Not an Exception, so that handlers of errors do not catch it."""


def problem(command: Callable[[], int], patience: int = PATIENCE) -> str:
    """Return what is wrong; empty for exit code 0, or for 1 or 2 with one sentence that begins with ``error: ``."""
    stderr = io.StringIO()
    try:
        with _patience(patience), contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
            code = command()
    except Hang:
        return f"no end after {patience} seconds"
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        return traceback.format_exc()
    lines = stderr.getvalue().splitlines()
    if code == 0:
        return ""
    if code not in (1, 2):
        return f"exit code {code}"
    errors = [line for line in lines if line.startswith("error: ")]
    if len(errors) != 1 or any("Traceback" in line for line in lines):
        return f"exit code {code} with {stderr.getvalue()[-3000:] or 'no output'}"
    if code == 2 and lines[-1] != errors[0]:
        return f"more than one line: {stderr.getvalue()[-3000:]}"
    return "" if errors[0].rstrip().endswith((".", "?")) else f"no whole sentence: {errors[0]}"


@contextlib.contextmanager
def _patience(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
