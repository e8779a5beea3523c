"""Passwords in addresses, as in ``mongodb://user:password@host``, are for connecting and not for reading."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_SECRET = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def hidden(value: Any) -> Any:
    """``value``, a text or anything made of texts, with user and password of every address replaced by ``***``."""
    if isinstance(value, str):
        return _SECRET.sub("***", value)
    if isinstance(value, Mapping):
        return {key: hidden(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [hidden(item) for item in value]
    return value
