"""What can be known to be wrong before anything slow is loaded."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lolm_plugin import registry
from lolm_plugin.config_files import Resolved, flatten, known_keys, map_settings, merge, read
from lolm_plugin.errors import ConfigError

FREE_KEYS = {"seed": 0, "env_args.seed": 0}  # Sacred's own, in every run
REQUIRED = ("name", "env", "env_args", "runner", "mac", "learner", "batch_size_run", "batch_size", "buffer_size")
_POSITIVE = (lambda value: value > 0, "a number greater than 0")
_FRACTION = (lambda value: 0 <= value <= 1, "a number from 0 to 1")
_NOT_NEGATIVE = (lambda value: value >= 0, "0 or more")
RANGES = {
    "seed": (lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295"),
    **dict.fromkeys(("gamma", "gae_lambda"), _FRACTION),
    **dict.fromkeys(("t_max", "entropy_coef", "kl.coef_max", "head.init_std", "worker_restarts"), _NOT_NEGATIVE),
    **dict.fromkeys(
        (
            *("batch_size_run", "batch_size", "buffer_size", "test_nepisode", "test_interval", "torch_threads"),
            "worker_timeout",
            *("lr", "head_lr", "critic_lr", "grad_norm_clip", "epochs", "minibatches", "eps_clip"),
            *("value_clip", "huber_delta", "lora.rank", "lora.alpha", "llm.num_layers", "llm.token_budget"),
            *("kl.anneal_steps", "kl.eps", "critic.width", "critic.heads", "critic.layers", "env_args.time_limit"),
        ),
        _POSITIVE,
    ),
}
NULLABLE = ("llm.num_layers", "torch_threads")  # null is a choice although other files give a number
NULL_TEXTS = {"env_args.game_version": "4.10.0"}  # null is their default, and a text what else they take
TWO_TYPES = {  # keys whose value may also be of another type than their default
    "target_update_interval_or_tau": float,
    "lora.targets": list,
}


def apply_updates(resolved: Resolved, updates: Mapping[str, Any], host_dir: Path) -> dict[str, Any]:
    """The final configuration: yaml files and ``with key=value`` updates, all keys and types checked."""
    known = known_keys(host_dir) | FREE_KEYS
    config: dict[str, Any] = {}
    for path in resolved.files:
        ours = not path.is_relative_to(host_dir)
        config = merge(config, _checked(read(path), known, f"in {path}", free="env_args") if ours else read(path))
    known |= {key: value for key, value in flatten(config).items() if known.get(key) is None}
    path, settings = map_settings(resolved.files[-1], flatten(merge(config, updates)).get("env_args.map_name"))
    config = merge(config, _checked(settings, known, f"in {path}"))
    return merge(config, _checked(updates, known, "on the command line"))


def check(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for values that cannot go together; the first one found."""
    _check_complete(config)
    _check_ranges(config)
    _check_env(config)
    _check_batches(config)
    _check_checkpoint(config)
    _check_results(config["local_results_path"])
    if config.get("mac") in registry.ENTRIES["mac"]:
        _check_policy(config)


def _checked(update: Mapping[str, Any], known: Mapping[str, Any], where: str, free: str = "") -> dict[str, Any]:
    """``update`` with its values typed; keys under ``free`` are taken as they are."""
    flat = flatten(update)
    bound = [key for key in flat if not (free and key.startswith(free))]
    _check_known(bound, known, where)
    return _nested({**flat, **{key: _typed(key, flat[key], known.get(key), where) for key in bound}})


def _check_known(keys: Iterable[str], known: Mapping[str, Any], where: str) -> None:
    for key in keys:
        if key in known:
            continue
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else "see config/default.yaml for every key."
        if below := [name for name in known if name.startswith(f"{key}.")]:
            hint = f"it is a section, so set one of its keys, such as {below[0]}."
        raise ConfigError(f"The key {key} {where} is unknown to this configuration; {hint}")


def _typed(key: str, value: Any, like: Any, where: str) -> Any:
    """``value`` if it can stand where ``like`` stood (1e6 for an integer becomes one), else ConfigError."""
    if like is None and key in NULL_TEXTS:
        like = NULL_TEXTS[key]
    if like is None or isinstance(like, list) or (value is None and key in NULL_TEXTS):
        return value
    if value is None and key in NULLABLE:
        return None
    wanted = type(like)
    if wanted is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # Sacred reads a name of digits, such as a difficulty, as a number
    if wanted is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if key in TWO_TYPES and isinstance(value, TWO_TYPES[key]):
        return value
    if isinstance(value, bool) != (wanted is bool) or not isinstance(value, wanted):
        names = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
        power = re.fullmatch(r"(\d+)(e[+-]?\d+)", str(value))  # yaml reads 1e-4 as a text and 1.0e-4 as a number
        example = f"{power[1]}.0{power[2]}" if power and wanted in (int, float) else like
        if wanted is str and isinstance(value, float):
            raise ConfigError(
                f"{key}={value} {where} is a number to Sacred, where a text is wanted; set {key} to a value such as "
                f"{like}, or quote it twice: '{key}=\"...\"'."
            )
        raise ConfigError(f"{key}={value} {where} is not {names[wanted]}; set {key} to a value such as {example}.")
    return value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        inner = nested
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return nested


def _check_complete(config: Mapping[str, Any]) -> None:
    missing = [key for key in REQUIRED if config.get(key) is None]
    if missing:
        raise ConfigError(
            f"The configuration has no {missing[0]}; give it one in the yaml of --config or --env-config."
        )
    env_args = config["env_args"]
    if not isinstance(env_args, Mapping) or not (env_args.get("map_name") or env_args.get("key")):
        raise ConfigError("env_args names no task; set env_args.map_name (or env_args.key where the env has keys).")


def _check_ranges(config: Mapping[str, Any]) -> None:
    flat = flatten(config)
    for key, (allowed, words) in RANGES.items():
        value = flat.get(key)
        if isinstance(value, int | float) and not allowed(value):
            raise ConfigError(f"{key}={value} is out of range; set {key} to {words}.")


def _check_env(config: Mapping[str, Any]) -> None:
    env, env_args = config["env"], config["env_args"]
    if config.get("mac") in registry.ENTRIES["mac"] and env not in registry.LAYOUTS:
        raise ConfigError(
            f"mac={config['mac']} cannot put env={env} into words, as it has no observation layout; "
            f"set --env-config to one of: {', '.join(sorted(registry.LAYOUTS))}."
        )
    # The host's own algorithms may play the host's environments on any map that those know.
    ours = config.get("mac") in registry.ENTRIES["mac"] or env in registry.ENTRIES["env"]
    if ours and env in registry.MAP_SIZES:
        registry.load(registry.MAP_SIZES[env])(env_args)
    if env in registry.ENVS and not config["common_reward"]:
        raise ConfigError(
            f"common_reward=False cannot be used with env={env}, whose agents share one reward; set common_reward=True."
        )
    if config["runner"] == "vector" and env not in registry.VECTOR_ENVS:
        raise ConfigError(
            f"runner=vector cannot step env={env}, which runs one at a time (vector: "
            f"{', '.join(registry.VECTOR_ENVS)}); set runner=parallel or runner=supervised_parallel."
        )


def _check_batches(config: Mapping[str, Any]) -> None:
    runner, played = config["runner"], config["batch_size_run"]
    if runner == "episode" and played != 1:
        raise ConfigError(
            f"batch_size_run={played} cannot be used with runner=episode, which plays one episode at a time; "
            "set batch_size_run=1 or runner=parallel."
        )
    if config["learner"] in registry.ENTRIES["learner"]:
        for key in ("batch_size", "buffer_size"):
            if config[key] != played:
                raise ConfigError(
                    f"{key}={config[key]} cannot be filled: runner={runner} plays batch_size_run={played} episodes per "
                    f"update and learner={config['learner']} learns from exactly these; set batch_size, buffer_size "
                    "and batch_size_run to the same number."
                )


def _check_checkpoint(config: Mapping[str, Any]) -> None:
    path = config["checkpoint_path"]
    if not path and (config["evaluate"] or config["save_replay"]):
        key = "evaluate" if config["evaluate"] else "save_replay"
        raise ConfigError(f"{key}=True has nothing to load; set checkpoint_path to a folder under results/models.")
    if path and not Path(path).is_dir():
        raise ConfigError(f"checkpoint_path={path} is not a folder; set it to one under results/models.")
    if path and not any(child.is_dir() and child.name.isdigit() for child in Path(path).iterdir()):
        raise ConfigError(
            f"checkpoint_path={path} holds no checkpoint (folders named by timestep); "
            "set it to the folder that contains them."
        )


def _check_results(path: str) -> None:
    existing = next(folder for folder in (Path(path).absolute(), *Path(path).absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"local_results_path={path} cannot be written to; set it to a folder that can.")


def _check_policy(config: Mapping[str, Any]) -> None:
    if config["learner"] not in registry.ENTRIES["learner"]:
        raise ConfigError(
            f"learner={config['learner']} cannot train mac={config['mac']}: it keeps a second copy of the policy and "
            f"evaluates it timestep by timestep; set learner to one of: {', '.join(registry.ENTRIES['learner'])}."
        )
    choices = {
        "prompt.style": (config["prompt"]["style"], tuple(registry.PROMPT_STYLES)),
        "head.attack_keys": (config["head"]["attack_keys"], ("shared",)),
        "kl.direction": (config["kl"]["direction"], ("forward", "reverse")),
        "llm.dtype": (config["llm"]["dtype"], ("auto", "float32", "bfloat16")),
        "critic_type": (config["critic_type"], tuple(registry.ENTRIES["critic"])),
        "agent": (config["agent"], ("llm",)),
        "action_selector": (config["action_selector"], ("keyed",)),
        "runner": (config["runner"], ("episode", "parallel", *registry.ENTRIES["runner"])),
    }
    for key, (value, allowed) in choices.items():
        if value not in allowed:
            raise ConfigError(f"{key}={value} is not a choice; set it to one of: {', '.join(allowed)}.")
    width, heads = config["critic"]["width"], config["critic"]["heads"]
    if width % heads:
        raise ConfigError(
            f"critic.width={width} is not a multiple of critic.heads={heads}; set critic.width to one that is."
        )
    registry.load("lolm_plugin.llm.sources:resolve")(config["llm"]["model"])
