"""Build a run's configuration from its layers, and check it before anything slow is loaded.

Types, ranges and choices of single keys are in the schema. This module has the rules between keys. Each rule yields
error sentences; the first one ends the program.
"""

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lolm_plugin import maps, registry
from lolm_plugin.configuration import schema, unread_keys
from lolm_plugin.configuration.config_files import (
    Resolved,
    flatten,
    known_keys,
    merge,
    merge_all,
    plugin_config_dir,
    stack,
)
from lolm_plugin.configuration.fields import Mark
from lolm_plugin.configuration.updates import check_plain, nested
from lolm_plugin.errors import ConfigError
from lolm_plugin.paths import expand_home, path_component

Config = Mapping[str, Any]

FREE_KEYS = {"seed": 0, "env_args.seed": 0}  # Sacred adds them to every run
LLM_MAC = "prompt_mac"  # controls language models; network_mac controls every other agent
FURTHER_FIELDS = "lolm_plugin.observations.entity_features:FURTHER_FIELDS"
SCENARIO = "lolm_plugin.observations.sc2v2:scenario"
SIZES = ("batch_size", "buffer_size")
REQUIRED = ("name", "env", "env_args", "runner", "mac", "learner", "batch_size_run")


def apply_updates(resolved: Resolved, updates: Config, host_dir: Path) -> dict[str, Any]:
    """Return the final configuration: yaml files and ``with key=value`` updates, with all keys and types checked."""
    known = known_keys(host_dir) | FREE_KEYS
    config: dict[str, Any] = {}
    users: list[tuple[str, Config]] = []  # users' settings, with their source
    layers = stack(resolved, updates)
    for layer in layers:
        whole_file = layer.path is not None and not layer.section and not layer.preset
        if not whole_file:  # the environment's yaml, which defines its env_args, is merged by now
            known = _with_new(known, config)
        settings = layer.settings
        if layer.path is None or not layer.path.is_relative_to(host_dir):
            settings = _typed(settings, known, layer.where, free="env_args" if whole_file else "")
        if not _is_shipped(layer.path, resolved, host_dir):
            users.append((layer.where, settings))
        config = merge(config, settings)
    without = merge_all(layer.settings for layer in layers if _is_shipped(layer.path, resolved, host_dir))
    for where, settings in users:
        unread_keys.check(config, settings, without, where)
    return _with_homes(_with_sizes(config))


def changed(config: Config, updates: Config, host_dir: Path) -> dict[str, Any]:
    """Apply updates from the command line to a checkpoint's whole configuration; keys and types are checked."""
    known = known_keys(host_dir) | FREE_KEYS
    config = _typed(config, known, "in the checkpoint", free="env_args")
    return _with_homes(merge(config, _typed(updates, _with_new(known, config), "on the command line")))


def typed(flat: Config, where: str, host_dir: Path) -> dict[str, Any]:
    """Nest settings given by flat key, and convert their values. Errors name their source, ``where``."""
    return _typed(nested(flat, where), known_keys(host_dir) | FREE_KEYS, where)


def _is_shipped(path: Path | None, resolved: Resolved, host_dir: Path) -> bool:
    """Return True if a layer comes from the host's or our own files, not from the command line or a user's file."""
    if path is None or path in resolved.base[:-1]:
        return path is not None
    return any(path.resolve().is_relative_to(folder.resolve()) for folder in (host_dir, plugin_config_dir()))


def _with_new(known: Config, config: Config) -> dict[str, Any]:
    return {**known, **{key: value for key, value in flatten(config).items() if known.get(key) is None}}


def _typed(update: Config, known: Config, where: str, free: str = "") -> dict[str, Any]:
    """Convert the values of ``update`` to their keys' types. Keys under ``free`` may be new and are not converted."""
    flat = flatten(update)
    bound = [key for key in flat if not (free and key.startswith(free))]
    for key in bound:
        if key not in known:
            raise ConfigError(f"The key {key} {where} is unknown to this configuration; {_advice(key, known)}")
    for key, value in flat.items():
        check_plain(key, value, where)
    values = {key: schema.field_of(key, known.get(key)).typed(flat[key], known.get(key), where) for key in bound}
    for key, value in values.items():
        check_plain(key, value, where)
    return nested({**flat, **values}, where)


def _advice(key: str, known: Config) -> str:
    if key in schema.RENAMED:
        return f"it is now named {schema.RENAMED[key]}."
    if key in schema.REMOVED:
        return "it no longer exists; leave it out."
    if below := [name for name in known if name.startswith(f"{key}.")]:
        return f"it is a section, so set one of its keys, such as {below[0]}."
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean {nearest[0]}?" if nearest else "see config/default.yaml for every key."


def _with_sizes(config: Config) -> Config:
    """Set ``batch_size`` and ``buffer_size`` to ``batch_size_run`` if they are null.

    Our learners need neither, but EPyMARL and tools that read its records do.
    """
    absent = [key for key in SIZES if config.get(key) is None]
    return {**config, **{key: config.get("batch_size_run") for key in absent}}


def _with_homes(config: Config) -> dict[str, Any]:
    """Expand ``~`` in every path of ``config``."""
    flat = flatten(config)
    paths = [key for key in schema.with_mark(Mark.PATH) if str(flat.get(key)).startswith("~")]
    return merge(config, nested({key: expand_home(flat[key], key) for key in paths}, "in the configuration"))


def check(config: Config, resumed: bool = False) -> None:
    """Raise ConfigError for the first value that is out of range or conflicts with another.

    The keys that choose where a run starts, such as ``transfer_from``, are not checked for a ``resumed`` run.
    """
    for sentence in _problems(config, resumed):
        raise ConfigError(sentence)


def _problems(config: Config, resumed: bool) -> Iterator[str]:
    yield from _incomplete(config)
    yield from filter(None, (schema.field_of(key).out_of_range(value) for key, value in flatten(config).items()))
    yield from _environment(config)
    yield from _batches(config)
    if not resumed:
        yield from _start(config)
    yield from _files(config)
    if config["mac"] in registry.ENTRIES["mac"]:
        yield from _policy(config)


def _incomplete(config: Config) -> Iterator[str]:
    for key in REQUIRED:
        if config.get(key) is None:
            yield f"The configuration has no {key}; set it in the yaml of --config or --env-config."
    if path_component(str(config["name"])) != str(config["name"]):
        yield f"name={config['name']} is not a plain name, but names a folder of results; set name to one such as mine."
    env_args = config["env_args"]
    if not isinstance(env_args, Mapping) or not (env_args.get("map_name") or env_args.get("key")):
        yield "env_args names no task; set env_args.map_name (or env_args.key if the environment has keys)."
    for key in ("map_name", "key"):
        if key == "map_name" and maps.is_list_of_maps(env_args.get(key)):
            continue
        if not isinstance(env_args.get(key), str | int | None):
            yield f"env_args.{key}={env_args[key]} is not a name; set env_args.{key} to a text such as 3m."


def _environment(config: Config) -> Iterator[str]:
    env, mac = config["env"], config["mac"]
    if mac in registry.ENTRIES["mac"] and env not in registry.LAYOUTS:
        yield (
            f"mac={mac} cannot read env={env}, which has no observation layout; set --env-config to one of: "
            f"{', '.join(sorted(registry.LAYOUTS))}."
        )
    # Not checked for the host's algorithms in the host's environments: these check their maps themselves.
    ours = mac in registry.ENTRIES["mac"] or env in registry.ENTRIES["env"]
    units = [key for key in ("agent", "critic_type") if str(config.get(key)).removesuffix("_critic") in registry.TRUNKS]
    if ours and units and not registry.ENVS[env].battles:
        yield (
            f"{units[0]}={config[units[0]]} reads the units of two teams, and env={env} has no teams; set --config to "
            "lolm_mappo_smol or another language model, or to rnn_mappo."
        )
    yield from _maps(config)
    if ours and env in registry.MAP_SIZES:
        for of_map in maps.each(config):
            registry.load(registry.MAP_SIZES[env])(of_map["env_args"])
    if env in registry.ENVS and (ours or registry.ENVS[env].battles) and not config["common_reward"]:
        yield f"common_reward=False cannot be used with env={env}, whose agents share a reward; set common_reward=True."
    if config["runner"] == "vector" and env not in registry.VECTOR_ENVS:
        yield (
            f"runner=vector cannot step env={env}, which runs one copy at a time (possible: "
            f"{', '.join(registry.VECTOR_ENVS)}); set runner=parallel or runner=supervised_parallel."
        )


def _maps(config: Config) -> Iterator[str]:
    yield from maps.problems(config)
    several, held_out = maps.several(config), config.get(maps.TEST_MAPS)
    if not several and not held_out:
        return
    setting = f"{maps.KEY}={maps.label(config['env_args']['map_name'])}" if several else f"test_maps={held_out}"
    advice = "set env_args.map_name to one map" if several else "leave test_maps out"
    if config["mac"] not in registry.ENTRIES["mac"] or config["learner"] not in registry.ENTRIES["learner"]:
        yield f"{setting} cannot be used with name={config['name']}, an algorithm of EPyMARL for one map; {advice}."
    if config["runner"] not in registry.ENTRIES["runner"]:
        yield (
            f"{setting} cannot be used with runner={config['runner']}, EPyMARL's own for one map; set "
            f"runner=supervised_parallel (or vector), or {advice}."
        )
    if "map_name" not in config["env_args"]:
        yield f"{setting} cannot be used with env={config['env']}, whose tasks have no map_name; {advice}."
    agent = config["agent"]
    if config["mac"] != LLM_MAC and agent not in registry.TRUNKS:
        yield (
            f"{setting} cannot be used with agent={agent}, whose layers have the fixed sizes of one map; {advice}, or "
            "set --config to a policy that reads units, such as updet_mappo."
        )
    if several and config["critic_type"] == "mlp_critic":
        yield (
            f"{setting} cannot be used with critic_type=mlp_critic, whose layers have the fixed sizes of one map; set "
            "critic_type=transformer_critic."
        )
    if config.get("imitate", {}).get("teacher"):
        yield f"{setting} cannot be used with lolm imitate, which teaches on one map; {advice}."
    if several and config.get("decisions_file"):
        yield f"decisions_file={config['decisions_file']} has the decisions of one map, not of {setting}; {advice}."
    if held_out:
        if not all(isinstance(name, str) and name for name in held_out) or len(held_out) > maps.MOST_MAPS:
            yield f"test_maps={held_out} is not a list of maps; set it to one such as [4m,6m]."
        maps.check_distinct(maps.TEST_MAPS, held_out)
        if trained := set(held_out) & set(maps.names(config["env_args"]["map_name"])):
            yield f"test_maps has {min(trained)}, which env_args.map_name trains on; leave it out of one of them."


def _batches(config: Config) -> Iterator[str]:
    runner, played, learner = config["runner"], config["batch_size_run"], config["learner"]
    if runner == "episode" and played != 1:
        yield (
            f"batch_size_run={played} cannot be used with runner=episode, which plays one episode at a time; "
            "set batch_size_run=1 or runner=parallel."
        )
    for key in SIZES:
        if learner in registry.ENTRIES["learner"] and config[key] != played:
            yield (
                f"{key}={config[key]} cannot be used: learner={learner} learns from exactly the "
                f"batch_size_run={played} episodes just played; leave {key} out, or set batch_size_run={config[key]}."
            )


def _start(config: Config) -> Iterator[str]:
    path, source = config["checkpoint_path"], config.get("transfer_from", "")
    if path and source:
        yield (
            f"checkpoint_path={path} continues a run, but transfer_from={source} starts one from another run's policy; "
            "set only one of them."
        )
    if source and not os.path.isdir(source):  # False, not an OSError, for a path that is too long
        yield f"transfer_from={source} is not a folder; set it to a run's under results/models or results/sacred."
    for key in ("evaluate", "save_replay"):
        if config[key] and not path and not source:
            yield f"{key}=True has nothing to load; set checkpoint_path to a folder under results/models."
    if path and not os.path.isdir(path):
        yield f"checkpoint_path={path} is not a folder; set it to one under results/models."


def _files(config: Config) -> Iterator[str]:
    results, decisions = config["local_results_path"], config.get("decisions_file", "")
    if not _is_writable(results, Path(results).absolute()):
        yield f"local_results_path={results} cannot be written to; set it to a writable folder."
    if decisions and os.path.isdir(decisions):
        yield f"decisions_file={decisions} is a folder; set it to a file in it, such as decisions.jsonl."
    if decisions and not _is_writable(decisions, Path(decisions).absolute().parent):
        yield f"decisions_file={decisions} cannot be written to; set it to a file in a writable folder."


def _is_writable(value: str, folder: Path) -> bool:
    # os.path.exists is False, not an OSError, for a name that is too long.
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    longest = max(len(os.fsencode(part)) for part in Path(value).absolute().parts)
    return longest <= 255 and existing.is_dir() and os.access(existing, os.W_OK)


def _policy(config: Config) -> Iterator[str]:
    mac, agent = config["mac"], config["agent"]
    if config["learner"] not in registry.ENTRIES["learner"]:
        yield (
            f"learner={config['learner']} cannot train mac={mac}: it keeps a second copy of the policy and "
            f"evaluates it timestep by timestep; set learner to one of: {', '.join(registry.ENTRIES['learner'])}."
        )
    agents = ("llm",) if mac == LLM_MAC else tuple(name for name in registry.ENTRIES["agent"] if name != "llm")
    if agent not in agents:
        yield f"agent={agent} cannot be run by mac={mac}; set agent to one of: {', '.join(agents)}."
    for key, value in flatten(config).items():
        if (sentence := schema.field_of(key).no_choice(value)) and not unread_keys.never_read(config, key):
            yield sentence
    yield from _learner(config)
    for key, trunk in (("agent", agent), ("critic_type", config["critic_type"].removesuffix("_critic"))):
        if trunk in registry.TRUNKS and trunk not in config:
            yield (
                f"{key}={config[key]} has no section {trunk}: with its shape in this configuration; set --config to an "
                f"algorithm whose yaml has one, such as {trunk}_mappo."
            )
    width, heads = config["critic"]["width"], config["critic"]["heads"]
    if config["critic_type"] == "transformer_critic" and width % heads:
        yield f"critic.width={width} is not a multiple of critic.heads={heads}; set critic.width to one that is."
    yield from _language_model(config) if mac == LLM_MAC else _network(config)


def _learner(config: Config) -> Iterator[str]:
    end, target, target_end = (config.get(key) for key in ("entropy_coef_end", "entropy_target", "entropy_target_end"))
    if target_end is not None and target is None:
        yield (
            f"entropy_target_end={target_end} has no effect without entropy_target; set entropy_target as well, or "
            "entropy_target_end=null."
        )
    if target is not None and end is not None:
        yield (
            f"entropy_coef_end={end} cannot be reached with entropy_target={target}, which adapts the weight after "
            "each update; set one of them to null."
        )
    env, env_args = config["env"], config["env_args"]
    if config.get("bootstrap_time_limit") and env in ("sc2", "sc2v2"):  # only they have this option
        where = "set env_args.continuing_episode=True"
        if env == "sc2v2":
            one = maps.names(env_args["map_name"])[0]
            where = f"set continuing_episode: True in EPyMARL's smacv2_configs/{one}.yaml"
            env_args = registry.load(SCENARIO)(one)
        if not env_args.get("continuing_episode"):
            yield (
                f"bootstrap_time_limit=True cannot be used with env={env}, which reports no time limit while its "
                f"continuing_episode is False; {where}, or bootstrap_time_limit=null."
            )
    if config.get("advantage_floor") and not config["normalise_values"]:
        yield (
            f"advantage_floor={config['advantage_floor']} is a fraction of the returns' standard deviation, "
            "which normalise_values=False does not measure; set advantage_floor=0 or normalise_values=True."
        )


def _language_model(config: Config) -> Iterator[str]:
    llm, kl, head = config["llm"], config["kl"], config["head"]
    registry.load("lolm_plugin.llm.sources:resolve")(llm["model"])
    if llm["train"] == "full" and kl["enabled"]:
        yield (
            "llm.train=full changes every weight, so kl.enabled=True has no frozen pretrained model as its reference; "
            "set kl.enabled=False or llm.train=lora."
        )
    if kl["reference"] == "source" and not config["transfer_from"]:
        yield (
            "kl.reference=source has no source, as this run starts from the pretrained model; set transfer_from to the "
            "run that the policy comes from, or kl.reference=pretrained."
        )
    if kl["reference"] == "source" and not kl["enabled"]:
        yield (
            "kl.reference=source has no effect with kl.enabled=False, which leaves the KL out; set kl.enabled=True or "
            "kl.reference=pretrained."
        )
    if head["keys"] == "words" and head["features"] == "raw":
        yield (
            "head.keys=words scales its embeddings for normalised features, and with head.features=raw they would give "
            "logits in the hundreds; set head.features=normalised or head.keys=random."
        )
    if llm["compile"] and llm["quantization"] != "none":
        yield (
            f"llm.compile=True cannot compile the products of llm.quantization={llm['quantization']}; set "
            "llm.compile=False or llm.quantization=none."
        )
    registry.load("lolm_plugin.llm.quantization:check")(llm["quantization"], llm["train"], config["use_cuda"])


def _network(config: Config) -> Iterator[str]:
    mac, agent = config["mac"], config["agent"]
    if config["kl"]["enabled"]:
        yield (
            f"kl.enabled=True cannot be used with mac={mac}, which has no frozen pretrained model as its reference; "
            "set kl.enabled=False."
        )
    if config["kl"]["reference"] == "source":
        yield f"kl.reference=source cannot be used with mac={mac}, which has no KL; set kl.reference=pretrained."
    for key in ("obs_agent_id", "obs_last_action"):
        if config[key] and agent in registry.TRUNKS:
            yield (
                f"{key}=True cannot be used with agent={agent}, which reads only units so that its weights fit any "
                f"team; set {key}=False."
            )
    fields, known = config["entity"]["further_fields"], registry.load(FURTHER_FIELDS)
    if not isinstance(fields, list) or not all(field in known for field in fields):
        yield (
            f"entity.further_fields={fields} is not a list of fields; set it to some of {list(known)}, such as [] or "
            f"{list(known[:1])}."
        )
