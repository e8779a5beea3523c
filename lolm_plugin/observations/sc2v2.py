"""Layouts of SMACv2: SMAC's order with more fields, from the scenario file that EPyMARL gives the environment.

EPyMARL passes ``env_args`` to SMACv2 at the wrong level of that file, so only ``map_name`` has an effect. The contents
of the vectors follow from the scenario file alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lolm_plugin.configuration.config_files import read
from lolm_plugin.errors import ConfigError, did_you_mean
from lolm_plugin.observations.battle import Layouts
from lolm_plugin.observations.layout import N_BASE_ACTIONS
from lolm_plugin.observations.smac_family import SHOOT_RANGE, SIGHT, Flags, Side, battle_layouts
from lolm_plugin.observations.units import NAMES, indices
from lolm_plugin.paths import host_config_dir

# SMACv2's base map -> its race's units in the order of their type bits, the same for both sides.
TYPES = {
    "10gen_terran": ("marine", "marauder", "medivac"),
    "10gen_protoss": ("stalker", "zealot", "colossus"),
    "10gen_zerg": ("zergling", "hydralisk", "baneling"),
}
# Map cells, with use_unit_ranges; 9 for other units.
SIGHTS = {"stalker": 10.0, "colossus": 10.0, "marauder": 10.0, "medivac": 11.0, "zergling": 8.0, "baneling": 8.0}
SHOOT_RANGES = {"stalker": 6.0, "colossus": 7.0, "hydralisk": 5.0, "marine": 5.0, "marauder": 6.0, "medivac": 4.0}
TIME_LIMIT = 200  # env steps of every scenario; EPyMARL's time_limit has no effect
EPYMARL_LIMIT = 150  # time_limit in EPyMARL's sc2v2.yaml


def scenario_dir() -> Path:
    """Return the host's folder of SMACv2 scenarios."""
    return host_config_dir() / "envs/smacv2_configs"


def scenario(map_name: str) -> dict[str, Any]:
    """Return the arguments that SMACv2 gets for a scenario.

    Raises:
        ConfigError: there is no such scenario, or no prompts can be written for it.
    """
    path = scenario_dir() / f"{map_name}.yaml"
    known = sorted(file.stem for file in scenario_dir().glob("*.yaml"))
    if map_name not in known:  # a name such as ../x would be a file elsewhere
        what = f"set it to one of: {', '.join(known)}" if known else "the host has none: set EPYMARL_HOME to a checkout"
        hint = did_you_mean(str(map_name), known)
        raise ConfigError(f"env_args.map_name={map_name} is no SMACv2 scenario of the host{hint}; {what}.")
    arguments = read(path).get("env_args")
    capabilities = arguments.get("capability_config") if isinstance(arguments, dict) else None
    if not isinstance(arguments, dict) or not isinstance(capabilities, Mapping) or "map_name" not in arguments:
        raise ConfigError(
            f"The scenario {path} has no env_args.map_name with an env_args.capability_config; add them or choose "
            "another env_args.map_name."
        )
    for key in ("n_units", "n_enemies", "team_gen"):
        if key not in capabilities:
            raise ConfigError(
                f"The scenario {path} has no env_args.capability_config.{key}, so that its units are not known; add it "
                "or choose another env_args.map_name."
            )
    if arguments["map_name"] not in TYPES:
        raise ConfigError(
            f"The scenario env_args.map_name={map_name} is played on {arguments['map_name']}, whose unit types SMACv2 "
            f"itself gets wrong; choose one on {', '.join(TYPES)}."
        )
    if arguments.get("conic_fov"):
        raise ConfigError(
            f"The scenario env_args.map_name={map_name} has conic_fov=True, but the action head does not support "
            "its actions to look around; set conic_fov: False in it or choose another env_args.map_name."
        )
    return arguments


def sizes(env_args: Mapping[str, Any]) -> tuple[int, int]:
    """Return the numbers of agents and actions of a scenario; raise ConfigError if it cannot be played."""
    arguments = scenario(env_args["map_name"])
    if env_args.get("time_limit", EPYMARL_LIMIT) != EPYMARL_LIMIT:
        raise ConfigError(
            f"env_args.time_limit={env_args['time_limit']} has no effect with env=sc2v2, whose battles always last up "
            f"to {TIME_LIMIT} steps; leave env_args.time_limit={EPYMARL_LIMIT}."
        )
    return arguments["capability_config"]["n_units"], N_BASE_ACTIONS + _n_targets(arguments)


def build(env_args: Mapping[str, Any], n_agents: int, n_actions: int, options: Mapping[str, Any]) -> Layouts:
    """Build the layouts of a SMACv2 scenario. Its teams are drawn anew in every episode."""
    map_name = env_args["map_name"]
    arguments = scenario(map_name)
    capabilities = arguments["capability_config"]
    shields, kinds = arguments["map_name"] == "10gen_protoss", indices(*TYPES[arguments["map_name"]])
    sides = (Side(capabilities["n_units"], shields, kinds), Side(capabilities["n_enemies"], shields, kinds))
    # Random hit chances and health levels each have a number, even if they are not shown.
    abilities = tuple(f"{name}_level" for name in ("attack", "health") if name in capabilities)
    return battle_layouts(
        "sc2v2",
        map_name,
        sides,
        Flags.of(arguments),
        _n_targets(arguments),
        abilities=abilities,
        # When an agent meets an enemy that no agent knows, the environment clears all enemies in its observation.
        hidden_targets=arguments.get("action_mask", True),
        exceptions=_exceptions(arguments),
        **_ranges(arguments),
    )


def _n_targets(arguments: Mapping[str, Any]) -> int:
    """Return the number of target actions: one per enemy, and with medivacs at least one per ally."""
    capabilities = arguments["capability_config"]
    n_agents, n_enemies = capabilities["n_units"], capabilities["n_enemies"]
    return max(n_agents, n_enemies) if arguments["map_name"] == "10gen_terran" else n_enemies


def _exceptions(arguments: Mapping[str, Any]) -> frozenset[str]:
    """Return the rules that an unusual scenario does not satisfy."""
    capabilities = arguments["capability_config"]
    broken = {"targets are seen"}
    if "health" in capabilities:  # (share - level) / (1 - level) is 0 or less just before the unit is killed
        broken |= {"shares", "own health"}
    if "enemy_mask" in capabilities or not capabilities["team_gen"]["observe"]:
        broken.add("one type bit")
    if not arguments.get("action_mask", True):
        broken.add("target flag")
    if arguments.get("fully_observable"):
        broken.add("offsets")
    return frozenset(broken)


def _ranges(arguments: Mapping[str, Any]) -> dict[str, Any]:
    if not arguments.get("use_unit_ranges"):
        return {"sight": SIGHT, "shoot_range": SHOOT_RANGE}
    least = float(arguments.get("min_attack_range", 2))
    return {
        "sight": tuple(SIGHTS.get(name, SIGHT) for name in NAMES),
        "shoot_range": tuple(max(SHOOT_RANGES.get(name, 0.0), least) for name in NAMES),
    }
