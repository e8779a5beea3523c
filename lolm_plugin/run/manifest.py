"""What a checkpoint's folder says about itself: its files with sizes and checksums, and the facts of its run.

``manifest.json`` is written last, holds a checksum of itself too, and so tells a whole checkpoint from a damaged one.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lolm_plugin import strict_json
from lolm_plugin.untrusted import (
    Unreadable,
    check_plain_tree,
    first_of_another_type,
    is_list,
    is_table,
    is_whole,
    open_regular,
    read_json,
)

NAME = "manifest.json"
FORMAT = 2  # 1: lolm_plugin 0.1.0, which wrote no manifest
LARGEST = 2**20  # bytes of a manifest; ours have about 12,000, and decoded JSON takes 20 times its size in memory
LARGEST_FILE = 64 * 2**30  # bytes of any other file: all weights of a model of 7 billion in float32, twice


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _shallow(value: Any, levels: int = 8) -> bool:
    """Return whether sections are nested at most ``levels`` deep, so that recursion over them stays shallow."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_shallow(item, levels - 1) for item in below)


def _is_float(value: Any) -> bool:
    return isinstance(value, int | float)  # NaN, too, where an environment reported one


def _is_start(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 2 and all(map(_is_text, value)))


# What readers of the facts rely on. Facts of another type belong to no checkpoint of ours.
TYPES = {
    **dict.fromkeys(("algorithm", "env", "version"), _is_text),
    **dict.fromkeys(
        ("env_args", "sizes", "config", "settled"), lambda value: isinstance(value, dict) and _shallow(value)
    ),
    **dict.fromkeys(("host", "packages"), lambda value: is_table(value, lambda item: item is None or _is_text(item))),
    **dict.fromkeys(("seed", "t_env"), is_whole),
    "finished": lambda value: isinstance(value, bool),
    "transfer": lambda value: value is None or (isinstance(value, dict) and _shallow(value)),
    "sacred_runs": lambda value: is_list(value, lambda item: item is None or _is_text(item)),
    "sacred_starts": lambda value: is_list(value, _is_start),
    "score": lambda value: value is None or (is_list(value, _is_float) and bool(value)),
}


class Damaged(Exception):
    """A folder that is no whole checkpoint; the message is the reason, as in ``critic.safetensors is missing``."""


def write(folder: Path, facts: Mapping[str, Any]) -> None:
    """List every file of ``folder`` with ``facts`` (JSON), and make sure that all of it is on the disk."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        sync(path)
    body = json.loads(strict_json.dumps({"format": FORMAT, "files": files, "facts": dict(facts)}, default=_number))
    path = folder / NAME
    path.write_text(strict_json.dumps({"sha256": _of(body), "body": body}, indent=1))
    for written in (path, *(child for child in folder.rglob("*") if child.is_dir()), folder):
        sync(written)


def read(folder: Path) -> dict[str, Any]:
    """The facts, once every file is found to be as it was written. Raises Damaged.

    What version 0.1.0 wrote has no manifest and cannot be checked; its facts are empty.
    """
    try:
        check_plain_tree(folder)
    except Unreadable as reason:
        raise Damaged(str(reason)) from reason
    if not (folder / NAME).exists():
        if _before_manifests(folder):
            return {}
        raise Damaged(f"{NAME} is missing")
    body = _body(folder / NAME)
    for name, expected in body["files"].items():
        try:
            _check_file(folder, name, expected)
        except (OSError, ValueError, KeyError, TypeError) as error:  # unreadable, or listed by no program of ours
            raise Damaged(f"{name!r} cannot be checked ({error})") from error
    return body["facts"]


def facts_alone(folder: Path) -> dict[str, Any]:
    """The facts without a look at the files; empty where there are none to be had."""
    try:
        return _body(folder / NAME)["facts"]
    except Damaged:
        return {}


def sync(path: Path) -> None:
    """Make sure that a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _body(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path, LARGEST)
    except Unreadable as reason:
        raise Damaged(f"{NAME} {reason}") from reason
    try:
        body = content["body"]
        if content["sha256"] != _of(body):
            raise Damaged(f"{NAME} does not have its checksum")
        if body["format"] != FORMAT:
            raise Damaged(f"{NAME} is of format {body['format']}, of which this version knows nothing")
        assert isinstance(body["files"], dict)
        assert isinstance(body["facts"], dict)
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError) as error:
        raise Damaged(f"{NAME} cannot be understood") from error
    if (key := first_of_another_type(body["facts"], TYPES)) is not None:
        raise Damaged(f"{NAME} says something about {key} that cannot be understood")
    return body


def _check_file(folder: Path, name: str, expected: Mapping[str, Any]) -> None:
    relative = PurePosixPath(name)
    path = folder / relative
    if relative.is_absolute() or ".." in relative.parts or not _inside(path, folder):
        raise Damaged(f"{NAME} names {name}, which is not inside the checkpoint")
    if not path.is_file():
        raise Damaged(f"{name} is missing")
    try:
        with open_regular(path, LARGEST_FILE) as file:
            size = os.fstat(file.fileno()).st_size
            if size != expected["bytes"]:
                raise Damaged(f"{name} has {size} bytes in place of {expected['bytes']}")
            if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                raise Damaged(f"{name} does not have its checksum")
    except Unreadable as reason:
        raise Damaged(f"{name} {reason}") from reason


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())  # links that lead out are not


def _before_manifests(folder: Path) -> bool:
    try:
        return read_json(folder / "learner.json", LARGEST)["format"] == 1
    except (Unreadable, KeyError, TypeError, IndexError):
        return False


def _number(value: Any) -> Any:
    """numpy's numbers as Python's."""
    return strict_json.finite(value.item())


def _of(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
