"""Metadata of a checkpoint about its weights, and the check that they fit the run that loads them."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lolm_plugin import maps, registry
from lolm_plugin.checkpoints import MANIFEST, add_facts, read_facts_unchecked
from lolm_plugin.controllers.controller import Controller
from lolm_plugin.errors import ConfigError
from lolm_plugin.modules.trunks.trunk import network_settings
from lolm_plugin.observations.units import NAMES
from lolm_plugin.untrusted import first_of_another_type, is_integer, is_list, is_number, is_table

MODULES = ("critic", "value_normaliser")
OPTIMISERS = ("actor_optimiser", "critic_optimiser")
WHEN_ABSENT = {"head.read": "last"}  # of a policy that was saved before the key existed


def _is_pair(value: Any) -> bool:
    return is_list(value, is_number) and len(value) == 2


TYPES = {
    **dict.fromkeys(("algorithm", "map"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("kl_initial", "entropy"), lambda value: value is None or is_number(value)),
    "kl_measured": lambda value: is_list(value, _is_pair),
    "fixed_sizes": lambda value: is_table(value, is_integer),
    "shape": lambda value: isinstance(value, dict) and isinstance(value.get("agent"), str),
}


def write_facts(path: str, args: SimpleNamespace, mac: Controller, measured: Mapping[str, Any]) -> None:
    """Write the metadata. ``measured`` holds the coefficients' values from which a resumed run continues."""
    facts = {
        "algorithm": args.name,
        "map": _map(args),
        "fixed_sizes": mac.fixed_sizes(),
        "shape": {**_policy_shape(args, mac), **_critic_shape(args)},
        **measured,
    }
    add_facts(Path(path), learner=facts)


def check_fits(path: str, setting: str, args: SimpleNamespace, mac: Controller, with_critic: bool) -> dict[str, Any]:
    """Read the metadata and check that the policy's weights, and optionally the critic's, fit this run.

    Args:
        path: the checkpoint's folder.
        setting: the key and value by which the user chose it, for error messages.
        args: this run's configuration.
        mac: this run's controller.
        with_critic: True if the critic is loaded, too.

    Raises:
        ConfigError: the map, the algorithm or a setting does not fit, or the manifest is damaged.
    """
    facts = read_facts(path)
    if (theirs := facts["shape"]["agent"]) != args.agent:
        config = str(facts["algorithm"]).removesuffix(registry.IMITATED)
        raise ConfigError(
            f"{setting} was trained by {facts['algorithm']} (agent={theirs}) but this run is "
            f"{args.name} (agent={args.agent}); set --config={config}."
        )
    _check_sizes(setting, facts, args, mac)
    for key, value in {**_policy_shape(args, mac), **(_critic_shape(args) if with_critic else {})}.items():
        # A setting that the checkpoint lacks did not exist when it was written.
        if (theirs := facts["shape"].get(key, WHEN_ABSENT.get(key, value))) != value:
            raise ConfigError(
                f"{setting} was trained with {key}={theirs} but this run has {key}={value}; "
                f"set {key} to the checkpoint's value."
            )
    return facts


def read_facts(path: str, advice: str = "set load_step to another checkpoint") -> dict[str, Any]:
    """Read the metadata that ``write_facts`` wrote, and check the type of each key in ``TYPES``.

    Raises:
        ConfigError: the manifest is missing or damaged, or a key is missing or has a wrong type. The message ends
            with ``advice``.
    """
    facts = read_facts_unchecked(Path(path)).get("learner")
    if facts is None:
        raise ConfigError(f"{path}/{MANIFEST} is missing or damaged; {advice}.")
    if wrong := first_of_another_type(facts, TYPES) or min(TYPES.keys() - facts.keys(), default=None):
        raise ConfigError(f"{path}/{MANIFEST} has no readable value of the learner's {wrong}; {advice}.")
    return facts


def _check_sizes(setting: str, facts: Mapping[str, Any], args: SimpleNamespace, mac: Controller) -> None:
    theirs, ours = facts["fixed_sizes"], mac.fixed_sizes()
    if not theirs or not ours or theirs == ours:
        return
    sizes = [", ".join(f"{value} {name}" for name, value in side.items()) for side in (theirs, ours)]
    raise ConfigError(
        f"{setting} was trained on {facts['map']} ({sizes[0]}) and cannot play {_map(args)} "
        f"({sizes[1]}): the input and output layers of {args.name} have a fixed width and fit only one map; to "
        "transfer, train a policy that reads units, such as --config=updet_mappo, or set env_args.map_name to the "
        "checkpoint's map."
    )


def _policy_shape(args: SimpleNamespace, mac: Controller) -> dict[str, Any]:
    return {"agent": args.agent, **mac.fingerprint(), "units": " ".join(NAMES)}


def _critic_shape(args: SimpleNamespace) -> dict[str, Any]:
    kind = args.critic_type
    return {"critic_type": kind, **network_settings(kind.removesuffix("_critic"), args)}


def _map(args: SimpleNamespace) -> str:
    return f"{args.env} {maps.label(args.env_args.get('map_name') or args.env_args.get('key'))}"
