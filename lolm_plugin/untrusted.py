"""Safe reading of untrusted files: only regular files, no links, up to a size limit."""

import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

MOST_ENTRIES = 1000  # files and folders in one checkpoint or record; the plugin's have about 20


class Unreadable(Exception):
    """A file or folder is rejected. The message is the reason, such as ``is a link``."""


def open_regular(path: Path, most: int) -> BufferedReader:
    """Open a regular file of at most ``most`` bytes for reading.

    Raises:
        Unreadable: it is missing, too large, or a link, a pipe or a device.
    """
    try:
        file = open_plain(path)
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a null byte in the name
        raise Unreadable("has an invalid name") from error
    size = os.fstat(file.fileno()).st_size
    if size > most:
        file.close()
        raise Unreadable(f"has {size:,} bytes, more than the limit of {most:,}")
    return file


def open_plain(path: Path) -> BufferedReader:
    """Open a regular file for reading. Never follows a link and never waits for a pipe's writer.

    Raises:
        Unreadable: it is a link, a pipe or a device.
        OSError: it cannot be opened.
        ValueError: its name has a null byte.
    """
    _check_regular(os.lstat(path))
    # The path may have been replaced since the check: a pipe would block, and a link would lead to another file.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = open(os.open(path, flags), "rb")  # noqa: SIM115 (the caller closes it)
    try:
        _check_regular(os.fstat(file.fileno()))
    except Unreadable:
        file.close()
        raise
    return file


def read_json(path: Path, most: int) -> Any:
    """Read a JSON file of at most ``most`` bytes. Raises Unreadable as ``open_regular``, or for invalid JSON."""
    with open_regular(path, most) as file:
        content = file.read(most)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or too deeply nested
        raise Unreadable("is not valid JSON") from error


def check_plain_tree(folder: Path) -> None:
    """Raise Unreadable unless ``folder`` contains only regular files and folders, at most ``MOST_ENTRIES``."""
    for number, entry in enumerate(_entries(folder), 1):
        name = Path(entry.path).relative_to(folder).as_posix()
        if entry.is_symlink():
            raise Unreadable(f"{name} is a link")
        if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
            raise Unreadable(f"{name} is neither a file nor a folder")
        if number > MOST_ENTRIES:
            raise Unreadable(f"more than {MOST_ENTRIES} files are in it")


def is_number(value: Any) -> bool:
    """Return True if a value read from JSON is a finite number."""
    return is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def is_integer(value: Any) -> bool:
    """Return True if a value read from JSON is an integer that fits 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_table(value: Any, of: Callable[[Any], bool]) -> bool:
    """Return True if a value read from JSON is an object whose values all satisfy ``of``."""
    return isinstance(value, Mapping) and all(map(of, value.values()))


def is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    """Return True if a value read from JSON is a list whose items all satisfy ``of``."""
    return isinstance(value, list) and all(map(of, value))


def first_of_another_type(content: Any, types: Mapping[str, Callable[[Any], bool]]) -> str | None:
    """Return the first key of a JSON object whose value has a wrong type.

    None if all types are correct, ``""`` if ``content`` is not an object. Absent keys are not checked.
    """
    if not isinstance(content, Mapping):
        return ""
    return next((key for key, fits in types.items() if key in content and not fits(content[key])), None)


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise Unreadable("is a link")
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable("is not a regular file")


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            for entry in found:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    yield from _entries(Path(entry.path))
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror or error})") from error
