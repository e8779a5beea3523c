"""Teachers of ``lolm imitate``: the policy of another run, or an environment's scripted policy.

A run's folder may come from an untrusted source. Its checkpoint decides only the shape of its policy's network. The
environment, the layouts and every path come from the command line. A language model that it names is loaded only if it
is one of the plugin's own or the student's.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lolm_plugin import checkpoints, registry
from lolm_plugin.checkpoints import Checkpoint
from lolm_plugin.configuration import config_check
from lolm_plugin.configuration.config_files import flatten, merge, plugin_config_dir, read
from lolm_plugin.errors import ConfigError
from lolm_plugin.llm.sources import SMOLLM2, TINY
from lolm_plugin.run.resuming import checkpoints_of

if TYPE_CHECKING:
    from lolm_plugin.controllers.controller import Controller
    from lolm_plugin.run.components import RunComponents

HEURISTIC = "heuristic"
# Settings that say which network a checkpoint's weights belong to.
POLICY_KEYS = ("mac", "agent", "seed", "greedy_rule", "obs_agent_id", "obs_last_action")
POLICY_SECTIONS = ("entity", "gru", *registry.TRUNKS, "head", "lora", "prompt")
LLM_KEYS = ("llm.model", "llm.pretrained", "llm.num_layers", "llm.train")


@dataclass(frozen=True)
class Teacher:
    """A teacher: ``policy`` are its network's settings, ``checkpoint`` its weights (None for a scripted policy)."""

    name: str  # as on the command line
    checkpoint: Checkpoint | None
    policy: Mapping[str, Any]


def find(config: Mapping[str, Any], host_dir: Path, log: logging.Logger | None = None) -> Teacher:
    """Return the teacher that ``imitate.teacher`` names, checked as far as possible without building it.

    Raises:
        ConfigError: there is no such folder or checkpoint, the environment has no scripted policy, or the teacher's
            policy does not fit this map.
    """
    name = config["imitate"]["teacher"]
    if name == HEURISTIC:
        if not registry.ENVS[config["env"]].teacher:
            known = " or ".join(env for env, entry in registry.ENVS.items() if entry.teacher)
            raise ConfigError(
                f"--teacher={HEURISTIC} cannot be used with env={config['env']}, which has no scripted policy; set "
                f"--teacher to a run under results/models, or --env-config to {known}."
            )
        return Teacher(name, None, {})
    option = f"--teacher={name}"
    if not os.path.isdir(name):
        raise ConfigError(
            f"{option} is not a folder; set it to a run's under results/models or results/sacred, or to {HEURISTIC}."
        )
    folder = checkpoints_of(Path(name), "--teacher")
    if not checkpoints.steps(folder):
        raise ConfigError(
            f"{option} has no checkpoint (no folder named by a step); set it to a run's folder under results/models."
        )
    found = checkpoints.find(folder, strict=config["strict"], log=log, key="--teacher")
    policy = _policy(found, option, config, host_dir)
    _check_map(found, option, config)
    return Teacher(name, found, policy)


def build(teacher: Teacher, components: "RunComponents") -> "Controller":
    """Build the teacher's controller with its weights.

    Raises:
        ConfigError: the weights do not fit the network, or the network does not fit the map.
    """
    from lolm_plugin.controllers.action_selector import KeyedActionSelector
    from lolm_plugin.learners import learner_checkpoint

    # Only the student's tests are logged in the decisions file.
    args = SimpleNamespace(**{**vars(components.args), "decisions_file": ""})
    if teacher.checkpoint is None:
        batch = components.build_batch(1)
        return registry.load(registry.ENVS[args.env].teacher)(batch.scheme, batch.groups, args)
    theirs = SimpleNamespace(**merge(vars(args), teacher.policy))
    mac = components.build_mac(theirs)
    path = str(teacher.checkpoint.path)
    learner_checkpoint.check_fits(path, f"--teacher={teacher.name}", theirs, mac, with_critic=False)
    mac.load_models(path)
    # The teacher's seed is for its weights; its actions are drawn from this run's seed.
    drawn = SimpleNamespace(**{**vars(theirs), "seed": args.seed})
    mac.action_selector = KeyedActionSelector(drawn, mac.layouts.observation.n_base_actions)
    return mac


def _policy(found: Checkpoint, option: str, config: Mapping[str, Any], host_dir: Path) -> dict[str, Any]:
    """Return the settings of the teacher's network, with types and ranges checked."""
    theirs = found.facts.get("config")
    if not isinstance(theirs, Mapping):
        raise ConfigError(
            f"{option} has a checkpoint without a configuration, so its network is unknown; set --teacher to another "
            "run."
        )
    # A key that is missing in a checkpoint of an older version has its default.
    flat = flatten(merge(read(plugin_config_dir() / "default.yaml"), theirs))
    wanted = (*POLICY_KEYS, *LLM_KEYS)
    chosen = {
        key: value
        for key, value in flat.items()
        if key in wanted or (key.split(".")[0] in POLICY_SECTIONS and "." in key)
    }
    policy = config_check.typed(chosen, "in the teacher's checkpoint", host_dir)
    if policy.get("mac") not in registry.ENTRIES["mac"]:
        raise ConfigError(
            f"{option} was trained with mac={policy.get('mac')}, which is not a controller of lolm_plugin; set "
            "--teacher to a run of an algorithm in config/algs."
        )
    if policy["mac"] == config_check.LLM_MAC:
        _check_language_model(policy.get("llm", {}).get("model"), option, config)
    # Only the policy's settings are the teacher's; the others are this run's.
    alone = {"critic_type": "transformer_critic", "kl": {"enabled": False}}
    config_check.check(merge(merge(config, policy), alone))
    return policy


def _check_language_model(model: Any, option: str, config: Mapping[str, Any]) -> None:
    own = config["llm"]["model"] if config["mac"] == config_check.LLM_MAC else None
    if model not in (own, SMOLLM2, *TINY):
        raise ConfigError(
            f"{option} uses llm.model={model}, which this run does not name, and a checkpoint may not make lolm "
            f"download a model; set llm.model={model} for the student too, or --teacher to another run."
        )


def _check_map(found: Checkpoint, option: str, config: Mapping[str, Any]) -> None:
    """Raise ConfigError if the weights fit only other team sizes.

    Only maps whose sizes are known without starting the game are checked.
    """
    from lolm_plugin.learners import learner_checkpoint

    if config["env"] not in registry.MAP_SIZES:
        return
    facts = learner_checkpoint.read_facts(str(found.path), "set --teacher to another run")
    tied, theirs = facts["fixed_sizes"], facts["map"]
    agents, actions = registry.load(registry.MAP_SIZES[config["env"]])(config["env_args"])
    ours = {"agents": agents, "actions": actions}
    if any(tied.get(size, value) != value for size, value in ours.items()):
        listed = ", ".join(f"{tied.get(size)} {size}" for size in ours)
        raise ConfigError(
            f"{option} was trained on {theirs} ({listed}) and cannot play {config['env']} "
            f"{config['env_args'].get('map_name') or config['env_args'].get('key')} ({agents} agents, {actions} "
            "actions), because its weights fit only one map; set env_args.map_name to the teacher's map."
        )
