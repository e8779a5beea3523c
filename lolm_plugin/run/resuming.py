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
from lolm_plugin.configuration.checkpoint_config import SplitSettings
from lolm_plugin.configuration.updates import nested
from lolm_plugin.errors import ConfigError, one_line
from lolm_plugin.passwords import hidden
from lolm_plugin.untrusted import Unreadable, is_integer, read_json

LARGEST_RECORD = 16 * 2**20  # bytes of a run.json that is still read; ours have a few thousand
MOST_THREADS = 1024
# Settings that a resumed run never takes from its checkpoint.
FRESH = {"load_step": 0, "evaluate": False, "save_replay": False, "strict": False, "env_args.seed": None}


@dataclass(frozen=True)
class Resumed:
    """A run to resume: its folder, its settings resolved by measurement, and the settings that change."""

    folder: Path
    resolved_settings: Mapping[str, Any]
    changes: Mapping[str, tuple[Any, Any]]  # key -> (before, now)


def find(folder: str, strict: bool, log: logging.Logger) -> Checkpoint:
    """Return the newest whole checkpoint of a run. ``folder`` holds its checkpoints or its Sacred record.

    Raises:
        ConfigError: there is no such checkpoint, or ``lolm imitate`` wrote it.
    """
    path = Path(folder)
    if not os.path.isdir(path):
        raise ConfigError(
            f"--resume={folder} is not a folder; set it to results/models/RUN or results/sacred/ALGORITHM/MAP/N."
        )
    found = checkpoints.find(checkpoints_of(path), strict=strict, log=log, key="--resume")
    if is_imitation(found.facts):
        raise ConfigError(
            f"--resume={folder} is an imitation, which cannot be resumed; run lolm imitate again, or continue from its "
            f"policy with transfer_from={found.path.parent}."
        )
    return found


def is_imitation(facts: Mapping[str, Any]) -> bool:
    """Return True if ``lolm imitate`` wrote a checkpoint with these facts."""
    config = facts.get("config")
    section = config.get("imitate") if isinstance(config, Mapping) else None
    return isinstance(section, Mapping) and bool(section.get("teacher"))


def configuration(
    found: Checkpoint, updates: Mapping[str, Any], host_dir: Path, log: logging.Logger
) -> tuple[dict[str, Any], Resumed]:
    """Return the configuration of a resumed run, with keys and types checked, and its ``Resumed``.

    Settings that may come from a checkpoint stay exactly the parent's, so that tools that compare configurations see
    one experiment. Settings that were fastest on the parent's machine are in ``Resumed.resolved_settings``.

    Raises:
        ConfigError: the command line lacks a setting that it must repeat, or changes one that it may not change.
    """
    given, folder = config_files.flatten(updates), found.path.parent
    split = settings(found, given, "only runs with learner and mac of lolm_plugin can be resumed; start a new run")
    results = {"local_results_path": _results(folder, {**split.taken, **split.optional}.get("local_results_path"))}
    start = {**split.taken, **{key: given[key] for key in split.needed}, **FRESH, **results}
    changed = config_check.changed(nested(start, "in the checkpoint"), updates, host_dir)
    before = {**start, **split.optional, **split.needed, **results}
    changes = experiment.check_same(before, config_files.flatten(changed), given, folder)
    for key, value in split.optional.items():
        if key not in given and key != "local_results_path":
            said = one_line(hidden(f"{key}={value}"))
            log.warning("%s is not taken from a checkpoint; to keep it, repeat it after `with`.", said)
    resolved = {
        key: value for key, value in _known_settings(found.facts.get("resolved_settings", {})) if key not in given
    }
    recorded = {key: (hidden(old), hidden(new)) for key, (old, new) in changes.items()}
    return changed, Resumed(folder, nested(resolved, "in the checkpoint"), recorded)


def settings(found: Checkpoint, given: Mapping[str, Any], only: str) -> SplitSettings:
    """Return the settings of a checkpoint, divided by what a checkpoint may decide.

    Args:
        found: the checkpoint. Keys that were added since have their default.
        given: the command line's settings, by flat key.
        only: end of the error for algorithms of the host.

    Raises:
        ConfigError: learner or controller are not the plugin's, or ``given`` lacks a setting that it must repeat.
    """
    defaults = config_files.read(config_files.plugin_config_dir() / "default.yaml")
    config = config_files.merge(defaults, experiment.rename_keys(found.facts.get("config", {})))
    if any(str(config.get(kind)) not in registry.ENTRIES[kind] for kind in ("learner", "mac")):
        raise ConfigError(f"{found.path} has learner={config.get('learner')} and mac={config.get('mac')}, but {only}.")
    split = checkpoint_config.split_settings(config)
    checkpoint_config.check_repeated(split.needed, given)
    return split


def checkpoints_of(run: Path, option: str = "--resume") -> Path:
    """Return the folder of a run's checkpoints.

    This is ``run`` itself or, if ``run`` is a Sacred record, the folder whose checkpoints name that record. The number
    of a removed record is used again, so checkpoints also store the record's start time.

    Raises:
        ConfigError: no folder has such checkpoints, or several have.
    """
    if not (run / "run.json").is_file():
        return run
    try:
        record = (run.resolve().parts[-3:], read_json(run / "run.json", LARGEST_RECORD)["start_time"])
    except (Unreadable, KeyError, TypeError, IndexError) as reason:
        raise ConfigError(
            f"{option}={run} has a run.json that cannot be read ({reason}); set it to another run."
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
            f"{option}={run} has no checkpoint that names it; set it to the run's folder under results/models. Only "
            "runs with save_model=True have one."
        )
    return found[0]


def _records(folder: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the Sacred records that a run's checkpoints name: (algorithm, map, number) and the start time."""
    for step in checkpoints.steps(folder):
        starts = checkpoints.read_facts_unchecked(folder / str(step)).get("sacred_starts", [])
        yield from ((Path(start[0]).parts[-3:], start[1]) for start in starts if start)


def _results(folder: Path, recorded: Any) -> str:
    """Return the results folder of the run, written as in its record if that path is still the same folder."""
    if folder.parent.name != "models":
        return "results"
    results = folder.parent.parent
    same = isinstance(recorded, str) and "\0" not in recorded and Path(recorded).resolve() == results.resolve()
    return recorded if same else str(results)


def _known_settings(resolved: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the number of threads that was measured on the parent's machine."""
    threads = resolved.get("torch_threads")
    if threads is not None and is_integer(threads) and 1 <= threads <= MOST_THREADS:
        yield "torch_threads", threads
