"""Exceptions that the command line prints as one sentence, and helpers for such sentences."""

import difflib
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

LONGEST = 2000  # characters of an error on the command line; the plugin's longest has about 500


class ConfigError(Exception):
    """A setting, request or path of the user cannot be used.

    The message is one sentence: what was set, why it cannot be used, which key to change. The command line prints it
    without a traceback and exits with code 2.
    """


class NonFiniteError(Exception):
    """A number is NaN, infinite or impossible. An update with it would damage the policy.

    The message names the first such tensor and the index in it. The run ends as FAILED with exit code 1, and this
    update is not saved. ``batch`` is the batch of the update; ``dumped`` is the folder into which it was written.
    """

    def __init__(self, message: str, batch: Any = None) -> None:
        super().__init__(message)
        self.batch = batch
        self.dumped = ""


@contextmanager
def warn_on_failure(what: str, log: logging.Logger | None = None) -> Iterator[None]:
    """Log an exception in an optional step at the end of a run, such as drawing its curve, as one warning.

    ``what`` begins the sentence, as in "The curve could not be drawn".
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        (log or logging.getLogger("lolm")).warning("%s (%s); the run is finished and its results stay.", what, reason)


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """Return `` (did you mean X?)`` for the known name most similar to ``name``; empty if none is similar."""
    nearest = difflib.get_close_matches(str(name)[:100], list(known), n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def one_line(error: Exception | str) -> str:
    """Put a message on one line. Shorten long values and replace control characters by blanks."""
    text = "".join(sign if sign.isprintable() else " " for sign in str(error))
    text = re.sub(r"\S{200,}", lambda word: f"{word[0][:80]}...{word[0][-40:]}", " ".join(text.split()))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 310]} ... {text[-300:]}"
