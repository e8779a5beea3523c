"""Divide a checkpoint's settings into those that a resumed run takes and those that its command line must repeat.

A checkpoint may come from someone else. Numbers, switches and names of built-in choices are taken. A setting that leads
to an import, a file, an address or an account is not taken: the command line must repeat it, or its default is used. A
text without a mark in the schema is not taken either, so a new key is safe by default.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lolm_plugin.configuration.config_files import flatten
from lolm_plugin.configuration.fields import Mark, Trusted, Withheld
from lolm_plugin.configuration.schema import FIELDS, field_of
from lolm_plugin.configuration.updates import written
from lolm_plugin.errors import ConfigError
from lolm_plugin.maps import WEIGHTS, is_weight
from lolm_plugin.paths import path_component

MOST_NAMES = 100  # in a list; a longer list must be repeated on the command line
LONG_NUMBER = re.compile(r"\d{4}")  # SMAX names contain unit counts: 9999m would be 9999 marines
LARGEST_SIZE = 16_384  # of a key without a range in the schema, such as the width of a user's network


@dataclass(frozen=True)
class SplitSettings:
    """A checkpoint's configuration in three parts, by flat key."""

    taken: Mapping[str, Any]  # also holds the defaults of keys in the other two parts, if they have one
    needed: Mapping[str, Any]  # what the command line must repeat
    optional: Mapping[str, Any]  # what it may repeat


def split_settings(config: Mapping[str, Any]) -> SplitSettings:
    """Divide a checkpoint's configuration. Ranges are checked later, by ``config_check.check``."""
    taken: dict[str, Any] = {}
    needed: dict[str, Any] = {}
    optional: dict[str, Any] = {}
    for key, value in flatten(config).items():
        withheld = field_of(key).get(Withheld)
        if Mark.RECORDED in field_of(key).marks:
            taken[key] = value if isinstance(value, str) else ""
        elif withheld:
            taken[key] = withheld.default
            if value != withheld.default:
                (needed if withheld.needed else optional)[key] = value
        elif _is_believed(key, value):
            taken[key] = value
        else:
            needed[key] = value
    return SplitSettings(taken, needed, optional)


def to_repeat(config: Mapping[str, Any]) -> list[str]:
    """Return the ``KEY=VALUE`` words that a command line must repeat to resume a run with this configuration."""
    found = split_settings(config)
    settings = {**found.needed, **found.optional}
    return [f"{key}={written(value)}" for key, value in settings.items() if key != "local_results_path"]


def check_repeated(needed: Mapping[str, Any], updates: Mapping[str, Any]) -> None:
    """Raise ConfigError if ``updates`` lack a key of ``needed``; both are by flat key."""
    for key, value in needed.items():
        if key not in updates:
            raise ConfigError(
                f"The checkpoint says {key}={value!r}, and what a checkpoint names is not imported, opened or fetched "
                f"unless the command line repeats it; check the value, then add `with {key}=...`."
            )


def _is_believed(key: str, value: Any) -> bool:
    field = field_of(key)
    if isinstance(value, int) and key not in FIELDS:
        return value <= LARGEST_SIZE
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return True
    if value in ({}, ""):
        return True
    if trusted := field.get(Trusted):
        return isinstance(value, str) and trusted.pattern.fullmatch(value) is not None
    if key == WEIGHTS:
        return isinstance(value, list) and len(value) <= MOST_NAMES and all(map(is_weight, value))
    texts = value if isinstance(value, list) else [value]
    if Mark.NAME not in field.marks or len(texts) > MOST_NAMES:
        return False
    plain = all(isinstance(text, str) and path_component(text) == text for text in texts)
    return plain and not (key in ("env_args.map_name", "test_maps") and LONG_NUMBER.search(str(value)))
