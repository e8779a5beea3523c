"""SMACv2: SMAC's order with more fields, read from the scenario file that EPyMARL gives the environment.

EPyMARL hands ``env_args`` to SMACv2 at the wrong level of that file, so that nothing but ``map_name`` has an effect:
the scenario file is what says how the vectors look.
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
# Map cells, with use_unit_ranges; what is not here sees 9.
SIGHTS = {"stalker": 10.0, "colossus": 10.0, "marauder": 10.0, "medivac": 11.0, "zergling": 8.0, "baneling": 8.0}
SHOOT_RANGES = {"stalker": 6.0, "colossus": 7.0, "hydralisk": 5.0, "marine": 5.0, "marauder": 6.0, "medivac": 4.0}
TIME_LIMIT = 200  # env steps of every scenario, whatever EPyMARL's time_limit says
EPYMARL_LIMIT = 150  # that time_limit in EPyMARL's sc2v2.yaml


def scenario_dir() -> Path:
    """Where the host keeps SMACv2's scenarios."""
    return host_config_dir() / "envs/smacv2_configs"


def scenario(map_name: str) -> dict[str, Any]:
    """The arguments that SMACv2 gets for a scenario; ConfigError where there is none or it cannot be put into words."""
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
            f"The scenario env_args.map_name={map_name} has conic_fov=True, whose actions to look around have no place "
            "in the action head; set conic_fov: False in it or choose another env_args.map_name."
        )
    return arguments


def sizes(env_args: Mapping[str, Any]) -> tuple[int, int]:
    """How many agents and actions the scenario has; ConfigError where it cannot be played."""
    arguments = scenario(env_args["map_name"])
    if env_args.get("time_limit", EPYMARL_LIMIT) != EPYMARL_LIMIT:
        raise ConfigError(
            f"env_args.time_limit={env_args['time_limit']} has no effect with env=sc2v2, whose battles always last up "
            f"to {TIME_LIMIT} steps; leave env_args.time_limit={EPYMARL_LIMIT}."
        )
    return arguments["capability_config"]["n_units"], N_BASE_ACTIONS + _n_targets(arguments)


def build(env_args: Mapping[str, Any], n_agents: int, n_actions: int, options: Mapping[str, Any]) -> Layouts:
    """Layouts of a SMACv2 scenario; its teams are drawn anew every episode."""
    map_name = env_args["map_name"]
    arguments = scenario(map_name)
    capabilities = arguments["capability_config"]
    shields, kinds = arguments["map_name"] == "10gen_protoss", indices(*TYPES[arguments["map_name"]])
    sides = (Side(capabilities["n_units"], shields, kinds), Side(capabilities["n_enemies"], shields, kinds))
    # Random hit chances and health levels, shown or not, have a number of their own.
    abilities = tuple(f"{name}_level" for name in ("attack", "health") if name in capabilities)
    return battle_layouts(
        "sc2v2",
        map_name,
        sides,
        Flags.of(arguments),
        _n_targets(arguments),
        abilities=abilities,
        # The environment forgets all of an agent's enemy rows when it meets an enemy that no agent knows of.
        hidden_targets=arguments.get("action_mask", True),
        exceptions=_exceptions(arguments),
        **_ranges(arguments),
    )


def _n_targets(arguments: Mapping[str, Any]) -> int:
    """Target actions: one per enemy; medivacs need as many as there are allies."""
    capabilities = arguments["capability_config"]
    n_agents, n_enemies = capabilities["n_units"], capabilities["n_enemies"]
    return max(n_agents, n_enemies) if arguments["map_name"] == "10gen_terran" else n_enemies


def _exceptions(arguments: Mapping[str, Any]) -> frozenset[str]:
    """Which probes an unusual scenario does not keep."""
    capabilities = arguments["capability_config"]
    broken = {"targets are seen"}
    if "health" in capabilities:  # a share of what is above a level that kills: 0 or less for a moment
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
