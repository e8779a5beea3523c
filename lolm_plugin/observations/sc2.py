"""SMAC: the observation and state of every map and flag, as ``StarCraft2Env`` writes them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lolm_plugin.observations.layout import Layouts
from lolm_plugin.observations.sc2_maps import find
from lolm_plugin.observations.smac_family import Battle, Flags, battle_layouts
from lolm_plugin.observations.units import indices


def build(env_args: Mapping[str, Any], n_agents: int, n_actions: int, options: Mapping[str, Any]) -> Layouts:
    """Layouts of a SMAC map; ``options.aligned_enemy_types`` is for forks that mended the enemies' type bits."""
    battle = find(env_args["map_name"])
    aligned = options.get("aligned_enemy_types", False)
    layouts = battle_layouts("sc2", env_args["map_name"], battle, type_bits(battle, aligned), Flags.of(env_args))
    return replace(layouts, swapped_types=f"layout.aligned_enemy_types={not aligned}")


def type_bits(battle: Battle, aligned_enemy_types: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Universe indices behind the type bits of (allies, enemies); none where each side has one type of unit.

    SMAC numbers the types of allies and of enemies by different rules, so that on the maps with Stalkers and
    Zealots the enemies' two bits are the other way round.
    """
    kinds = indices(*battle.allies) if len(battle.allies) > 1 else ()
    reverse = set(battle.allies) == {"stalker", "zealot"} and not aligned_enemy_types
    return kinds, kinds[::-1] if reverse else kinds
