"""Exceptions that the command line prints as one sentence, and the parts of such sentences."""

import difflib
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

LONGEST = 2000  # characters of an error on the command line: the longest of ours has about 500


class ConfigError(Exception):
    """Something the user set, asked for or pointed at cannot be used.

    The message is one sentence: what was set, why it cannot be, which key to change. The command
    line prints it alone, without a traceback, and exits with code 2.
    """


class NonFiniteError(Exception):
    """A number is NaN, infinite or impossible, so that an update with it would spoil the policy.

    The message names the first such tensor and the position in it. The run ends as FAILED with exit code 1, and nothing
    of this update is saved. ``batch`` is the batch of the update, ``dumped`` the folder into which it was written.
    """

    def __init__(self, message: str, batch: Any = None) -> None:
        super().__init__(message)
        self.batch = batch
        self.dumped = ""


@contextmanager
def warn_on_failure(what: str, log: logging.Logger | None = None) -> Iterator[None]:
    """Turn an exception in something optional at the end of a run, such as its picture, into one warning.

    ``what`` begins the sentence, as in "The curve could not be drawn".
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        (log or logging.getLogger("lolm")).warning("%s (%s); the run is finished and its results stay.", what, reason)


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """Return `` (did you mean X?)`` if a known name is spelt nearly like ``name``, else an empty string."""
    nearest = difflib.get_close_matches(str(name)[:100], list(known), n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def one_line(error: Exception | str) -> str:
    """Put a message on one line; cut long values and replace control characters of a terminal by blanks."""
    text = "".join(sign if sign.isprintable() else " " for sign in str(error))
    text = re.sub(r"\S{200,}", lambda word: f"{word[0][:80]}...{word[0][-40:]}", " ".join(text.split()))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 310]} ... {text[-300:]}"
