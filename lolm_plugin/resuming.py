"""``--resume RUN_DIR``: which checkpoint and which configuration a run goes on with."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lolm_plugin.checkpoints import manifest, store
from lolm_plugin.checkpoints.store import Checkpoint
from lolm_plugin.errors import ConfigError


def find(folder: str, strict: bool, log: logging.Logger) -> Checkpoint:
    """The newest whole checkpoint of a run: ``folder`` is its folder of checkpoints or of its Sacred record.

    Raises ConfigError where there is none, and for one of version 0.1.0, which does not say how it was made.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ConfigError(
            f"--resume={folder} is not a folder; set it to results/models/RUN or results/sacred/ALGORITHM/MAP/N."
        )
    found = store.find(_of_sacred_run(path) if (path / "run.json").is_file() else path, strict=strict, log=log)
    if not found.facts:
        raise ConfigError(
            f"--resume={folder} was written by lolm_plugin 0.1.0, which kept no configuration; write out its --config "
            f"and --env-config with checkpoint_path={found.path.parent}."
        )
    return found


def configuration(found: Checkpoint) -> dict[str, Any]:
    """What the run was started with, now reading ``found`` and writing beside it."""
    config: Mapping[str, Any] = found.facts["config"]
    folder = found.path.parent
    # The folder may have been moved since; whatever else lies under the results stays there.
    moved = {"checkpoint_path": str(folder), "load_step": 0, "evaluate": False, "save_replay": False, "strict": False}
    if folder.parent.name == "models":
        moved["local_results_path"] = str(folder.parent.parent)
    return {**config, **moved}


def _of_sacred_run(record: Path) -> Path:
    """The folder of checkpoints whose newest one names ``record``."""
    results = next((parent for parent in record.resolve().parents if (parent / "models").is_dir()), None)
    folders = [folder for folder in (results / "models").iterdir() if folder.is_dir()] if results else []
    for folder in folders:
        for step in reversed(store.steps(folder)):
            named = [Path(run) for run in manifest.facts_alone(folder / str(step)).get("sacred_runs", []) if run]
            if record.resolve().parts[-3:] in [run.parts[-3:] for run in named]:
                return folder
    raise ConfigError(
        f"--resume={record} has no checkpoint that names it; set it to the run's folder under results/models, and "
        "save_model=True in runs that are to be resumed."
    )
