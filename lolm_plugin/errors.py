"""The one exception for what a user can cause."""

import difflib
from collections.abc import Iterable


class ConfigError(Exception):
    """Something the user set, asked for or pointed at cannot be used.

    The message is one sentence: what was set, why it cannot be, which key to change. The command
    line prints it alone, without a traceback, and exits with code 2.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` where something known is spelt nearly like ``name``, else nothing."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""
