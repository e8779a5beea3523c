"""Bounds of the expected return of the probe's tasks, for the best policy and for restricted ones."""

from collections.abc import Callable
from functools import cache

import numpy as np

from lolm_plugin.envs.probe_tasks import ATTACK, Table, action_values, table


def optimal_return(map_name: str) -> float:
    """Compute the expected return of the best policy with full observations."""
    return _plan(table(map_name), lambda values: values)


def best_return_without_target_choice(map_name: str) -> float:
    """Compute the best expected return with equal logits of all attacks: an attack hits a random available enemy."""

    def one_attack(values: np.ndarray) -> np.ndarray:
        attacks = values[:, ATTACK:]
        possible = np.isfinite(attacks)
        total = np.where(possible, attacks, 0).sum(axis=1)
        mean = np.where(possible.any(axis=1), total / np.maximum(possible.sum(axis=1), 1), -np.inf)
        return np.concatenate([values[:, :ATTACK], mean[:, None]], axis=1)

    return _plan(table(map_name), one_attack)


def _plan(task: Table, choices: Callable[[np.ndarray], np.ndarray]) -> float:
    """Solve a task by backward induction over ``choices`` of the action values [S, A] (-inf if not available)."""
    value = np.zeros(len(task.obs))
    for _ in range(task.episode_limit):
        value = choices(action_values(task, value)).max(axis=1)
    return float(value[: task.n_starts].mean())


def blind_return(map_name: str) -> float:
    """Compute the best expected return of a policy that observes only current and past masks and its actions.

    It is the upper bound under ``shuffle_obs``.
    """
    task = table(map_name)

    def by_mask(situations: list[int]) -> list[tuple[int, ...]]:
        groups: dict[bytes, list[int]] = {}
        for situation in sorted(situations):
            groups.setdefault(task.available[situation].tobytes(), []).append(situation)
        return [tuple(group) for group in groups.values()]

    @cache
    def best(believed: tuple[int, ...], steps_left: int) -> float:
        """Return the highest sum of returns over situations that cannot be distinguished."""
        if not steps_left:
            return 0.0
        situations = list(believed)
        totals = []
        for action in np.flatnonzero(task.available[situations[0]]):
            undecided = task.after[situations, action][~task.over[situations, action]].tolist()
            later = sum(best(group, steps_left - 1) for group in by_mask(undecided))
            totals.append(float(task.reward[situations, action].sum()) + later)
        return max(totals)

    starts = list(range(task.n_starts))
    return sum(best(group, task.episode_limit) for group in by_mask(starts)) / task.n_starts
