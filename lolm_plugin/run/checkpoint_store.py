"""The checkpoints of one run, ``FOLDER/STEP``: whole or absent however a run ends, the last few and the best kept."""

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lolm_plugin.errors import ConfigError
from lolm_plugin.run import manifest
from lolm_plugin.run.manifest import Damaged

LONGEST_STEP = 15  # digits
SCORE = "score"  # the fact that says how well a checkpoint plays


class SaveError(Exception):
    """A checkpoint could not be written, and those before it are as they were; the message is a sentence."""


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint; ``facts`` are empty for what version 0.1.0 wrote."""

    path: Path
    facts: Mapping[str, Any]

    @property
    def step(self) -> int:
        """The environment step it was written at."""
        return int(self.path.name)


class Store:
    """Writes checkpoints into ``folder``, which belongs to this process while the store is open (a context manager).

    ``keep`` is how many of the newest stay beside the best, null: all.
    """

    def __init__(self, folder: Path, keep: int | None) -> None:
        self.folder = folder
        self.keep = keep
        self._lock: int | None = None
        self._damaged: set[int] = set()

    def __enter__(self) -> Self:
        """Raises ConfigError when another process writes here."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder, os.O_RDONLY)
        if not _locked(self._lock):
            os.close(self._lock)
            raise ConfigError(
                f"{self.folder} belongs to a run that still goes on; stop that one first, or resume another folder."
            )
        _clear(self.folder)
        self._damaged = {step for step in steps(self.folder) if not is_whole(self.folder / str(step))}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._lock is not None
        os.close(self._lock)

    def save(self, step: int, fill: Callable[[Path], None], facts: Mapping[str, Any]) -> Path:
        """Have ``fill`` write into an empty folder and make it the checkpoint of ``step``, all at once.

        Raises SaveError when the disk does not take it; nothing of it is left then.
        """
        target, unfinished = self.folder / str(step), self.folder / f".writing-{step}"
        replaced = self.folder / f".writing-{step}-before"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            unfinished.mkdir()
            fill(unfinished)
            manifest.write(unfinished, facts)
            if target.exists():  # a resumed run comes by here again
                target.rename(replaced)
            unfinished.rename(target)
            shutil.rmtree(replaced, ignore_errors=True)
            manifest.sync(self.folder)
        except OSError as error:
            if replaced.exists() and not target.exists():
                replaced.rename(target)
            raise SaveError(f"The checkpoint {target} could not be written ({_reason(error)})") from error
        finally:  # whatever ended it
            shutil.rmtree(unfinished, ignore_errors=True)
        self._damaged.discard(step)
        self._remove_old()
        return target

    def best_score(self) -> list[float] | None:
        """The highest score of a checkpoint here that has one."""
        scores = [facts[SCORE] for facts in self._facts().values() if facts.get(SCORE) is not None]
        return max(scores, default=None)

    def set_aside_after(self, step: int) -> None:
        """Rename checkpoints later than ``step``: the run goes on from there and does not take them for its own."""
        for later in (later for later in steps(self.folder) if later > step):
            aside, number = self.folder / f"{later}.damaged", 1
            while aside.exists():  # of an earlier resume; not ours to remove
                number += 1
                aside = self.folder / f"{later}.damaged-{number}"
            (self.folder / str(later)).rename(aside)

    def _remove_old(self) -> None:
        if self.keep is None:
            return
        facts = self._facts()
        kept = set(sorted(facts)[-self.keep :])
        scored = [step for step in facts if facts[step].get(SCORE) is not None]
        if scored:
            kept.add(max(scored, key=lambda step: (facts[step][SCORE], step)))
        for step in facts.keys() - kept:
            removed = self.folder / f".writing-{step}-old"
            # Renamed first: half removed, it would look like a damaged checkpoint.
            try:
                (self.folder / str(step)).rename(removed)
            except OSError:
                continue
            shutil.rmtree(removed, ignore_errors=True)

    def _facts(self) -> dict[int, Mapping[str, Any]]:
        """Of every checkpoint here but those known to be damaged; files are not read again at each save."""
        known = {step: manifest.facts_alone(self.folder / str(step)) for step in steps(self.folder)}
        return {step: facts for step, facts in known.items() if facts and step not in self._damaged}


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in ``folder``, whole or not, in order."""
    return sorted(int(path.name) for path in folder.glob("*") if _is_step(path))


def runs(folder: Path) -> list[Path]:
    """List every folder below ``folder`` that has checkpoints, whole or not, in order. Links are not followed.

    Earlier versions made several folders of a run's name with a slash in it.
    """
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
    """The newest whole checkpoint, or the nearest to ``load_step`` unless that is 0; ``key`` is where it was asked for.

    A damaged one is passed over with a warning that says which file and why. Raises ConfigError where there is none,
    and with ``strict`` where the first choice is damaged.
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
            found = Checkpoint(path, manifest.read(path))
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
    """Return whether a folder's name is a step as ``Store`` writes it: ASCII digits without a leading zero."""
    name = path.name
    named = name.isascii() and name.isdigit() and len(name) <= LONGEST_STEP and name == str(int(name))
    return named and path.is_dir() and not path.is_symlink()


def is_whole(path: Path) -> bool:
    """Whether every file of a checkpoint is what was written."""
    try:
        manifest.read(path)
    except Damaged:
        return False
    return True


def _recover(folder: Path) -> None:
    """Undo what a killed process left half done, unless it is another one's that lives."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            if _locked(descriptor):
                _clear(folder)
        finally:
            os.close(descriptor)


def _clear(folder: Path) -> None:
    """Remove what a process left that died while it saved, and put back what it was about to replace."""
    for before in folder.glob(".writing-*-before"):
        target = folder / before.name.split("-")[1]
        if not target.exists():
            before.rename(target)
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _locked(descriptor: int) -> bool:
    """Whether this process has the file for itself; the lock goes when the process does, however it ends."""
    with suppress(ImportError):  # Windows has no such locks, and does without
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without such locks
            return True
    return True


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())
