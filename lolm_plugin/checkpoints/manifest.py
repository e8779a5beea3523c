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

NAME = "manifest.json"
FORMAT = 2  # 1: lolm_plugin 0.1.0, which wrote no manifest
LARGEST = 64 * 2**20  # bytes of a manifest; a longer file is none of ours


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
    if not (folder / NAME).exists():
        if _before_manifests(folder):
            return {}
        raise Damaged(f"{NAME} is missing")
    body = _body(folder / NAME)
    for name, expected in body["files"].items():
        try:
            _check_file(folder, name, expected)
        except (OSError, ValueError, KeyError, TypeError) as error:  # unreadable, or listed by no program of ours
            raise Damaged(f"{name} cannot be checked ({error})") from error
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
        if path.stat().st_size > LARGEST:
            raise Damaged(f"{NAME} is too long")
        content = json.loads(path.read_text(encoding="utf-8"))
        body = content["body"]
        if content["sha256"] != _of(body):
            raise Damaged(f"{NAME} does not have its checksum")
        if body["format"] != FORMAT:
            raise Damaged(f"{NAME} is of format {body['format']}, of which this version knows nothing")
        assert isinstance(body["files"], dict)
        assert isinstance(body["facts"], dict)
    except OSError as error:
        raise Damaged(f"{NAME} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError) as error:
        raise Damaged(f"{NAME} cannot be understood") from error
    return body


def _check_file(folder: Path, name: str, expected: Mapping[str, Any]) -> None:
    relative = PurePosixPath(name)
    path = folder / relative
    if relative.is_absolute() or ".." in relative.parts or not _inside(path, folder):
        raise Damaged(f"{NAME} names {name}, which is not inside the checkpoint")
    if not path.is_file():
        raise Damaged(f"{name} is missing")
    if path.stat().st_size != expected["bytes"]:
        raise Damaged(f"{name} has {path.stat().st_size} bytes in place of {expected['bytes']}")
    if _sha256(path) != expected["sha256"]:
        raise Damaged(f"{name} does not have its checksum")


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())  # links that lead out are not


def _before_manifests(folder: Path) -> bool:
    try:
        return json.loads((folder / "learner.json").read_text(encoding="utf-8"))["format"] == 1
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _number(value: Any) -> Any:
    """numpy's numbers as Python's."""
    return strict_json.finite(value.item())


def _of(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
