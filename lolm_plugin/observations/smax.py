"""Layouts of SMAX (jaxmarl) as in ``envs/smax.py``: SMAC's order, six type bits on every map."""

import math
from collections.abc import Mapping
from typing import Any

from lolm_plugin.observations.battle import BattleLayout, Layouts
from lolm_plugin.observations.layout import N_BASE_ACTIONS, StateLayout, contiguous
from lolm_plugin.observations.units import NAMES, UNKNOWN, index

TYPES = tuple(index(name) for name in ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk"))
SIGHT = {"marine": 9.0, "marauder": 10.0, "stalker": 10.0, "zealot": 9.0, "zergling": 8.0, "hydralisk": 9.0}
# Map cells, jaxmarl's SMAX.unit_type_attack_ranges; targets strictly within it are offered.
SHOOT_RANGE = {"marine": 5.0, "marauder": 6.0, "stalker": 6.0, "zealot": 2.0, "zergling": 2.0, "hydralisk": 5.0}
MAP_SIZE = 32.0  # cells, every map


def build(env_args: Mapping[str, Any], n_agents: int, n_actions: int, options: Mapping[str, Any]) -> Layouts:
    """Build the layouts of a SMAX map. All maps have the same fields and differ only in team sizes."""
    n_enemies = n_actions - N_BASE_ACTIONS
    relative = ("dist", "dx", "dy", "health", "cooldown")
    enemies, allies, own = contiguous(
        4,
        (n_enemies, ("can_target", *relative), TYPES, UNKNOWN),
        (n_agents - 1, ("visible", *relative), TYPES, UNKNOWN),
        (1, ("health", "cooldown", "x", "y"), TYPES, UNKNOWN),
    )
    absolute = ("health", "cooldown", "x", "y")
    state_allies, state_enemies = contiguous(
        0, (n_agents, absolute, TYPES, UNKNOWN), (n_enemies, absolute, TYPES, UNKNOWN)
    )
    observation = BattleLayout(
        "smax",
        env_args["map_name"],
        enemies=enemies,
        allies=allies,
        own=own,
        sight=tuple(SIGHT.get(name, 9.0) for name in NAMES),
        shoot_range=tuple(SHOOT_RANGE.get(name, math.nan) for name in NAMES),
    )
    return Layouts(observation, StateLayout(state_allies, state_enemies), cells=MAP_SIZE)
