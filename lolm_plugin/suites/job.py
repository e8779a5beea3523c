"""One run of a suite, as a process of its own: ``python -m lolm_plugin.commands.job FOLDER``.

It begins where the last attempt stopped, stops by itself when whoever started it is gone, and leaves ``done.json`` when
it is through. So it does not matter which machine tries it, how often, or what ended the try before.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lolm_plugin import strict_json
from lolm_plugin.configuration import checkpoint_config, command_line
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import hidden_words, holds_address
from lolm_plugin.run import checkpoint_store
from lolm_plugin.tracking import record_files

JOB, DONE, OUTPUT = "job.json", "done.json", "output.txt"
PATIENCE = 900.0  # seconds for an earlier try to finish its batch and save; less would fail runs that only wait
LARGEST = 2**20  # bytes of a job.json; ours have a few hundred


class DamagedJob(Exception):
    """A job.json that cannot be read. The message is one sentence; other jobs of the suite can run."""


def write(folder: Path, arguments: Sequence[str], source: Path | None, host: str) -> None:
    """Put down what is to be run in ``folder``; ``source`` is the job's folder whose weights it begins with.

    Raises ConfigError where something else was put down before, and DamagedJob where what was cannot be read.
    """
    content = {"arguments": list(arguments), "source": os.path.relpath(source, folder) if source else None}
    file = folder / JOB
    if file.is_file():
        before = read(folder)
        if {key: before.get(key) for key in content} != content:
            changed = set(content["arguments"]) ^ set(before["arguments"])
            raise ConfigError(
                f"{folder} holds a run with other settings ({', '.join(hidden_words(sorted(changed)))}); set --results "
                "to another folder, or remove this one."
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, {**content, "host": host})


def read(folder: Path) -> dict[str, Any]:
    """Return what ``write`` put down in ``folder``.

    Raises:
        DamagedJob: its file was cut, or is not a job's.
    """
    file = folder / JOB
    try:
        content = json.loads(record_files.read_bytes(folder, JOB, LARGEST))
        if not (
            isinstance(content["arguments"], list)
            and all(isinstance(word, str) for word in content["arguments"])
            and isinstance(content["source"], str | None)
            and isinstance(content["host"], str)
        ):
            raise ValueError("has values of another type")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedJob(
            f"{file} is damaged ({record_files.shown(error)}), so what ran there is not known; remove that file to "
            "continue the run with the suite's settings, or its folder to begin it again."
        ) from error
    return content


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all. If it holds a database's address, only its owner may read it."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)  # of a process that had the same number: touch would keep its mode
    text = strict_json.dumps(content, indent=1)
    unfinished.touch(0o600 if holds_address(text) else 0o666)
    unfinished.write_text(text)
    unfinished.replace(file)


def is_done(folder: Path) -> bool:
    """Whether the job in ``folder`` came to its end."""
    return (folder / DONE).is_file()


def reopen(folder: Path) -> None:
    """Have the job in ``folder`` run again."""
    (folder / DONE).unlink(missing_ok=True)


def missing(folder: Path, arguments: Sequence[str]) -> str:
    """Return what a job that ended well should have left in ``folder`` and did not; empty if nothing."""
    if "save_model=True" not in arguments:
        for path in (folder / "results/sacred").glob("*/*/*/metrics.json"):
            with suppress(record_files.RecordError):
                if record_files.load_metrics(path.parent):
                    return ""
        return "its record has no measurements"
    runs = [path for path in (folder / "results/models").glob("*") if path.is_dir()]
    if any(any(path.glob("[0-9]*/*.th")) for path in runs):  # of EPyMARL's own algorithms
        return ""
    facts = []
    for path in runs:
        with suppress(ConfigError):
            facts.append(checkpoint_store.find(path).facts)
    if not facts:
        return "it has no checkpoint"
    return "" if any(fact.get("finished") for fact in facts) else "its last checkpoint was not written"


def models(folder: Path) -> Path | None:
    """The checkpoints of the job in ``folder``, if it has a whole one."""
    for path in checkpoint_store.runs(folder / "results/models"):
        try:
            checkpoint_store.find(path)
        except ConfigError:
            continue
        return path
    return None


def main(folder: Path, train: Callable[[list[str]], int]) -> int:
    """Run, or continue; returns the exit code of ``train``, which is given a command line."""
    os.chdir(folder)
    here = Path()
    with Path(".lock").open("w") as lock:
        _wait_for(lock)
        if is_done(here):
            return 0
        asked = read(here)
        code = train(["-m lolm_plugin train", *_arguments(asked, here)])
        if code != 0:
            return code
        # With on_save_error=warn a run ends well on a full disk, but what begins with its weights could never start.
        if lost := missing(here, asked["arguments"]):
            print(
                f"error: the run came to its end but {lost}; free some space and start the suite again.",
                file=sys.stderr,
            )
            return 1
        write_json(here / DONE, {"exit_code": 0})
        return 0


def _arguments(job: Mapping[str, Any], here: Path) -> list[str]:
    """The command line of this try."""
    host = [f"--epymarl={job['host']}"] if job["host"] else []
    if "evaluate=True" not in job["arguments"] and (own := models(here)):
        repeated = checkpoint_config.to_repeat(
            command_line.configuration([*host, *job["arguments"]], "lolm compare", checked=False)
        )
        return ["--resume", str(own), *host, *(["with", *repeated] if repeated else [])]
    if kept := checkpoint_store.runs(here / "results/models"):
        raise ConfigError(
            f"{kept[0].resolve()} has checkpoints, and none of them is whole; move {(here / 'results').resolve()} "
            "elsewhere to run it again."
        )
    shutil.rmtree(here / "results", ignore_errors=True)  # a try without a checkpoint is of no use
    if job["source"] is None:
        return [*host, *job["arguments"]]
    weights = models(here / job["source"])
    if weights is None:
        raise ConfigError(f"{Path(job['source']).resolve()} has no checkpoint to transfer from; run it first.")
    return [*host, *job["arguments"], f"transfer_from={weights}"]


def _wait_for(lock: Any, seconds: float = PATIENCE) -> None:
    """Wait until no other try is at work here: one whose starter died may still be saving.

    Raises:
        ConfigError: another one is still at work after ``seconds``.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        return
    deadline, said = time.monotonic() + seconds, False
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise ConfigError(
                    f"{Path.cwd()} is still in use by an earlier try of this run after {seconds:.0f} s; end that "
                    "process, and start the suite again."
                ) from error
        if not said:
            print("waiting for an earlier try of this run to end", file=sys.stderr, flush=True)
            said = True
        time.sleep(0.2)
