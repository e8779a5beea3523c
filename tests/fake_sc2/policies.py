"""Policies for a StarCraft2Env of ``smac`` or ``smacv2``. They use the environment's full state."""

import random
from collections.abc import Callable, Iterable

STOP, NORTH, SOUTH, EAST, WEST = range(1, 6)
N_BASE_ACTIONS = 6


def act_randomly(env, rng: random.Random) -> list[int]:
    """Return a random available action for each agent."""
    masks = env.get_avail_actions()
    return [rng.choice([action for action, allowed in enumerate(mask) if allowed]) for mask in masks]


def randomly(seed: int = 0) -> Callable[..., list[int]]:
    """Return ``act_randomly`` with a separate generator."""
    rng = random.Random(seed)
    return lambda env: act_randomly(env, rng)


def attack_nearest(env) -> list[int]:
    """Attack the nearest enemy in range; a medivac heals the nearest ally. Stop if no target is in range."""
    return [_nearest(env, agent, mask) for agent, mask in enumerate(env.get_avail_actions())]


def hunt_nearest(env) -> list[int]:
    """Act as ``attack_nearest``, but approach if no target is in range: SMACv2's ranges are below the true ones."""
    masks, actions = env.get_avail_actions(), attack_nearest(env)
    return [
        _towards_nearest(env, agent, mask) if action == STOP else action
        for agent, (mask, action) in enumerate(zip(masks, actions, strict=True))
    ]


def _nearest(env, agent: int, mask: list[int]) -> int:
    targets = [action for action in range(N_BASE_ACTIONS, len(mask)) if mask[action]]
    if not targets:
        return 0 if mask[0] else STOP
    me = env.agents[agent]
    heals = env.map_type in ("MMM", "terran_gen") and me.unit_type == env.medivac_id
    others = env.agents if heals else env.enemies
    return min(targets, key=lambda action: _distance(env, me, others[action - N_BASE_ACTIONS]))


def _towards_nearest(env, agent: int, mask: list[int]) -> int:
    me = env.agents[agent]
    other = min(_living(env.enemies.values()), key=lambda unit: _distance(env, me, unit))
    east, north = other.pos.x - me.pos.x, other.pos.y - me.pos.y
    ways = [(abs(east), EAST if east > 0 else WEST), (abs(north), NORTH if north > 0 else SOUTH)]
    return next((action for _, action in sorted(ways, reverse=True) if mask[action]), STOP)


def _living(units: Iterable) -> list:
    return [unit for unit in units if unit.health > 0]


def _distance(env, one, other) -> float:
    return env.distance(one.pos.x, one.pos.y, other.pos.x, other.pos.y)
