"""``--resume RUN_DIR``: which checkpoint and which configuration a run goes on with."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lolm_plugin import config_files
from lolm_plugin.checkpoints import manifest, store
from lolm_plugin.checkpoints.store import Checkpoint
from lolm_plugin.errors import ConfigError


def find(folder: str, strict: bool, log: logging.Logger) -> Checkpoint:
    """The newest whole checkpoint of a run: ``folder`` is its folder of checkpoints or of its Sacred record.

    Raises ConfigError where there is none, and for one of version 0.1.0, which does not say how it was made.
    """
    path = Path(folder)
    if not os.path.isdir(path):
        raise ConfigError(
            f"--resume={folder} is not a folder; set it to results/models/RUN or results/sacred/ALGORITHM/MAP/N."
        )
    found = store.find(checkpoints_of(path), strict=strict, log=log)
    if not found.facts:
        raise ConfigError(
            f"--resume={folder} was written by lolm_plugin 0.1.0, which kept no configuration; write out its --config "
            f"and --env-config with checkpoint_path={found.path.parent}."
        )
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


def configuration(found: Checkpoint) -> dict[str, Any]:
    """What the run was started with, now reading ``found`` and writing beside it."""
    # A checkpoint of an older version lacks the keys that came later. Their defaults are what that version did.
    config = config_files.merge(
        config_files.read(config_files.plugin_config_dir() / "default.yaml"), found.facts["config"]
    )
    folder = found.path.parent
    # The folder may have been moved since; whatever else lies under the results stays there.
    moved = {"checkpoint_path": str(folder), "load_step": 0, "evaluate": False, "save_replay": False, "strict": False}
    if folder.parent.name == "models":
        moved["local_results_path"] = str(folder.parent.parent)
    return {**config, **moved}


def checkpoints_of(run: Path, option: str = "--resume") -> Path:
    """``run`` itself, or, for the folder of a Sacred record, the folder of checkpoints one of which names it."""
    if not (run / "run.json").is_file():
        return run
    results = next((parent for parent in run.resolve().parents if (parent / "models").is_dir()), None)
    folders = [folder for folder in (results / "models").iterdir() if folder.is_dir()] if results else []
    for folder in folders:
        for step in reversed(store.steps(folder)):
            named = [Path(name) for name in manifest.facts_alone(folder / str(step)).get("sacred_runs", []) if name]
            if run.resolve().parts[-3:] in [record.parts[-3:] for record in named]:
                return folder
    raise ConfigError(
        f"{option}={run} has no checkpoint that names it; set it to the run's folder under results/models, and "
        "save_model=True in runs whose weights are to be used again."
    )
