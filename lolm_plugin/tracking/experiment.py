"""Tell settings that make a run another experiment from those that do not, for reports and for ``--resume``."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from lolm_plugin import registry
from lolm_plugin.configuration.config_files import flatten, plugin_config_dir, read

TIME_LIMITS = {"time_limits": "truncated"}  # noted in records and checkpoints: bootstrap_time_limit=True acts on it
SEEDS = ("seed", "env_args.seed")
# What a resumed run may change: another machine, a longer run, other measurements. Its curve stays one experiment's.
RESUMABLE = frozenset(
    (
        *("use_cuda", "buffer_cpu_only", "torch_threads", "microbatch", "worker_timeout", "worker_restarts", "render"),
        *("llm.product", "llm.token_budget", "llm.share_prefix", "llm.recompute", "llm.trunk_cache_gb", "llm.dtype"),
        *("llm.keep_rollout_states", "llm.read_positions", "layout.probes", "env_args.debug", "env_args.map_file"),
        *("t_max", "test_interval", "test_nepisode", "log_interval", "learner_log_interval", "runner_log_interval"),
        *("save_model", "save_model_interval", "keep_checkpoints", "on_save_error", "strict", "load_step"),
        *("evaluate", "save_replay", "env_args.replay_dir", "env_args.replay_prefix", "imitate.teacher"),
        *("local_results_path", "decisions_file", "mongo", "use_tensorboard"),
        *("use_wandb", "wandb_team", "wandb_project", "wandb_mode", "wandb_save_model"),
    )
)
# Of these, what makes another experiment of a run that begins with another value.
FROM_THE_START = frozenset(("t_max", "llm.dtype", "env_args.debug", "env_args.map_file", "imitate.teacher"))
# Settings that change no expected number of a test.
INCIDENTAL = (RESUMABLE - FROM_THE_START) | frozenset(
    (
        *SEEDS,
        # What a run is called; what a preset sets is recorded beside its name.
        *("name", "label", "preset", "learner_preset", "repeat_id", "hypergroup", "checkpoint_path", "transfer_from"),
        *("env", "env_args.map_name", "env_args.key", "env_args.save_replay_prefix"),
        "test_sampled",  # adds series of its own
    )
)
SCHEDULES = ("entropy_coef_end", "entropy_target_end")  # not null: reached at t_max, as learning rates with lr_decay


def as_of_now(config: Mapping[str, Any], noted: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration in the words of this version; ``noted`` is what its writer said beside it.

    Until time limits were stored, ``bootstrap_time_limit=True``, then the default, had the effect that null has now.
    """
    if config.get("bootstrap_time_limit") is True and "time_limits" not in noted:
        return {**config, "bootstrap_time_limit": None}
    return dict(config)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a configuration that make it another experiment, by flat key.

    Configurations of ours that lack a key come from a version before it, which did what its default says now. t_max
    counts only where a schedule ends there.
    """
    flat = flatten(config)
    if str(config.get("mac")) in registry.ENTRIES["mac"]:
        flat = {**_defaults(), **flat}
    kept = {key: _plain(value) for key, value in flat.items() if key not in INCIDENTAL and key != "t_max"}
    if flat.get("lr_decay") is True or any(flat.get(key) is not None for key in SCHEDULES):
        kept["t_max"] = _plain(flat.get("t_max"))
    if flat.get("transfer_from"):
        kept["load_step"] = _plain(flat.get("load_step"))  # which checkpoint of the source is transferred
    if kept.get("imitate.teacher") not in (None, "", "heuristic"):
        kept["imitate.teacher"] = "a run"  # each seed may have a teacher of its own
    return kept


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """Find the keys, known to both, whose change made the rest of a resumed run another experiment or another seed."""
    pairs = [settings(config) | {"seed": config.get("seed")} for config in (before, after)]
    common = (set(pairs[0]) & set(pairs[1])) - RESUMABLE
    return {key for key in common if text(pairs[0][key]) != text(pairs[1][key])}


def text(value: Any) -> str:
    """Write a value so that equal values give equal texts."""
    return json.dumps(value, sort_keys=True)


def _plain(value: Any) -> Any:
    """Turn a whole float into an int, as 1.0 and 1 are one setting."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@functools.cache
def _defaults() -> dict[str, Any]:
    return flatten(read(plugin_config_dir() / "default.yaml"))
