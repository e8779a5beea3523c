"""Layouts of the known-answer battles of ``envs/probe.py``: SMAC's order, all units are marines."""

from collections.abc import Mapping
from typing import Any

from lolm_plugin.observations.battle import BattleLayout, Layouts
from lolm_plugin.observations.layout import N_BASE_ACTIONS, StateLayout, contiguous
from lolm_plugin.observations.units import index

SIGHT = 9.0
SHOOT_RANGE = 6.0  # map cells within which an enemy can be attacked, as in SMAC


def build(env_args: Mapping[str, Any], n_agents: int, n_actions: int, options: Mapping[str, Any]) -> Layouts:
    """Build the layouts of a probe task."""
    n_enemies = n_actions - N_BASE_ACTIONS
    marine = index("marine")
    enemies, allies, own = contiguous(
        4,
        (n_enemies, ("can_target", "dist", "dx", "dy", "health"), (), marine),
        (n_agents - 1, ("visible", "dist", "dx", "dy", "health"), (), marine),
        (1, ("health",), (), marine),
    )
    absolute = ("health", "x", "y")
    state_allies, state_enemies = contiguous(0, (n_agents, absolute, (), marine), (n_enemies, absolute, (), marine))
    observation = BattleLayout(
        "probe", env_args["map_name"], enemies=enemies, allies=allies, own=own, sight=SIGHT, shoot_range=SHOOT_RANGE
    )
    return Layouts(observation, StateLayout(state_allies, state_enemies), cells=SIGHT)
