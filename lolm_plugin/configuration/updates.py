"""Parse the words after ``with`` on a command line, and check that the values of all sources are plain data."""

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lolm_plugin import maps
from lolm_plugin.configuration import strict_yaml
from lolm_plugin.configuration.config_files import flatten, merge
from lolm_plugin.errors import ConfigError

LARGEST = 2**63  # torch, numpy and MongoDB store whole numbers below it
FOR_EXAMPLE = "a number, a text, True, False, None, or a list of these"


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """Parse ``KEY=VALUE ...`` to nested settings. If a key appears twice, the last value counts, as in EPyMARL.

    Values are read as Sacred reads them: Python literals, and anything else as a text. Sacred's parser is not used,
    because it builds any object that a value such as ``[{"py/object": ...}]`` names. Suites may come from other people.
    """
    updates: dict[str, Any] = {}
    for key, value in _assignments(arguments):
        updates = merge(updates, nested({key: value}, "on the command line"))
    return updates


def repeated(arguments: Sequence[str]) -> list[str]:
    """Return a sentence for each key that is set twice to different values."""
    values: dict[str, list[Any]] = {}
    for key, value in _assignments(arguments):
        values.setdefault(key, []).append(value)
    return [
        f"{key} appears {len(given)} times after `with`: the last one, {key}={given[-1]}, counts."
        for key, given in values.items()
        if any(value != given[-1] for value in given)
    ]


def literal(text: str) -> Any:
    """Return the Python literal in a text, with tuples as lists, or else the text itself."""
    try:
        return _lists(ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def literal_maps(text: str) -> Any:
    """Return the list or mapping in a text such as ``[3m,8m]`` or ``{3m: 2, 8m: 1}``; names need no quotes."""
    if not text.startswith(("[", "{")):
        return literal(text)
    try:
        return strict_yaml.load(text.encode(errors="replace"))
    except strict_yaml.StrictYamlError:
        return text


def written(value: Any) -> str:
    """Write ``value`` so that ``literal`` reads it back."""
    return value if isinstance(value, str) and literal(value) == value == value.strip() else repr(value)


def nested(flat: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Nest ``{"kl.eps": 1}`` as ``{"kl": {"eps": 1}}``. Raises ConfigError if a key is both a value and a section."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(
                    f"{section} in {key} {where} is a value and a section at once; leave one of them out."
                )
        if isinstance(inner.get(last), dict) and not isinstance(value, dict):
            raise ConfigError(f"{key} {where} is a value and a section at once; leave one of them out.")
        inner[last] = value
    return tree


def check_plain(key: str, value: Any, where: str) -> None:
    """Raise ConfigError for a value that no key takes, because it cannot be recorded or used."""
    if isinstance(value, str):
        if any(0xD800 <= ord(sign) < 0xE000 for sign in value):  # Python's encoding of bytes that are not UTF-8
            raise ConfigError(f"{key} {where} has bytes that are not UTF-8 text; set {key} to {FOR_EXAMPLE}.")
        if "\0" in value:
            raise ConfigError(f"{key} {where} has a NUL character; set {key} to {FOR_EXAMPLE}.")
        return
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int):
        if not -LARGEST <= value < LARGEST:
            raise ConfigError(f"{key} {where} is a whole number beyond 64 bits; set {key} to one below 2**63.")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"{key}={value} {where} is not a finite number; set {key} to a finite one.")
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise ConfigError(f"{key} {where} has the key {name!r}, which is not a text; quote it.")
            check_plain(f"{key}.{name}", inner, where)
    elif isinstance(value, list):
        for inner in value:
            check_plain(key, inner, where)
    else:
        raise ConfigError(f"{key}={value!r} {where} is of type {type(value).__name__}; set {key} to {FOR_EXAMPLE}.")


def _assignments(arguments: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield flat keys and their values, in the order of the command line."""
    for argument in arguments:
        key, sign, text = argument.partition("=")
        key = key.strip()
        if not sign:  # an option of Sacred's
            continue
        if not all(key.split(".")):
            raise ConfigError(f"{argument} after `with` names no key; write KEY=VALUE, such as seed=1.")
        value = (literal_maps if key in (maps.KEY, maps.TEST_MAPS) else literal)(text.strip())
        check_plain(key, value, "on the command line")
        yield from (maps.settings(value, "on the command line") if key == maps.KEY else flatten({key: value})).items()


def _lists(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_lists(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    return value
