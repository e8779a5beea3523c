"""What a learner writes to a checkpoint's folder, and whether what lies there fits the run that loads it."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lolm_plugin import registry
from lolm_plugin.checkpoints import MANIFEST, facts_alone, note_facts
from lolm_plugin.errors import ConfigError
from lolm_plugin.modules.network_settings import network_settings
from lolm_plugin.observations.units import NAMES
from lolm_plugin.tensor_files import (
    expected_optimiser_tensors,
    load_optimiser_tensors,
    load_tensors,
    optimiser_tensors,
    save_tensors,
)
from lolm_plugin.untrusted import first_of_another_type, is_list, is_number, is_table, is_whole

MODULES = ("critic", "value_normaliser")
OPTIMISERS = ("actor_optimiser", "critic_optimiser")


def _is_measured(pair: Any) -> bool:
    return is_list(pair, is_number) and len(pair) == 2


TYPES = {
    **dict.fromkeys(("algorithm", "map"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("kl_initial", "entropy"), lambda value: value is None or is_number(value)),
    "kl_measured": lambda value: is_list(value, _is_measured),
    "map_bound": lambda value: is_table(value, is_whole),
    "shape": lambda value: isinstance(value, dict),
}
REQUIRED = {"kl_initial", "algorithm", "map", "shape"}


def save(learner: Any, path: str) -> None:
    """Everything that training has changed: policy, critic, optimisers, normaliser, KL."""
    learner.mac.save_models(path)
    for name in MODULES:
        save_tensors(f"{path}/{name}.safetensors", getattr(learner, name).state_dict())
    for name in OPTIMISERS:
        save_tensors(f"{path}/{name}.safetensors", optimiser_tensors(getattr(learner, name)))
    facts = {
        "kl_initial": learner.kl.initial,
        "kl_measured": learner.kl.measured,
        "entropy": learner.entropy.measured,
        "algorithm": learner.args.name,
        "map": _map(learner.args),
        "map_bound": learner.mac.map_bound(),
        "shape": _shape(learner),
    }
    note_facts(Path(path), learner=facts)


def load(learner: Any, path: str) -> None:
    """Load strictly; ConfigError names what does not fit: the map, a setting or a tensor."""
    facts = checked_facts(learner, path, f"checkpoint_path={path}", critic=True)
    learner.mac.load_models(path)
    load_critic(learner, path)
    for name in OPTIMISERS:
        file = f"{path}/{name}.safetensors"
        optimiser = getattr(learner, name)
        tensors = load_tensors(file, expected=expected_optimiser_tensors(optimiser), may_be_empty=True)
        load_optimiser_tensors(optimiser, tensors, where=file)
    learner.kl.initial = facts["kl_initial"]
    learner.kl.measured = [tuple(pair) for pair in facts.get("kl_measured", [])]
    learner.entropy.measured = facts.get("entropy")
    learner.logger.console_logger.info(f"Loaded {path}: no tensor missing, none unexpected.")


def checked_facts(learner: Any, path: str, setting: str, critic: bool) -> dict[str, Any]:
    """What ``save`` wrote about itself, if its policy, and its ``critic``, mean in this run what they meant there.

    ``setting`` is what the user wrote to have them loaded, for the sentence of a ConfigError.
    """
    facts = _read_facts(path)
    _check_same_policy(learner, setting, facts)
    _check_same_sizes(learner, setting, facts)
    for key, value in {**_policy_shape(learner), **(_critic_shape(learner) if critic else {})}.items():
        theirs = facts["shape"].get(key, value)  # a setting that came later had no effect before
        if theirs != value:
            raise ConfigError(
                f"{setting} was trained with {key}={theirs} but this run has {key}={value}; "
                f"set {key} to the checkpoint's value."
            )
    return facts


def load_critic(learner: Any, path: str) -> None:
    """Critic and value normaliser, strictly."""
    for name in MODULES:
        module = getattr(learner, name)
        module.load_state_dict(load_tensors(f"{path}/{name}.safetensors", expected=module.state_dict()))


def _check_same_policy(learner: Any, setting: str, facts: Mapping[str, Any]) -> None:
    theirs, ours = facts["shape"].get("agent"), learner.args.agent
    if theirs is not None and theirs != ours:
        config = str(facts["algorithm"]).removesuffix(registry.IMITATED)
        raise ConfigError(
            f"{setting} was trained by {facts['algorithm']} (agent={theirs}) but this run is "
            f"{learner.args.name} (agent={ours}); set --config={config}."
        )


def _check_same_sizes(learner: Any, setting: str, facts: Mapping[str, Any]) -> None:
    theirs, ours = facts.get("map_bound", {}), learner.mac.map_bound()
    if not theirs or not ours or theirs == ours:
        return
    sizes = [", ".join(f"{value} {name}" for name, value in side.items()) for side in (theirs, ours)]
    raise ConfigError(
        f"{setting} was trained on {facts['map']} ({sizes[0]}) and cannot play {_map(learner.args)} "
        f"({sizes[1]}): {learner.args.name} reads the whole observation and writes all actions through layers of fixed "
        "width, which fit one map alone; to transfer, train a policy that reads units, such as --config=updet_mappo, "
        "or set env_args.map_name to the checkpoint's map."
    )


def _shape(learner: Any) -> dict[str, Any]:
    """What has to be the same for a checkpoint's numbers to mean the same, beyond the shapes of its tensors."""
    return {**_policy_shape(learner), **_critic_shape(learner)}


def _policy_shape(learner: Any) -> dict[str, Any]:
    return {"agent": learner.args.agent, **learner.mac.fingerprint(), "units": " ".join(NAMES)}


def _critic_shape(learner: Any) -> dict[str, Any]:
    kind = learner.args.critic_type
    return {"critic_type": kind, **network_settings(kind.removesuffix("_critic"), learner.args)}


def _map(args: SimpleNamespace) -> str:
    return f"{args.env} {args.env_args.get('map_name') or args.env_args.get('key')}"


def _read_facts(path: str) -> dict[str, Any]:
    facts = facts_alone(Path(path)).get("learner")
    if facts is None:
        raise ConfigError(f"{path}/{MANIFEST} is missing or damaged; set load_step to another checkpoint.")
    wrong = first_of_another_type(facts, TYPES) or min(REQUIRED - facts.keys(), default=None)
    if wrong:
        raise ConfigError(
            f"{path}/{MANIFEST} says nothing about the learner's {wrong} that can be read; set load_step to another "
            "checkpoint."
        )
    return facts
