"""Infer the enemies' shots, which are not in the state, from their cooldowns and the agents' losses."""

import math

import numpy as np
import torch

from lolm_plugin.observations.battle import BattleLayout
from lolm_plugin.observations.layout import per_kind

# A weapon fired in a step if its cooldown, a share of the type's, did not fall by more than this. In SMAX a weapon that
# does not fire cools by 0.27 (stalker) or more, and one that fires ends up to 0.125 below (zergling).
COOLED = 0.13
LOST = 1e-4  # a smaller share of the health is rounding
CLOSER = 3.2  # cells by which a marine and its target approach each other in a step of SMAX


def infer(
    layout: BattleLayout, cooldown: np.ndarray, alive: dict[str, np.ndarray], kinds: list[int]
) -> list[tuple[int, int, int]]:
    """Return who shot at which agent, as (step, enemy, agent).

    The state shows that an enemy's weapon fired and which agents lost health or shield, but not at whom the enemy
    shot. Its target is taken to be the nearest of these agents, if it is in reach.

    Args:
        layout: has the number of agents and the ranges of weapons.
        cooldown: of the enemies [enemies, time], as a share of the type's.
        alive: x and y in cells, health and shield, each [units, time], NaN while dead.
        kinds: the universe index of each unit.
    """
    n_agents = layout.n_agents
    ranges = math.inf if layout.shoot_range is None else layout.shoot_range
    reach = (per_kind(ranges, torch.tensor(kinds)) + CLOSER).tolist()
    lost = _fallen(alive["health"][:n_agents]) | _fallen(alive["shield"][:n_agents])
    shots = []
    for i in range(layout.n_enemies):
        unit = n_agents + i
        fired = (cooldown[i, 1:] > 0) & (cooldown[i, 1:] > cooldown[i, :-1] - COOLED)
        for t in np.flatnonzero(fired & ~np.isnan(alive["x"][unit, :-1])):
            away = np.hypot(*(alive[name][:n_agents, t] - alive[name][unit, t] for name in "xy"))
            away[~lost[:, t] | ~(away <= reach[unit])] = np.inf
            if np.isfinite(away.min()):
                shots.append((int(t), unit, int(away.argmin())))
    return sorted(shots)


def _fallen(values: np.ndarray) -> np.ndarray:
    """Return True where values [units, time] fell in a step, or ended: bool [units, time - 1]."""
    before, after = values[:, :-1], values[:, 1:]
    return (after < before - LOST) | (np.isnan(after) & ~np.isnan(before))
