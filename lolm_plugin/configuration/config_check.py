"""What can be known to be wrong before anything slow is loaded."""

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lolm_plugin import checkpoints, registry
from lolm_plugin.configuration import unread_keys
from lolm_plugin.configuration.config_files import (
    Resolved,
    flatten,
    known_keys,
    merge,
    merge_all,
    plugin_config_dir,
    stack,
)
from lolm_plugin.configuration.updates import check_plain, nested
from lolm_plugin.errors import ConfigError
from lolm_plugin.paths import expand_home, path_component

FREE_KEYS = {"seed": 0, "env_args.seed": 0}  # Sacred's own, in every run
PATHS = ("local_results_path", "checkpoint_path", "transfer_from", "decisions_file")
PATHS += ("env_args.map_file", "env_args.replay_dir", "imitate.teacher")
LLM_MAC = "prompt_mac"  # the controller of language models; every other agent is a network_mac's
FURTHER_FIELDS = "lolm_plugin.observations.entity_tokens:FURTHER_FIELDS"
SCENARIO = "lolm_plugin.observations.sc2v2:scenario"
REQUIRED = ("name", "env", "env_args", "runner", "mac", "learner", "batch_size_run", "batch_size", "buffer_size")
POWER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)[eE][+-]?\d+")  # 1e6 is a number here, which yaml reads as a text
_POSITIVE = (lambda value: value > 0, "a number greater than 0")
_FRACTION = (lambda value: 0 <= value <= 1, "a number from 0 to 1")
_NOT_NEGATIVE = (lambda value: value >= 0, "0 or more")


def _up_to(most: int, words: str = "a whole number") -> tuple[Callable[[Any], bool], str]:
    """Values above 0 up to ``most``: beyond it nothing runs, and what fails first is deep inside a library."""
    return (lambda value: 0 < value <= most), f"{words} greater than 0 and at most {most}"


_COUNT = _up_to(1_000_000)
_SHAPE = _up_to(16_384)  # a square matrix of it has a gigabyte
RANGES = {
    "seed": (lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295"),
    **dict.fromkeys(("gamma", "gae_lambda"), _FRACTION),
    **dict.fromkeys(
        (
            *("t_max", "entropy_coef", "entropy_coef_end", "entropy_target", "entropy_target_end"),
            *("kl.coef_max", "head.init_std", "worker_restarts", "advantage_floor", "load_step"),
            *("save_model_interval", "log_interval", "runner_log_interval", "learner_log_interval"),
            *("dt2gs.reconstruction_coef", "dt2gs.subtask_kl_coef"),
        ),
        _NOT_NEGATIVE,
    ),
    "llm.trunk_cache_gb": (lambda value: 0 <= value <= 1e6, "a number of gigabytes, 0 or more"),
    "worker_timeout": _up_to(1_000_000, "a number of seconds"),
    "torch_threads": _up_to(4096),
    "env_args.time_limit": _up_to(100_000),
    **dict.fromkeys(("microbatch", "llm.token_budget"), _up_to(2**31)),
    **dict.fromkeys(
        (
            *("batch_size_run", "batch_size", "buffer_size", "test_nepisode", "keep_checkpoints"),
            *("epochs", "minibatches", "critic_minibatches"),
            *(f"imitate.{key}" for key in ("battles", "held_out", "rounds", "epochs", "minibatch")),
        ),
        _COUNT,
    ),
    **dict.fromkeys(
        (
            *("lora.rank", "lora.layers", "llm.num_layers", "critic.width", "critic.heads", "critic.layers"),
            *("gru.width", "updet.depth", "asn_attention.head_width", "asn_attention.heads"),
            *("dt2gs.subtasks", "dt2gs.latent"),
            *(f"{trunk}.{key}" for trunk in ("updet", "dt2gs") for key in ("head_width", "heads", "ff_mult")),
            *(f"{trunk}.feature_width" for trunk in ("updet", "asn_attention", "dt2gs")),
        ),
        _SHAPE,
    ),
    **dict.fromkeys(
        (
            *("test_interval", "lr", "head_lr", "critic_lr", "grad_norm_clip", "eps_clip", "optim_eps"),
            *("value_clip", "huber_delta", "lora.alpha", "lora.optim_eps", "target_kl"),
            *("head.word_scale", "kl.balance_steps", "kl.anneal_steps", "kl.eps"),
            *(f"imitate.{key}" for key in ("lr", "head_lr", "critic_lr")),
            *("entity.init_gain", "dt2gs.temperature"),
        ),
        _POSITIVE,
    ),
}
NULLABLE = {  # keys that take null, with an example of what else they take
    "llm.num_layers": 4,
    "llm.token_budget": 2048,
    "lora.layers": 8,
    "torch_threads": 1,
    "keep_checkpoints": 3,
    "bootstrap_time_limit": True,
    "preset": "reference",
    "learner_preset": "standard",
    "entity.init_gain": 0.01,
    "env_args.game_version": "4.10.0",
    "mixer": "vdn",  # null in EPyMARL's iql.yaml
    **dict.fromkeys(("lora.optim_eps", "entropy_coef_end", "target_kl"), 0.01),
    **dict.fromkeys(("entropy_target", "entropy_target_end"), 1.0),
}
TWO_TYPES = {  # keys whose value may also be of another type than their default
    "target_update_interval_or_tau": float,
    "lora.targets": list,
}


def apply_updates(resolved: Resolved, updates: Mapping[str, Any], host_dir: Path) -> dict[str, Any]:
    """The final configuration: yaml files and ``with key=value`` updates, all keys and types checked."""
    known = known_keys(host_dir) | FREE_KEYS
    config: dict[str, Any] = {}
    users: list[tuple[str, dict[str, Any]]] = []  # what users set, and where
    layers = stack(resolved, updates)
    for layer in layers:
        whole_file = layer.path is not None and not layer.section and not layer.preset
        if not whole_file:  # by now the environment has said which arguments it takes
            known |= {key: value for key, value in flatten(config).items() if known.get(key) is None}
        settings = layer.settings
        if layer.path is None or not layer.path.is_relative_to(host_dir):
            settings = _checked(settings, known, layer.where, free="env_args" if whole_file else "")
        if not _is_shipped(layer.path, resolved, host_dir):
            users.append((layer.where, settings))
        config = merge(config, settings)
    without = merge_all(layer.settings for layer in layers if _is_shipped(layer.path, resolved, host_dir))
    for where, settings in users:
        unread_keys.check(config, settings, without, where)
    return _with_homes(config)


def _is_shipped(path: Path | None, resolved: Resolved, host_dir: Path) -> bool:
    """Return whether a layer comes from the host's or our own files, not from the command line or a user's file."""
    if path is None or path in resolved.base[:-1]:
        return path is not None
    return any(path.resolve().is_relative_to(folder.resolve()) for folder in (host_dir, plugin_config_dir()))


def typed(flat: Mapping[str, Any], where: str, host_dir: Path) -> dict[str, Any]:
    """Settings by flat key, nested, with their values typed; ``where`` they were found is for the sentence."""
    return _checked(nested(flat, where), known_keys(host_dir) | FREE_KEYS, where)


def check(config: Mapping[str, Any], resumed: bool = False) -> None:
    """Raise ConfigError for values that cannot go together; the first one found.

    A ``resumed`` run needs nothing of where it once began.
    """
    _check_complete(config)
    _check_ranges(config)
    _check_env(config)
    _check_batches(config)
    if not resumed:
        _check_checkpoint(config)
    results = config["local_results_path"]
    _check_writable("local_results_path", results, Path(results).absolute(), "a folder")
    _check_decisions(config.get("decisions_file", ""))
    if config.get("mac") in registry.ENTRIES["mac"]:
        _check_policy(config)


def _checked(update: Mapping[str, Any], known: Mapping[str, Any], where: str, free: str = "") -> dict[str, Any]:
    """``update`` with its values typed; keys under ``free`` are taken as they are."""
    flat = flatten(update)
    bound = [key for key in flat if not (free and key.startswith(free))]
    _check_known(bound, known, where)
    for key, value in flat.items():
        check_plain(key, value, where)
    typed = {key: _typed(key, flat[key], known.get(key), where) for key in bound}
    for key, value in typed.items():
        check_plain(key, value, where)
    return nested({**flat, **typed}, where)


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
    if value == "null" and (like is None or key in NULLABLE):
        value = None  # as the yaml files write it; Sacred reads the word None alone as nothing
    if key in NULLABLE:
        if value is None:
            return None
        like = NULLABLE[key]
    if like is None or isinstance(like, list):
        return value
    wanted = type(like)
    if wanted in (int, float) and isinstance(value, str) and POWER.fullmatch(value):
        value = float(value)
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
        if wanted is str and isinstance(value, float):
            raise ConfigError(
                f"{key}={value} {where} is a number to Sacred, where a text is wanted; set {key} to a value such as "
                f"{like}, or quote it twice: '{key}=\"...\"'."
            )
        raise ConfigError(f"{key}={value} {where} is not {names[wanted]}; set {key} to a value such as {like}.")
    return value


def _check_complete(config: Mapping[str, Any]) -> None:
    missing = [key for key in REQUIRED if config.get(key) is None]
    if missing:
        raise ConfigError(
            f"The configuration has no {missing[0]}; give it one in the yaml of --config or --env-config."
        )
    if path_component(str(config["name"])) != str(config["name"]):
        raise ConfigError(f"name={config['name']} is where results go and no plain name; set name to one such as mine.")
    env_args = config["env_args"]
    if not isinstance(env_args, Mapping) or not (env_args.get("map_name") or env_args.get("key")):
        raise ConfigError("env_args names no task; set env_args.map_name (or env_args.key where the env has keys).")
    for key in ("map_name", "key"):
        if not isinstance(env_args.get(key), str | int | None):
            raise ConfigError(f"env_args.{key}={env_args[key]} is not a name; set env_args.{key} to a text such as 3m.")


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
            f"mac={config['mac']} cannot read env={env}, which has no observation layout; "
            f"set --env-config to one of: {', '.join(sorted(registry.LAYOUTS))}."
        )
    # The host's own algorithms may play the host's environments on any map that those know.
    ours = config.get("mac") in registry.ENTRIES["mac"] or env in registry.ENTRIES["env"]
    units = [key for key in ("agent", "critic_type") if str(config.get(key)).removesuffix("_critic") in registry.TRUNKS]
    if ours and units and not registry.ENVS[env].battles:
        raise ConfigError(
            f"{units[0]}={config[units[0]]} reads the units of two teams, which env={env} has none of; set --config to "
            "lolm_mappo_smol or another language model, or to rnn_mappo."
        )
    if ours and env in registry.MAP_SIZES:
        registry.load(registry.MAP_SIZES[env])(env_args)
    if env in registry.ENVS and (ours or registry.ENVS[env].battles) and not config["common_reward"]:
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


def changed(config: Mapping[str, Any], updates: Mapping[str, Any], host_dir: Path) -> dict[str, Any]:
    """A whole configuration, as a checkpoint keeps it, with updates from the command line."""
    known = known_keys(host_dir) | FREE_KEYS
    config = _checked(config, known, "in the checkpoint", free="env_args")
    known |= {key: value for key, value in flatten(config).items() if known.get(key) is None}
    return _with_homes(merge(config, _checked(updates, known, "on the command line")))


def _with_homes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Replace ``~`` in every path of ``config``."""
    flat = flatten(config)
    homes = {
        key: expand_home(flat[key], key) for key in PATHS if isinstance(flat.get(key), str) and flat[key][:1] == "~"
    }
    return merge(config, nested(homes, "in the configuration"))


def _check_checkpoint(config: Mapping[str, Any]) -> None:
    path, source = config["checkpoint_path"], config.get("transfer_from", "")
    if source and not os.path.isdir(source):  # False, not an OSError, for what is too long for a path
        raise ConfigError(
            f"transfer_from={source} is not a folder; set it to a run's under results/models or results/sacred."
        )
    if not path and not source and (config["evaluate"] or config["save_replay"]):
        key = "evaluate" if config["evaluate"] else "save_replay"
        raise ConfigError(f"{key}=True has nothing to load; set checkpoint_path to a folder under results/models.")
    if path and not os.path.isdir(path):
        raise ConfigError(f"checkpoint_path={path} is not a folder; set it to one under results/models.")
    if path and not checkpoints.steps(Path(path)):
        raise ConfigError(
            f"checkpoint_path={path} holds no checkpoint (folders named by timestep); "
            "set it to the folder that contains them."
        )


def check_one_start(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for a new run that is to begin in two places."""
    if config["checkpoint_path"] and config.get("transfer_from"):
        raise ConfigError(
            f"checkpoint_path={config['checkpoint_path']} goes on with a run and transfer_from="
            f"{config['transfer_from']} begins one with another's policy; set one of them."
        )


def _check_decisions(path: str) -> None:
    if path and os.path.isdir(path):
        raise ConfigError(f"decisions_file={path} is a folder; set it to a file in it, such as decisions.jsonl.")
    if path:
        _check_writable("decisions_file", path, Path(path).absolute().parent, "a file in a folder")


def _check_writable(key: str, value: str, folder: Path, what: str) -> None:
    # os.path.exists is False, not an OSError, for a name that is too long.
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    longest = max(len(os.fsencode(part)) for part in Path(value).absolute().parts)
    if longest > 255 or not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"{key}={value} cannot be written to; set it to {what} that can.")


def _check_policy(config: Mapping[str, Any]) -> None:
    mac, agent = config["mac"], config["agent"]
    if config["learner"] not in registry.ENTRIES["learner"]:
        raise ConfigError(
            f"learner={config['learner']} cannot train mac={mac}: it keeps a second copy of the policy and "
            f"evaluates it timestep by timestep; set learner to one of: {', '.join(registry.ENTRIES['learner'])}."
        )
    agents = ("llm",) if mac == LLM_MAC else tuple(name for name in registry.ENTRIES["agent"] if name != "llm")
    if agent not in agents:
        raise ConfigError(f"agent={agent} cannot be run by mac={mac}; set agent to one of: {', '.join(agents)}.")
    _check_choices(config, _choices(config))
    _check_entropy(config)
    _check_time_limit(config)
    if config.get("advantage_floor") and not config["normalise_values"]:
        raise ConfigError(
            f"advantage_floor={config['advantage_floor']} is a share of the returns' deviation, which "
            "normalise_values=False does not measure: set advantage_floor=0 or normalise_values=True."
        )
    _check_sections(config)
    width, heads = config["critic"]["width"], config["critic"]["heads"]
    if config["critic_type"] == "transformer_critic" and width % heads:
        raise ConfigError(
            f"critic.width={width} is not a multiple of critic.heads={heads}; set critic.width to one that is."
        )
    if mac == LLM_MAC:
        _check_language_model(config)
    else:
        _check_network(config)


def _choices(config: Mapping[str, Any]) -> dict[str, tuple[str | None, ...]]:
    """What the keys that this policy reads may be."""
    choices = {
        "kl.direction": ("forward", "reverse"),
        "critic_type": tuple(registry.ENTRIES["critic"]),
        "action_selector": ("keyed",),
        "greedy_rule": ("argmax", "grouped"),
        "on_save_error": ("warn", "stop"),
        "agent_output_type": ("pi_logits",),
        "runner": ("episode", "parallel", *registry.ENTRIES["runner"]),
        "entity.heal_mode": ("ally_tokens", "ignore"),
        "asn_attention.combine": ("hadamard", "inner"),
        "dt2gs.noise_mode": ("stored", "frozen", "redraw"),
        "imitate.loss": ("kl", "ce"),
    }
    if config["mac"] == LLM_MAC:
        choices |= {
            "prompt.style": tuple(registry.PROMPT_STYLES),
            "prompt.source": (None, "written", "auto"),
            "head.attack_keys": ("shared", "entity"),
            "head.features": ("raw", "normalised"),
            "head.keys": ("random", "words"),
            "kl.head": ("current", "initial"),
            "kl.reference": ("pretrained", "source"),
            "llm.dtype": ("auto", "float32", "bfloat16"),
            "llm.train": ("lora", "full"),
            "llm.quantization": ("none", "8bit", "4bit"),
            "llm.product": ("auto", "torch", "onednn"),
        }
    return choices


def _check_choices(config: Mapping[str, Any], choices: Mapping[str, tuple[str | None, ...]]) -> None:
    flat = flatten(config)
    for key, allowed in choices.items():
        # Checkpoints of older versions have fewer keys.
        if key in flat and flat[key] not in allowed:
            listed = ", ".join("null" if choice is None else choice for choice in allowed)
            raise ConfigError(f"{key}={flat[key]} is not a choice; set it to one of: {listed}.")


def _check_entropy(config: Mapping[str, Any]) -> None:
    end, target, target_end = (config.get(key) for key in ("entropy_coef_end", "entropy_target", "entropy_target_end"))
    if target_end is not None and target is None:
        raise ConfigError(
            f"entropy_target_end={target_end} is the end of a line without a beginning; set entropy_target as well, or "
            "entropy_target_end=null."
        )
    if target is not None and end is not None:
        raise ConfigError(
            f"entropy_coef_end={end} cannot be reached with entropy_target={target}, which adapts the weight after "
            "each update; set one of them to null."
        )


def _check_language_model(config: Mapping[str, Any]) -> None:
    registry.load("lolm_plugin.llm.sources:resolve")(config["llm"]["model"])
    if config["llm"]["train"] == "full" and config["kl"]["enabled"]:
        raise ConfigError(
            "llm.train=full changes every weight and leaves no pretrained model for kl.enabled=True to stay near; "
            "set kl.enabled=False or llm.train=lora."
        )
    if config["kl"].get("reference") == "source" and not config["transfer_from"]:
        raise ConfigError(
            "kl.reference=source has no source, for this run begins with the pretrained model: set transfer_from to "
            "the run that the policy comes from, or kl.reference=pretrained."
        )
    if config["kl"].get("reference") == "source" and not config["kl"]["enabled"]:
        raise ConfigError(
            "kl.reference=source has no effect with kl.enabled=False, which leaves the KL out: set kl.enabled=True or "
            "kl.reference=pretrained."
        )
    if config["head"]["keys"] == "words" and config["head"]["features"] == "raw":
        raise ConfigError(
            "head.keys=words starts embeddings whose size fits normalised features, and head.features=raw would make "
            "logits of hundreds of them: set head.features=normalised or head.keys=random."
        )
    check_quantization = registry.load("lolm_plugin.llm.quantization:check")
    check_quantization(config["llm"]["quantization"], config["llm"]["train"], config["use_cuda"])


def _check_network(config: Mapping[str, Any]) -> None:
    mac, agent = config["mac"], config["agent"]
    if config["kl"]["enabled"]:
        raise ConfigError(
            f"kl.enabled=True cannot be used with mac={mac}, which has no frozen pretrained model to stay near; "
            "set kl.enabled=False."
        )
    if config["kl"].get("reference") == "source":
        raise ConfigError(
            f"kl.reference=source cannot be used with mac={mac}, which knows no KL; set kl.reference=pretrained."
        )
    tied = [key for key in ("obs_agent_id", "obs_last_action") if config[key]]
    if tied and agent in registry.TRUNKS:
        raise ConfigError(
            f"{tied[0]}=True cannot be used with agent={agent}, whose weights fit any team as they read units alone; "
            f"set {tied[0]}=False."
        )
    fields, known = config["entity"]["further_fields"], registry.load(FURTHER_FIELDS)
    if not isinstance(fields, list) or not all(field in known for field in fields):
        raise ConfigError(
            f"entity.further_fields={fields} is not a list of fields; set it to any of {list(known)}, such as [] or "
            f"{list(known[:1])}."
        )


def _check_time_limit(config: Mapping[str, Any]) -> None:
    """SMAC and SMACv2 tell a time limit from a defeat only if they are asked to."""
    env, env_args = config["env"], config["env_args"]
    if not config.get("bootstrap_time_limit") or env not in ("sc2", "sc2v2"):
        return
    where = "set env_args.continuing_episode=True"
    if env == "sc2v2":
        env_args = registry.load(SCENARIO)(env_args["map_name"])
        where = f"set continuing_episode: True in EPyMARL's smacv2_configs/{config['env_args']['map_name']}.yaml"
    if not env_args.get("continuing_episode"):
        raise ConfigError(
            f"bootstrap_time_limit=True cannot be used with env={env}, which reports no time limit while its "
            f"continuing_episode is False; {where}, or bootstrap_time_limit=null."
        )


def _check_sections(config: Mapping[str, Any]) -> None:
    """A network over units has its shape in a section of its name, of which only its own yaml need know."""
    for key, trunk in (("agent", config["agent"]), ("critic_type", config["critic_type"].removesuffix("_critic"))):
        if trunk in registry.TRUNKS and trunk not in config:
            raise ConfigError(
                f"{key}={config[key]} has no section {trunk}: with its shape in this configuration; set --config to an "
                f"algorithm whose yaml has one, such as {trunk}_mappo."
            )
