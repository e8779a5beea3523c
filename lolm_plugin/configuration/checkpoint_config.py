"""Divide a checkpoint's settings into those that a resumed run takes and those that its command line has to name.

A checkpoint may come from a stranger. Numbers, switches and names that choose among what the plugin has are taken. A
setting that leads to an import, a file, an address or an account is not taken: the command line names it, or it has its
default. A key that is not listed here is treated in the same way, so that a new key is safe.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lolm_plugin import registry
from lolm_plugin.configuration import config_files
from lolm_plugin.configuration.updates import written
from lolm_plugin.errors import ConfigError
from lolm_plugin.llm.sources import SMOLLM2, TINY
from lolm_plugin.paths import path_component
from lolm_plugin.tracking.experiment import RESUMABLE

# Keys whose text chooses among what the plugin and the host have, or names a folder of results.
NAMES = (
    *("name", "env", "runner", "mac", "agent", "learner", "critic_type", "action_selector", "reward_scalarisation"),
    *("preset", "learner_preset", "on_save_error", "greedy_rule", "label", "hypergroup", "agent_output_type"),
    *("kl.direction", "kl.head", "kl.reference", "llm.dtype", "llm.quantization", "llm.product", "llm.train"),
    *("prompt.style", "prompt.source", "head.features", "head.attack_keys", "head.keys", "entity.heal_mode"),
    *("entity.further_fields", "asn_attention.combine", "dt2gs.noise_mode", "imitate.loss", "lora.targets"),
    *("env_args.map_name", "env_args.difficulty", "env_args.game_version"),
)
MOST_NAMES = 100  # in a list
LONG_NUMBER = re.compile(r"\d{4}")  # SMAX maps are named by counts: 9999m would be thousands of units

# Paths, addresses and accounts, with what a resumed run has unless the command line says otherwise.
WITHHELD: dict[str, Any] = {
    "mongo": "",
    "decisions_file": "",
    "local_results_path": "results",
    "env_args.replay_dir": "",
    "env_args.replay_prefix": "",
    "use_wandb": False,
    "wandb_team": None,
    "wandb_project": None,
    "wandb_mode": "offline",
    "wandb_save_model": False,
    "render": False,
    "imitate.teacher": "",
}
# Recorded as they were, so that both halves of a run have the same configuration, and never opened in a resumed run.
LABELS = ("checkpoint_path", "transfer_from")
# Without them the run would be another one, so that the command line has to repeat them.
DEFAULTS = {"env_args.map_file": None, "env_args.pretrained_wrapper": None, "layout.description": ""}

# Registered ids of Gymnasium need no import; those in front of a colon are modules of packages in our extras or
# EPyMARL's own list of environments.
KEY = re.compile(
    r"(?:(?:lbforaging|rware|smaclite|matrixgames):)?(?:\w[\w.-]*/)?\w[\w.-]*"
    r"|pz-(?:mpe|sisl|butterfly|classic|atari)-[\w-]+|vmas-[\w-]+"
)
MODELS = (SMOLLM2, *TINY, "Qwen/Qwen3-0.6B")  # those of the shipped configurations

# Sizes of networks and batches in a configuration that no machine of today has use for.
LARGEST_SIZE, LARGEST_COUNT = 16_384, 1_000_000
SIZES = re.compile(rf"(?:{'|'.join(registry.TRUNKS)}|critic|gru|lora|llm|head)\..*|hidden_dim|torch_threads")
COUNTS = re.compile(r"batch_size_run|batch_size|buffer_size|minibatches|critic_minibatches|microbatch|epochs")
NO_SIZES = ("lora.alpha", "llm.token_budget")


@dataclass(frozen=True)
class Division:
    """A checkpoint's configuration, divided, by flat key."""

    taken: Mapping[str, Any]  # with defaults for the two others, as far as they have one
    needed: Mapping[str, Any]  # what the command line has to repeat
    optional: Mapping[str, Any]  # what it may repeat


def divide(config: Mapping[str, Any]) -> Division:
    """Divide a checkpoint's configuration. Raises ConfigError for a size that no run of ours has."""
    taken, needed, optional = {}, {}, {}
    for key, value in config_files.flatten(config).items():
        if key in LABELS:
            taken[key] = value if isinstance(value, str) else ""
        elif key in WITHHELD:
            taken[key] = WITHHELD[key]
            if value != WITHHELD[key]:
                optional[key] = value
        elif _is_taken(key, value):
            _check_size(key, value)
            taken[key] = value
        else:
            needed[key] = value
            if key in DEFAULTS:
                taken[key] = DEFAULTS[key]
    return Division(taken, needed, optional)


def to_repeat(config: Mapping[str, Any]) -> list[str]:
    """Return the words after ``with`` that resume a run with this configuration: KEY=VALUE of what is not taken."""
    found = divide(config)
    settings = {**found.needed, **found.optional}
    return [f"{key}={written(value)}" for key, value in settings.items() if key != "local_results_path"]


def check_repeated(needed: Mapping[str, Any], updates: Mapping[str, Any]) -> None:
    """Raise ConfigError unless ``updates`` repeat what is not taken from a checkpoint; both by flat key."""
    for key, value in needed.items():
        if key not in updates:
            raise ConfigError(
                f"The checkpoint says {key}={value!r}, and what a checkpoint names is not imported, opened or fetched "
                f"unless the command line names it too: check it, then add `with {key}=...`."
            )


def check_same_experiment(
    before: Mapping[str, Any], after: Mapping[str, Any], updates: Iterable[str], folder: Path
) -> dict[str, tuple[Any, Any]]:
    """Compare the settings of both halves of a resumed run, by flat key.

    Returns:
        What changes: key -> (before, after).

    Raises:
        ConfigError: one of ``updates`` would make the second half another experiment.
    """
    changes = {key: (before.get(key), after.get(key)) for key in updates if before.get(key) != after.get(key)}
    for key, (old, new) in changes.items():
        if key not in RESUMABLE:
            raise ConfigError(
                f"{key}={new} cannot be set with --resume, which continues an experiment with {key}={old}: its curve "
                f"would be of two experiments. Leave {key} out, or start a new run with transfer_from={folder}."
            )
    return changes


def _is_taken(key: str, value: Any) -> bool:
    if key in DEFAULTS:
        return value == DEFAULTS[key]
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return True
    if value in ({}, ""):
        return True
    if key == "env_args.key":
        return isinstance(value, str) and KEY.fullmatch(value) is not None
    if key == "llm.model":
        return value in MODELS
    if key not in NAMES:
        return False
    texts = value if isinstance(value, list) else [value]
    fits = len(texts) <= MOST_NAMES and all(isinstance(text, str) and path_component(text) == text for text in texts)
    return fits and not (key == "env_args.map_name" and LONG_NUMBER.search(value))


def _check_size(key: str, value: Any) -> None:
    most = LARGEST_SIZE if SIZES.fullmatch(key) else LARGEST_COUNT if COUNTS.fullmatch(key) else None
    if most is not None and isinstance(value, int) and value > most:
        raise ConfigError(f"The checkpoint says {key}={value}, more than the {most} that a checkpoint may ask for.")
