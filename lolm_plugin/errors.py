"""The exceptions that the command line prints as a sentence: what a user can cause, and numbers gone wrong."""

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
    """Something is not finite, or not what it has to be, so that learning from it would spoil the policy.

    The message names the first such tensor and where in it. The run ends as FAILED with exit code 1, and nothing of
    this update is ever saved. ``batch`` is what was learned from, ``dumped`` the folder where it was put.
    """

    def __init__(self, message: str, batch: Any = None) -> None:
        super().__init__(message)
        self.batch = batch
        self.dumped = ""


@contextmanager
def warn_on_failure(what: str, log: logging.Logger | None = None) -> Iterator[None]:
    """Run what a finished run can do without, such as its picture: an exception becomes one warning.

    ``what`` is the beginning of the sentence, as in "The curve could not be drawn".
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        (log or logging.getLogger("lolm")).warning("%s (%s); the run is finished and its results stay.", what, reason)


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` where something known is spelt nearly like ``name``, else nothing."""
    nearest = difflib.get_close_matches(str(name)[:100], list(known), n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def one_line(error: Exception | str) -> str:
    """Put a message on one line: long values are cut, and control characters of a terminal become blanks."""
    text = "".join(sign if sign.isprintable() else " " for sign in str(error))
    text = re.sub(r"\S{200,}", lambda word: f"{word[0][:80]}...{word[0][-40:]}", " ".join(text.split()))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 310]} ... {text[-300:]}"
