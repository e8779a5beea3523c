"""Policies for a ``smac`` StarCraft2Env: the actions of all agents, from what the environment itself knows."""

import random

N_BASE_ACTIONS = 6


def act_randomly(env, rng: random.Random) -> list[int]:
    """Any available action, each agent."""
    masks = env.get_avail_actions()
    return [rng.choice([action for action, allowed in enumerate(mask) if allowed]) for mask in masks]


def attack_nearest(env) -> list[int]:
    """Attack the nearest enemy in range, a medivac heals the nearest ally; with nobody in range, stop."""
    return [_nearest(env, agent, mask) for agent, mask in enumerate(env.get_avail_actions())]


def _nearest(env, agent: int, mask: list[int]) -> int:
    targets = [action for action in range(N_BASE_ACTIONS, len(mask)) if mask[action]]
    if not targets:
        return 0 if mask[0] else 1
    me = env.agents[agent]
    heals = env.map_type == "MMM" and me.unit_type == env.medivac_id
    others = env.agents if heals else env.enemies

    def distance(action: int) -> float:
        other = others[action - N_BASE_ACTIONS]
        return env.distance(me.pos.x, me.pos.y, other.pos.x, other.pos.y)

    return min(targets, key=distance)
