"""Which settings of a run make it another experiment, and which do not."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from lolm_plugin import registry
from lolm_plugin.config_files import flatten, plugin_config_dir, read

TIME_LIMITS = {"time_limits": "truncated"}  # noted in records and checkpoints: bootstrap_time_limit=True acts on it
SEEDS = ("seed", "env_args.seed")
# Settings that change no expected number of a test.
INCIDENTAL = frozenset(
    (
        *SEEDS,
        # What things are called and where they lie; what a preset sets is recorded beside its name.
        *(
            "name",
            "label",
            "preset",
            "learner_preset",
            "repeat_id",
            "hypergroup",
            "local_results_path",
            "decisions_file",
        ),
        *("checkpoint_path", "load_step", "transfer_from", "evaluate", "save_replay", "env_args.replay_dir"),
        *("env_args.replay_prefix", "env_args.save_replay_prefix", "env_args.map_name", "env_args.key", "env"),
        # What runs it, and how fast.
        *("use_cuda", "buffer_cpu_only", "torch_threads", "microbatch", "worker_timeout", "worker_restarts", "render"),
        *("llm.product", "llm.token_budget", "llm.share_prefix", "llm.recompute", "llm.trunk_cache_gb"),
        *("llm.keep_rollout_states", "llm.read_positions", "layout.probes"),
        # What is measured and kept of it, and how often.
        *("test_interval", "test_nepisode", "test_sampled", "log_interval", "learner_log_interval"),
        *("runner_log_interval", "save_model", "save_model_interval", "keep_checkpoints", "on_save_error", "strict"),
        *("use_tensorboard", "use_wandb", "wandb_team", "wandb_project", "wandb_mode", "wandb_save_model", "mongo"),
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
    """The settings of a configuration that make it another experiment, by flat key.

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
    """Keys, known to both, with which a run went on as another experiment or with another seed.

    What a resumed run may change is not among them: t_max, and load_step, which names the checkpoint it resumes.
    """
    pairs = [settings(config) | {"seed": config.get("seed")} for config in (before, after)]
    common = set(pairs[0]) & set(pairs[1]) - {"t_max", "load_step"}
    return {key for key in common if text(pairs[0][key]) != text(pairs[1][key])}


def text(value: Any) -> str:
    """A value as text that is equal for equal values."""
    return json.dumps(value, sort_keys=True)


def _plain(value: Any) -> Any:
    """1.0 and 1 are one setting."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@functools.cache
def _defaults() -> dict[str, Any]:
    return flatten(read(plugin_config_dir() / "default.yaml"))
