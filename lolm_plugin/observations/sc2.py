"""Layouts of SMAC's 23 maps with all flags, in the format of ``StarCraft2Env``.

A new map needs one line in ``MAPS``. Sources: ``smac_maps.py`` and the maps themselves.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lolm_plugin.errors import ConfigError, did_you_mean
from lolm_plugin.observations.battle import Layouts
from lolm_plugin.observations.layout import N_BASE_ACTIONS
from lolm_plugin.observations.smac_family import Battle, Flags, map_layouts
from lolm_plugin.observations.units import indices

MAPS: dict[str, Battle] = {
    "3m": Battle({"marine": 3}, {"marine": 3}),
    "8m": Battle({"marine": 8}, {"marine": 8}),
    "25m": Battle({"marine": 25}, {"marine": 25}),
    "5m_vs_6m": Battle({"marine": 5}, {"marine": 6}),
    "8m_vs_9m": Battle({"marine": 8}, {"marine": 9}),
    "10m_vs_11m": Battle({"marine": 10}, {"marine": 11}),
    "27m_vs_30m": Battle({"marine": 27}, {"marine": 30}),
    "MMM": Battle({"marauder": 2, "marine": 7, "medivac": 1}, {"marauder": 2, "marine": 7, "medivac": 1}),
    "MMM2": Battle({"marauder": 2, "marine": 7, "medivac": 1}, {"marauder": 3, "marine": 8, "medivac": 1}),
    "2s3z": Battle({"stalker": 2, "zealot": 3}, {"stalker": 2, "zealot": 3}),
    "3s5z": Battle({"stalker": 3, "zealot": 5}, {"stalker": 3, "zealot": 5}),
    "3s5z_vs_3s6z": Battle({"stalker": 3, "zealot": 5}, {"stalker": 3, "zealot": 6}),
    "3s_vs_3z": Battle({"stalker": 3}, {"zealot": 3}),
    "3s_vs_4z": Battle({"stalker": 3}, {"zealot": 4}),
    "3s_vs_5z": Battle({"stalker": 3}, {"zealot": 5}),
    "1c3s5z": Battle({"colossus": 1, "stalker": 3, "zealot": 5}, {"colossus": 1, "stalker": 3, "zealot": 5}),
    "2m_vs_1z": Battle({"marine": 2}, {"zealot": 1}),
    "corridor": Battle({"zealot": 6}, {"zergling": 24}),
    "6h_vs_8z": Battle({"hydralisk": 6}, {"zealot": 8}),
    "2s_vs_1sc": Battle({"stalker": 2}, {"spine crawler": 1}),
    "so_many_baneling": Battle({"zealot": 7}, {"baneling": 32}),
    "bane_vs_bane": Battle({"baneling": 4, "zergling": 20}, {"baneling": 4, "zergling": 20}),
    "2c_vs_64zg": Battle({"colossus": 2}, {"zergling": 64}),
}


def find(map_name: str) -> Battle:
    """Return the map of that name; raise ConfigError with the nearest known name if there is none."""
    if map_name not in MAPS:
        raise ConfigError(
            f"env_args.map_name={map_name} is no map of env=sc2 whose units are known{did_you_mean(map_name, MAPS)}; "
            f"set it to one of: {', '.join(MAPS)}."
        )
    return MAPS[map_name]


def sizes(env_args: Mapping[str, Any]) -> tuple[int, int]:
    """Return the numbers of agents and actions of the map of ``env_args``.

    Raises:
        ConfigError: the map is unknown, or ``obs_timestep_number`` is set. SMAC then returns one number more than it
            declares, and no host can store it.
    """
    battle = find(env_args["map_name"])
    if env_args.get("obs_timestep_number"):
        raise ConfigError(
            "env_args.obs_timestep_number=True cannot be used with env=sc2: SMAC's observations then have one number "
            "more than it declares, and storing them fails; set env_args.obs_timestep_number=False."
        )
    return battle.n_agents, N_BASE_ACTIONS + battle.n_enemies


def build(env_args: Mapping[str, Any], n_agents: int, n_actions: int, options: Mapping[str, Any]) -> Layouts:
    """Build the layouts of a SMAC map; ``options.aligned_enemy_types`` is for forks with fixed enemy type bits."""
    battle = find(env_args["map_name"])
    aligned = options.get("aligned_enemy_types", False)
    layouts = map_layouts("sc2", env_args["map_name"], battle, type_bits(battle, aligned), Flags.of(env_args))
    return replace(layouts, swapped_types=f"layout.aligned_enemy_types={not aligned}")


def type_bits(battle: Battle, aligned_enemy_types: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the universe indices of the type bits of (allies, enemies); none if each side has one type of unit.

    SMAC numbers the types of allies and of enemies by different rules. On the maps with Stalkers and Zealots, the
    enemies' two bits are therefore in the reverse order.
    """
    kinds = indices(*battle.allies) if len(battle.allies) > 1 else ()
    reverse = set(battle.allies) == {"stalker", "zealot"} and not aligned_enemy_types
    return kinds, kinds[::-1] if reverse else kinds
