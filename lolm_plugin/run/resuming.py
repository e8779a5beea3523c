"""``--resume RUN_DIR``: find the checkpoint and the configuration that a run continues with."""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lolm_plugin import checkpoints, registry
from lolm_plugin.checkpoints import Checkpoint
from lolm_plugin.configuration import checkpoint_config, config_check, config_files, experiment
from lolm_plugin.configuration.updates import nested
from lolm_plugin.errors import ConfigError, one_line
from lolm_plugin.passwords import hidden
from lolm_plugin.untrusted import Unreadable, is_whole, read_json

LARGEST_RECORD = 16 * 2**20  # bytes of run.json, which holds what the run printed last
MOST_THREADS = 1024
# What a resumed run begins with whatever its checkpoint says.
FRESH = {"load_step": 0, "evaluate": False, "save_replay": False, "strict": False, "env_args.seed": None}


@dataclass(frozen=True)
class Resumed:
    """How a run continues: its folder, the settings chosen by measurement before, and what changed."""

    folder: Path
    settled: Mapping[str, Any]
    changes: Mapping[str, tuple[Any, Any]]  # key -> (before, now)


def find(folder: str, strict: bool, log: logging.Logger) -> Checkpoint:
    """Return the newest whole checkpoint of a run: ``folder`` is its folder of checkpoints or of its Sacred record.

    Raises:
        ConfigError: there is none, or it is of an imitation.
    """
    path = Path(folder)
    if not os.path.isdir(path):
        raise ConfigError(
            f"--resume={folder} is not a folder; set it to results/models/RUN or results/sacred/ALGORITHM/MAP/N."
        )
    found = checkpoints.find(checkpoints_of(path), strict=strict, log=log, key="--resume")
    if is_imitation(found.facts):
        raise ConfigError(
            f"--resume={folder} is an imitation, which is not resumed: run lolm imitate again, or continue from its "
            f"policy with transfer_from={found.path.parent}."
        )
    return found


def is_imitation(facts: Mapping[str, Any]) -> bool:
    """Whether ``lolm imitate`` wrote a checkpoint with these facts."""
    config = facts.get("config")
    section = config.get("imitate") if isinstance(config, Mapping) else None
    return isinstance(section, Mapping) and bool(section.get("teacher"))


def configuration(
    found: Checkpoint, updates: Mapping[str, Any], host_dir: Path, log: logging.Logger
) -> tuple[dict[str, Any], Resumed]:
    """Return the configuration that a run continues with, keys and types checked, and how it continues.

    As far as a checkpoint is believed it is the parent's to the letter, so that tools that compare configurations see
    one experiment. What was fastest on the parent's machine is in ``Resumed.settled``.

    Raises:
        ConfigError: a setting that the command line has to repeat, or one that it may not change.
    """
    defaults = config_files.read(config_files.plugin_config_dir() / "default.yaml")  # of keys that came later
    config = config_files.merge(defaults, found.facts.get("config", {}))
    if any(str(config.get(kind)) not in registry.ENTRIES[kind] for kind in ("learner", "mac")):
        raise ConfigError(
            f"{found.path} says learner={config.get('learner')} and mac={config.get('mac')}, which are not of "
            "lolm_plugin, and no other runs can be resumed; start a new one."
        )
    division = checkpoint_config.divide(config)
    given, folder = config_files.flatten(updates), found.path.parent
    checkpoint_config.check_repeated(division.needed, given)
    results = {"local_results_path": _results(folder, config.get("local_results_path"))}
    start = {**division.taken, **{key: given[key] for key in division.needed}, **FRESH, **results}
    changed = config_check.changed(nested(start, "in the checkpoint"), updates, host_dir)
    before = {**start, **division.optional, **division.needed, **results}
    changes = experiment.check_same(before, config_files.flatten(changed), given, folder)
    for key, value in division.optional.items():
        if key not in given and key != "local_results_path":
            said = one_line(hidden(f"{key}={value}"))
            log.warning("%s is not taken from a checkpoint; to have it, repeat it after `with`.", said)
    settled = {key: value for key, value in _settled(found.facts.get("settled", {})) if key not in given}
    recorded = {key: (hidden(old), hidden(new)) for key, (old, new) in changes.items()}
    return changed, Resumed(folder, nested(settled, "in the checkpoint"), recorded)


def checkpoints_of(run: Path, option: str = "--resume") -> Path:
    """Return ``run`` itself or, for the folder of a Sacred record, the folder with a checkpoint that names it.

    A record's number is given again once it is removed, so that checkpoints name the time at which it began, too.

    Raises:
        ConfigError: none does, or several do.
    """
    if not (run / "run.json").is_file():
        return run
    try:
        record = (run.resolve().parts[-3:], read_json(run / "run.json", LARGEST_RECORD)["start_time"])
    except (Unreadable, KeyError, TypeError, IndexError) as reason:
        raise ConfigError(
            f"{option}={run} has a run.json that cannot be read ({reason}); set it to another."
        ) from reason
    results = next((parent for parent in run.resolve().parents if (parent / "models").is_dir()), None)
    folders = checkpoints.runs(results / "models") if results else []
    found = [folder for folder in folders if record in _records(folder)]
    if len(found) > 1:
        listed = " and ".join(str(folder) for folder in found[:3])
        raise ConfigError(
            f"{option}={run} is named by the checkpoints of {listed}; set {option} to one of these folders."
        )
    if not found:
        raise ConfigError(
            f"{option}={run} has no checkpoint that names it; set it to the run's folder under results/models, and "
            "save_model=True in runs whose weights are to be used again."
        )
    return found[0]


def _records(folder: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the Sacred records that a run's checkpoints name: (algorithm, map, number) and the time it began."""
    for step in checkpoints.steps(folder):
        starts = checkpoints.facts_alone(folder / str(step)).get("sacred_starts", [])
        yield from ((Path(start[0]).parts[-3:], start[1]) for start in starts if start)


def _results(folder: Path, recorded: Any) -> str:
    """Return the results folder that the run lies in, written as in its record if that path still leads there."""
    if folder.parent.name != "models":
        return "results"
    results = folder.parent.parent
    same = isinstance(recorded, str) and "\0" not in recorded and Path(recorded).resolve() == results.resolve()
    return recorded if same else str(results)


def _settled(settled: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what the parent's machine settled. With other threads or products, sums would have another order."""
    flat = config_files.flatten(settled)
    threads, product = flat.get("torch_threads"), flat.get("llm.product")
    if threads is not None and is_whole(threads) and 1 <= threads <= MOST_THREADS:
        yield "torch_threads", threads
    if product in ("torch", "onednn"):
        yield "llm.product", product
