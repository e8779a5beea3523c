"""One run of a suite in a separate process: ``python -m lolm_plugin.commands.suite_run FOLDER``.

The process resumes from the last checkpoint of an earlier try. It stops when its parent process ends, and writes
``done.json`` after the last step. So a run can be tried on any machine, any number of times.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from lolm_plugin import checkpoints, registry, strict_json
from lolm_plugin.configuration import checkpoint_config, command_line
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import hidden_words, holds_address
from lolm_plugin.tracking import record_files

COMMAND, DONE, OUTPUT = "job.json", "done.json", "output.txt"
PATIENCE = 900.0  # seconds for an earlier try to finish its batch and save; less would fail runs that only wait
LARGEST = 2**20  # maximum size of a job.json in bytes; usual ones have a few hundred


class DamagedFile(Exception):
    """A job.json cannot be read. Other runs of the suite can still start. The message is one sentence."""


class Command(BaseModel):
    """job.json: the command line of a run."""

    model_config = ConfigDict(strict=True)
    arguments: list[str]
    source: str | None  # folder of a transfer's source run, relative to this run's folder
    host: str  # for --epymarl


def write(folder: Path, arguments: Sequence[str], source: Path | None, host: str) -> None:
    """Write the command line of the run in ``folder``. ``source`` is the folder of a transfer's source run.

    Raises:
        ConfigError: ``folder`` holds a run with other settings.
        DamagedFile: the settings of the run in ``folder`` cannot be read.
    """
    relative = os.path.relpath(source, folder) if source else None
    command = Command(arguments=list(arguments), source=relative, host=host)
    if (folder / COMMAND).is_file():
        before = read(folder)
        if (before.arguments, before.source) != (command.arguments, command.source):
            changed = sorted(set(command.arguments) ^ set(before.arguments))
            raise ConfigError(
                f"{folder} holds a run with other settings ({', '.join(hidden_words(changed))}); set --results to "
                "another folder, or remove this one."
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / COMMAND, command.model_dump())


def read(folder: Path) -> Command:
    """Read the command line of the run in ``folder``. Raises DamagedFile."""
    try:
        return Command.model_validate_json(record_files.read_bytes(folder, COMMAND, LARGEST))
    except (OSError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise DamagedFile(
            f"{folder / COMMAND} is damaged ({record_files.shown(reason)}), so the settings of that run are unknown; "
            "remove that file to continue the run with the suite's settings, or its folder to start the run again."
        ) from error


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically. If it contains a database address, only the file's owner may read it."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)  # left by a process with the same PID; touch would keep its mode
    text = strict_json.dumps(content, indent=1)
    unfinished.touch(0o600 if holds_address(text) else 0o666)
    unfinished.write_text(text)
    unfinished.replace(file)


def is_done(folder: Path) -> bool:
    """Return True if the run in ``folder`` is finished."""
    return (folder / DONE).is_file()


def reopen(folder: Path) -> None:
    """Mark the run in ``folder`` as not finished, so that it is started again."""
    (folder / DONE).unlink(missing_ok=True)


def missing(folder: Path, arguments: Sequence[str]) -> str:
    """Return what is missing in ``folder`` after a run without errors; empty if nothing is missing."""
    if "save_model=True" not in arguments:
        for path in (folder / "results/sacred").glob("*/*/*/metrics.json"):
            with suppress(record_files.RecordError):
                if record_files.load_metrics(path.parent):
                    return ""
        return "its record has no measurements"
    runs = [path for path in (folder / "results/models").glob("*") if path.is_dir()]
    if any(any(path.glob("[0-9]*/*.th")) for path in runs):  # checkpoints of EPyMARL's own algorithms
        return ""
    facts = []
    for path in runs:
        with suppress(ConfigError):
            facts.append(checkpoints.find(path).facts)
    if not facts:
        return "it has no checkpoint"
    return "" if any(fact.get("finished") for fact in facts) else "its last checkpoint was not written"


def models(folder: Path) -> Path | None:
    """Return the checkpoint folder of the run in ``folder``, or None if it has no whole checkpoint."""
    for path in checkpoints.runs(folder / "results/models"):
        try:
            checkpoints.find(path)
        except ConfigError:
            continue
        return path
    return None


def main(folder: Path, train: Callable[[list[str]], int]) -> int:
    """Start or resume the run in ``folder`` with ``train``, which takes a command line. Return the exit code."""
    os.chdir(folder)
    here = Path()
    with waiting_lock():
        if is_done(here):
            return 0
        command = read(here)
        code = train(["-m lolm_plugin train", *_arguments(command, here)])
        if code != 0:
            return code
        # With on_save_error=warn a run on a full disk ends without an error, but its transfers could never start.
        if lost := missing(here, command.arguments):
            print(
                f"error: the run finished but {lost}; free some disk space and start the suite again.",
                file=sys.stderr,
            )
            return 1
        write_json(here / DONE, {"exit_code": 0})
        return 0


def _arguments(command: Command, here: Path) -> list[str]:
    """Return the command line of this try."""
    host = [f"--epymarl={command.host}"] if command.host else []
    if "evaluate=True" not in command.arguments and (own := models(here)):
        repeated = checkpoint_config.to_repeat(
            command_line.configuration([*host, *command.arguments], "lolm compare", checked=False)
        )
        return ["--resume", str(own), *host, *(["with", *repeated] if repeated else [])]
    if kept := checkpoints.runs(here / "results/models"):
        raise ConfigError(
            f"{kept[0].resolve()} has checkpoints, but none of them is whole; move {(here / 'results').resolve()} "
            "elsewhere to start the run again."
        )
    shutil.rmtree(here / "results", ignore_errors=True)  # a try without a checkpoint cannot be resumed
    arguments = [*command.arguments, *_no_battles(host, command.arguments)]
    if command.source is None:
        return [*host, *arguments]
    weights = models(here / command.source)
    if weights is None:
        raise ConfigError(f"{Path(command.source).resolve()} has no checkpoint to transfer from; run it first.")
    return [*host, *arguments, f"transfer_from={weights}"]


def _no_battles(host: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Return the setting that keeps no battles, unless a suite wants them or its algorithm is the host's."""
    if any(word.startswith("keep_battles=") for word in arguments):
        return []
    words = [word for word in arguments if word != "evaluate=True"]
    config = command_line.configuration([*host, *words], "lolm compare", checked=False)
    return ["keep_battles=0"] if config["mac"] in registry.ENTRIES["mac"] else []


@contextmanager
def waiting_lock(seconds: float = PATIENCE) -> Iterator[None]:
    """Lock the working directory. Wait for an earlier try, which may still save after its parent process ended.

    Raises:
        ConfigError: an earlier try still runs after ``seconds``.
    """
    lock = FileLock(".lock")
    try:
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            print("waiting for an earlier try of this run to end", file=sys.stderr, flush=True)
            held = lock.acquire(timeout=seconds)
    except Timeout as error:
        raise ConfigError(
            f"{Path.cwd()} is still in use by an earlier try of this run after {seconds:.0f} s; end that process, and "
            "start the suite again."
        ) from error
    with held:
        yield
