"""Build the configuration of greedy battles with a run's checkpoint, from the run's folder (``lolm watch``).

A checkpoint may come from someone else. As for ``--resume``, the command line must repeat every setting that leads to
an import, a file or a download.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lolm_plugin import checkpoints, maps
from lolm_plugin.checkpoints import SCORE
from lolm_plugin.configuration import config_check, config_files
from lolm_plugin.configuration.updates import nested
from lolm_plugin.errors import ConfigError
from lolm_plugin.run.resuming import checkpoints_of, settings

# Greedy battles only, and nothing is written.
SETTINGS = {
    **{"evaluate": True, "test_greedy": True, "test_sampled": False, "save_replay": False, "save_model": False},
    **{"transfer_from": "", "imitate.teacher": "", "decisions_file": "", "mongo": "", "strict": False},
    **dict.fromkeys(("use_tensorboard", "use_wandb", "use_trackio"), False),
    **{"env_args.seed": None, "map_weights": None, "test_maps": []},
}


def configuration(
    run: str, updates: Mapping[str, Any], host_dir: Path, battles: int, log: logging.Logger
) -> dict[str, Any]:
    """Return the checked configuration of ``battles`` greedy battles with a run's best checkpoint.

    Args:
        run: a folder under results/models or results/sacred.
        updates: settings of the command line. ``load_step`` selects another checkpoint; ``env_args.map_name`` sets
            another map.
        host_dir: the host's folder of yaml files.
        battles: number of battles, unless ``updates`` set ``test_nepisode``.
        log: for warnings about damaged checkpoints.

    Raises:
        ConfigError: there is no such checkpoint, a setting must be repeated, or a setting cannot be used.
    """
    path, given = Path(run), config_files.flatten(updates)
    if not os.path.isdir(path):
        raise ConfigError(f"{run} is not a folder; name a run under results/models or results/sacred, or a record.")
    folder = checkpoints_of(path, "RUN")
    if not checkpoints.steps(folder):
        raise ConfigError(f"{run} has no checkpoint (no folder named by a step); name a run's under results/models.")
    found = checkpoints.find(folder, given.get("load_step") or _best_step(folder), log=log, key="RUN")
    split = settings(found, given, "only battles of lolm_plugin's policies can be watched; name another run")
    start = {**split.taken, **{key: given[key] for key in split.needed}, **SETTINGS, "test_nepisode": battles}
    if start.get("kl.reference") == "source":  # only valid with transfer_from
        start["kl.reference"] = "pretrained"
    start |= {"checkpoint_path": str(folder), "load_step": found.step}
    changed = config_check.changed(nested(start, "in the checkpoint"), updates, host_dir)
    changed["load_step"] = found.step
    for key, value in {**SETTINGS, "checkpoint_path": str(folder)}.items():
        if key in given and given[key] != value:
            raise ConfigError(f"{key} cannot be set for lolm watch, which needs {key}={value}; leave it out.")
    if changed["runner"] != "episode" and "batch_size_run" not in given:
        # One battle per environment: two runs then get the same seeds, and no environment is started in vain.
        changed |= dict.fromkeys(("batch_size_run", "batch_size", "buffer_size"), changed["test_nepisode"])
    changed["keep_battles"] = changed["test_nepisode"]
    changed.pop("mongo", None)
    maps.refuse_several(changed, "lolm watch")
    config_check.check(changed)
    return changed


def _best_step(folder: Path) -> int:
    """Return the step of the checkpoint that tested best, 0 if none was tested."""
    scored = {}
    for step in checkpoints.steps(folder):
        if (score := checkpoints.read_facts_unchecked(folder / str(step)).get(SCORE)) is not None:
            scored[step] = (score, step)
    return max(scored, key=scored.__getitem__, default=0)
