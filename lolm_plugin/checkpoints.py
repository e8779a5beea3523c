"""Checkpoints of a run, ``FOLDER/STEP``: each is whole or absent, however the run ends.

``STEP/manifest.json`` lists the other files with sizes and SHA-256 sums. It also holds the checkpoint's facts, which is
all data that are neither tensors nor series. It is written last, with its own checksum, so that damage is detected. A
checkpoint may come from an untrusted source: reading one runs no code and opens no file outside its folder.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import NoneType, TracebackType
from typing import Any, Self

from lolm_plugin import __version__, strict_json, untrusted
from lolm_plugin.errors import ConfigError
from lolm_plugin.untrusted import Unreadable, is_list, is_table

MANIFEST = "manifest.json"
FORMAT = 3  # raised when a version cannot read the checkpoints of the version before it
LARGEST = 2**20  # bytes of a manifest; ours have about 30,000, and decoded JSON takes 20 times its size in memory
LARGEST_FILE = 64 * 2**30  # bytes of any other file: twice the float32 weights of a model with 7 billion parameters
LONGEST_STEP = 15  # digits of a folder's name
SCORE = "score"  # the fact by which the best checkpoint is kept: the scores of the last test


class Damaged(Exception):
    """A folder is not a whole checkpoint. The message is the reason, as in ``critic.safetensors is missing``."""


class OtherVersion(Damaged):
    """A checkpoint was written in another format. The message begins with ``was written by``."""


class SaveError(Exception):
    """A checkpoint could not be written; the earlier ones are intact. The message is a sentence without its dot."""


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint and its facts."""

    path: Path
    facts: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Environment step at which the checkpoint was written."""
        return int(self.path.name)


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, types)


def _is_shallow(value: Any, levels: int = 8) -> bool:
    """Return True if a value is nested at most ``levels`` deep, so that functions may recurse over it."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in below)


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) and _is_shallow(value)


# Facts that readers rely on, and checks of their types. A checkpoint that fails one is damaged.
TYPES: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("algorithm", "env", "version"), _is(str)),
    **dict.fromkeys(("env_args", "sizes", "config", "resolved_settings", "learner", "loop"), _is_section),
    **dict.fromkeys(("host", "packages"), lambda value: is_table(value, _is(str, NoneType))),
    **dict.fromkeys(("seed", "t_env"), untrusted.is_integer),
    "finished": _is(bool),
    "transfer": lambda value: value is None or _is_section(value),
    "sacred_runs": lambda value: is_list(value, _is(str, NoneType)),
    # (record, start time) each
    "sacred_starts": lambda value: is_list(value, lambda pair: is_list(pair, _is(str)) and len(pair) == 2),
    SCORE: lambda value: value is None or (is_list(value, _is(int, float)) and bool(value)),  # NaN is allowed
}


def add_facts(folder: Path, **facts: Any) -> None:
    """Add facts (JSON) to the manifest of a checkpoint that is being written; no file is listed yet."""
    _write(folder, {}, {**read_facts_unchecked(folder), **facts})


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """List every file of ``folder`` in its manifest, add ``facts``, and flush everything to the disk."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST):
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": _file_sum(path)}
        _sync(path)
    _write(folder, files, {**read_facts_unchecked(folder), **facts})
    for path in (folder / MANIFEST, *(child for child in folder.rglob("*") if child.is_dir()), folder):
        _sync(path)


def read_facts(folder: Path) -> dict[str, Any]:
    """Check every file of a checkpoint against its manifest and return the facts.

    Raises:
        Damaged: a file is missing, has changed, or is not a regular file inside ``folder``.
        OtherVersion: another version of this program wrote it.
    """
    try:
        untrusted.check_plain_tree(folder)
    except Unreadable as reason:
        raise Damaged(str(reason)) from reason
    body = _read_manifest(folder)
    for name, expected in body["files"].items():
        try:
            _check_file(folder, name, expected)
        except (OSError, ValueError, KeyError, TypeError) as error:  # unreadable, or not listed by this program
            raise Damaged(f"{name!r} cannot be checked ({error})") from error
    return body["facts"]


def read_facts_unchecked(folder: Path) -> dict[str, Any]:
    """Return the facts without checking the other files; an empty dict if the manifest is missing or damaged."""
    try:
        return _read_manifest(folder)["facts"]
    except Damaged:
        return {}


def is_intact(folder: Path) -> bool:
    """Return True if no file of a checkpoint is missing or has changed."""
    try:
        read_facts(folder)
    except Damaged:
        return False
    return True


def _write(folder: Path, files: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    content = {"format": FORMAT, "files": files, "facts": facts}
    # Encode and decode: the checksum must be that of the values that a reader gets.
    body = json.loads(strict_json.dumps(content, default=lambda value: strict_json.finite(value.item())))
    (folder / MANIFEST).write_text(strict_json.dumps({"sha256": _body_sum(body), "body": body}))


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not os.path.lexists(path):
        if (folder / "learner.json").exists():  # version 0.1.0 kept the facts there
            raise OtherVersion(_written_by("0.1.0"))
        raise Damaged(f"{MANIFEST} is missing")
    try:
        content = untrusted.read_json(path, LARGEST)
    except Unreadable as reason:
        raise Damaged(f"{MANIFEST} {reason}") from reason
    try:
        body = content["body"]
        if content["sha256"] != _body_sum(body):
            raise Damaged(f"{MANIFEST} does not match its checksum")
        facts = body["facts"]
        if body["format"] != FORMAT:
            raise OtherVersion(_written_by(facts["version"]))
        if not (isinstance(body["files"], dict) and isinstance(facts, dict)):
            raise TypeError
        if "settled" in facts:  # its name before 0.2.0
            facts["resolved_settings"] = facts.pop("settled")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} cannot be understood") from error
    if (key := untrusted.first_of_another_type(facts, TYPES)) is not None:
        raise Damaged(f"{MANIFEST} has an invalid value for {key}")
    return body


def _written_by(version: Any) -> str:
    known = version if isinstance(version, str) and re.fullmatch(r"[0-9][0-9a-z.]{0,19}", version) else ""
    return (
        f"was written by lolm_plugin {known or 'in another version'}, whose checkpoints version {__version__} cannot "
        f"read: train again{f', or install lolm_plugin {known}' if known else ''}"
    )


def _check_file(folder: Path, name: str, expected: Mapping[str, Any]) -> None:
    relative = PurePosixPath(name)
    path = folder / relative
    inside = path.resolve().is_relative_to(folder.resolve())  # false for a link that leads out
    if relative.is_absolute() or ".." in relative.parts or not inside:
        raise Damaged(f"{MANIFEST} names {name}, which is not inside the checkpoint")
    if not path.is_file():
        raise Damaged(f"{name} is missing")
    try:
        with untrusted.open_regular(path, LARGEST_FILE) as file:
            size = os.fstat(file.fileno()).st_size
            if size != expected["bytes"]:
                raise Damaged(f"{name} has {size} bytes instead of {expected['bytes']}")
            if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                raise Damaged(f"{name} does not match its checksum")
    except Unreadable as reason:
        raise Damaged(f"{name} {reason}") from reason


def _body_sum(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _file_sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Store:
    """Context manager that locks ``folder`` and writes checkpoints into it.

    It keeps the newest ``keep`` checkpoints and the one with the highest score; None keeps all.
    """

    def __init__(self, folder: Path, keep: int | None) -> None:
        self.folder = folder
        self.keep = keep
        self._lock: int | None = None
        self._damaged: set[int] = set()

    def __enter__(self) -> Self:
        """Lock the folder. Raises ConfigError if another process writes into it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder, os.O_RDONLY)
        if not _lock(self._lock):
            os.close(self._lock)
            raise ConfigError(
                f"{self.folder} belongs to a run that is still running; stop that one first, or resume another folder."
            )
        _finish_interrupted_save(self.folder)
        self._damaged = {step for step in steps(self.folder) if not is_intact(self.folder / str(step))}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._lock is not None
        os.close(self._lock)

    def save(self, step: int, fill: Callable[[Path], None], facts: Mapping[str, Any]) -> Path:
        """Let ``fill`` write into an empty folder, seal it, and rename it to the checkpoint of ``step``.

        Raises:
            SaveError: a file could not be written; no part of the checkpoint is left.
        """
        target, unfinished = self.folder / str(step), self.folder / f".writing-{step}"
        replaced = self.folder / f".writing-{step}-before"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            unfinished.mkdir()
            fill(unfinished)
            seal(unfinished, facts)
            if target.exists():  # a resumed run reaches the same step again
                target.rename(replaced)
            unfinished.rename(target)
            shutil.rmtree(replaced, ignore_errors=True)
            _sync(self.folder)
        except OSError as error:
            if replaced.exists() and not target.exists():
                replaced.rename(target)
            reason = error.strerror or " ".join(str(error).split())
            raise SaveError(f"The checkpoint {target} could not be written ({reason})") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        self._damaged.discard(step)
        self._remove_old()
        return target

    def best_score(self) -> list[float] | None:
        """Return the highest score of all checkpoints; None if none has a score."""
        return max((facts[SCORE] for facts in self._facts().values() if facts.get(SCORE) is not None), default=None)

    def set_aside_after(self, step: int) -> None:
        """Rename the checkpoints after ``step`` to ``LATER.damaged``, because the run continues from ``step``."""
        for later in (later for later in steps(self.folder) if later > step):
            aside, number = self.folder / f"{later}.damaged", 1
            while aside.exists():  # from an earlier resume, whose files are kept
                number += 1
                aside = self.folder / f"{later}.damaged-{number}"
            (self.folder / str(later)).rename(aside)

    def _remove_old(self) -> None:
        if self.keep is None:
            return
        facts = self._facts()
        kept = set(sorted(facts)[-self.keep :])
        if scored := [step for step in facts if facts[step].get(SCORE) is not None]:
            kept.add(max(scored, key=lambda step: (facts[step][SCORE], step)))
        for step in facts.keys() - kept:
            # Renamed first, because a half removed folder would look like a damaged checkpoint.
            removed = self.folder / f".writing-{step}-old"
            with suppress(OSError):
                (self.folder / str(step)).rename(removed)
                shutil.rmtree(removed, ignore_errors=True)

    def _facts(self) -> dict[int, Mapping[str, Any]]:
        """Return the facts of the checkpoints that are not known to be damaged, without reading their other files."""
        found = {step: read_facts_unchecked(self.folder / str(step)) for step in steps(self.folder)}
        return {step: facts for step, facts in found.items() if facts and step not in self._damaged}


def steps(folder: Path) -> list[int]:
    """Return the sorted steps of the checkpoints in ``folder``, damaged ones included."""
    return sorted(int(path.name) for path in folder.glob("*") if _is_step(path))


def runs(folder: Path) -> list[Path]:
    """Return the sorted folders below ``folder`` that have checkpoints, damaged ones included. Follows no links."""
    found = []
    for path, children, _ in os.walk(folder):
        if any(_is_step(Path(path, child)) for child in children):
            found.append(Path(path))
            children.clear()
    return sorted(found)


def find(
    folder: Path,
    load_step: int = 0,
    strict: bool = False,
    log: logging.Logger | None = None,
    key: str = "checkpoint_path",
) -> Checkpoint:
    """Find the newest whole checkpoint of a run, or the nearest to ``load_step`` unless that is 0.

    A damaged checkpoint is skipped with a warning that says which file and why. ``key`` is the setting that named
    ``folder``, for errors.

    Raises:
        ConfigError: there is none, another version wrote it, or, with ``strict``, the first choice is damaged.
    """
    _recover(folder)
    known = steps(folder)
    if not known:
        problem = "has no checkpoint (no folder named by a step)" if folder.is_dir() else "is not a folder"
        raise ConfigError(
            f"{key}={folder} {problem}; set {key} to a folder like results/models/<run>, or to '' to start afresh."
        )
    wanted = load_step or known[-1]
    damaged: list[str] = []
    for step in sorted(known, key=lambda step: (abs(step - wanted), -step)):
        path = folder / str(step)
        try:
            found = Checkpoint(path, read_facts(path))
        except OtherVersion as problem:
            raise ConfigError(f"{key}={folder}: step {step} {problem}.") from problem
        except Damaged as problem:
            damaged.append(f"{path} is damaged: {problem}")
            if strict:
                raise ConfigError(f"{damaged[0]}; leave out --strict to take the one before it.") from problem
            continue
        for sentence in damaged:
            if log:
                log.warning("%s. Going back to step %d.", sentence, step)
        return found
    raise ConfigError(f"{'; '.join(damaged[:3])}: no whole checkpoint is left in {folder}, so start afresh.")


def _is_step(path: Path) -> bool:
    """Return True if a folder's name is a step as ``Store`` writes it: ASCII digits without a leading zero."""
    name = path.name
    named = name.isascii() and name.isdigit() and len(name) <= LONGEST_STEP and name == str(int(name))
    return named and path.is_dir() and not path.is_symlink()


def _recover(folder: Path) -> None:
    """Finish or undo the save of a killed process, unless a running process has locked the folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            if _lock(descriptor):
                _finish_interrupted_save(folder)
        finally:
            os.close(descriptor)


def _finish_interrupted_save(folder: Path) -> None:
    """Restore a checkpoint that was being replaced, and remove incomplete ones."""
    for before in folder.glob(".writing-*-before"):
        target = folder / before.name.split("-")[1]
        if not target.exists():
            before.rename(target)
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _lock(descriptor: int) -> bool:
    """Lock an open folder until this process ends. Returns False if another process has locked it."""
    with suppress(ImportError):  # Windows has no such locks
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without such locks
            return True
    return True
