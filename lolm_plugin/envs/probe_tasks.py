"""Battles with few situations: their rules, their tables, and the best actions.

Each is small enough to enumerate, so that the optimal return is computed exactly.
Positions are cells from the agent, +x east and +y north.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product
from typing import Any, NamedTuple

import numpy as np

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.layout import N_BASE_ACTIONS
from lolm_plugin.observations.probe import SHOOT_RANGE, SIGHT

NO_OP, STOP, NORTH, SOUTH, EAST, WEST = range(N_BASE_ACTIONS)
ATTACK = N_BASE_ACTIONS  # the first attack action; there is one per enemy
STEPS = {NORTH: (0, 1), SOUTH: (0, -1), EAST: (1, 0), WEST: (-1, 0)}

DIRECTIONS = (NORTH, SOUTH, EAST, WEST)  # where the enemy of retreat and approach may stand
NEAR, FAR = 3, 8  # cells: in shooting range; out of range but in sight
HURT, HEALTHY = 0.2, 0.9

DUEL_MOVE = 2  # cells that the agent moves while its enemy moves one
DUEL_SHOT, DUEL_BLOW = 0.25, 0.5  # health taken by the agent's attack and by the enemy's
DUEL_WIN = 1.0  # reward on top of the damage dealt


class Enemy(NamedTuple):
    x: int
    y: int
    health: float = 1.0

    @property
    def distance(self) -> float:
        return math.hypot(self.x, self.y)


class Situation(NamedTuple):
    """One agent at the origin and its enemies. Health is a fraction of the maximum; 0 means dead."""

    health: float
    enemies: tuple[Enemy, ...]


class Outcome(NamedTuple):
    after: Situation
    reward: float
    over: bool
    won: bool


@dataclass(frozen=True)
class Task:
    """The rules of one battle; every start is equally likely."""

    episode_limit: int
    starts: tuple[Situation, ...]
    play: Callable[[Situation, int], Outcome]  # called for available actions of undecided battles only
    moves: tuple[int, ...] = tuple(STEPS)

    def available(self, situation: Situation) -> list[int]:
        """Return the action mask ``[6 + n_enemies]``, as in SMAC: a dead agent has no-op only."""
        if not situation.health:
            return [1] + [0] * (N_BASE_ACTIONS - 1 + len(situation.enemies))
        base = [action == STOP or action in self.moves for action in range(N_BASE_ACTIONS)]
        attacks = [enemy.health > 0 and enemy.distance <= SHOOT_RANGE for enemy in situation.enemies]
        return [int(allowed) for allowed in (*base, *attacks)]


def _at(direction: int, cells: int) -> Enemy:
    step_x, step_y = STEPS[direction]
    return Enemy(step_x * cells, step_y * cells)


def _toward(enemy: Enemy) -> int:
    return next(move for move, (x, y) in STEPS.items() if x * enemy.x + y * enemy.y == enemy.distance)


def _away(enemy: Enemy) -> int:
    return _toward(Enemy(-enemy.x, -enemy.y))


def _one_step(starts: tuple[Situation, ...], right: Callable[[Situation], int]) -> Task:
    """Return a task with one decision and one right action. No unit moves or dies."""

    def play(situation: Situation, action: int) -> Outcome:
        won = action == right(situation)
        return Outcome(situation, float(won), True, won)

    return Task(1, starts, play)


def _retreat() -> Task:
    def right(situation: Situation) -> int:
        return _away(situation.enemies[0]) if situation.health == HURT else ATTACK

    cases = product((HURT, HEALTHY), DIRECTIONS)
    return _one_step(tuple(Situation(health, (_at(where, NEAR),)) for health, where in cases), right)


def _approach() -> Task:
    def right(situation: Situation) -> int:
        enemy = situation.enemies[0]
        return ATTACK if enemy.distance <= SHOOT_RANGE else _toward(enemy)

    cases = product((NEAR, FAR), DIRECTIONS)
    return _one_step(tuple(Situation(1.0, (_at(where, cells),)) for cells, where in cases), right)


def _target() -> Task:
    def right(situation: Situation) -> int:
        healths = [enemy.health for enemy in situation.enemies]
        return ATTACK + healths.index(min(healths))

    posts = [_at(where, NEAR) for where in (NORTH, SOUTH, EAST)]
    orders = permutations((HURT, 0.5, HEALTHY))
    return _one_step(
        tuple(
            Situation(1.0, tuple(post._replace(health=health) for post, health in zip(posts, order, strict=True)))
            for order in orders
        ),
        right,
    )


def _duel() -> Task:
    """Return a duel with a stronger but slower melee enemy. Optimal: shoot, and step back when it is adjacent."""

    def play(situation: Situation, action: int) -> Outcome:
        enemy = situation.enemies[0]
        side, gap, reward = int(math.copysign(1, enemy.x)), abs(enemy.x), 0.0
        if action == ATTACK:
            enemy, reward = enemy._replace(health=enemy.health - DUEL_SHOT), DUEL_SHOT
            if not enemy.health:
                return Outcome(situation._replace(enemies=(enemy,)), reward + DUEL_WIN, True, True)
        elif action in STEPS:
            # A move toward the enemy stops next to it. It is not masked: the mask would reveal the enemy's side.
            gap = min(FAR, max(1, gap - side * STEPS[action][0] * DUEL_MOVE))
        health = situation.health - DUEL_BLOW if gap == 1 else situation.health
        gap = max(1, gap - 1)
        return Outcome(Situation(health, (enemy._replace(x=side * gap),)), reward, not health, False)

    starts = tuple(Situation(1.0, (_at(where, cells),)) for where, cells in product((EAST, WEST), (1, 2)))
    return Task(8, starts, play, moves=(EAST, WEST))


_TASKS = {"retreat": _retreat, "approach": _approach, "duel": _duel, "target": _target}
MAPS = tuple(_TASKS)


@dataclass(frozen=True)
class Table:
    """A task as arrays: S situations, of which the first ``n_starts`` are the starts, and A actions."""

    episode_limit: int
    n_starts: int
    obs: np.ndarray  # float32 [S, obs_size]
    state: np.ndarray  # float32 [S, state_size]
    available: np.ndarray  # int32 [S, A]
    after: np.ndarray  # int64 [S, A], index of the next situation
    reward: np.ndarray  # float32 [S, A]
    over: np.ndarray  # bool [S, A]
    won: np.ndarray  # bool [S, A]
    dead_allies: np.ndarray  # float32 [S]
    dead_enemies: np.ndarray  # float32 [S]


@cache
def table(map_name: str) -> Table:
    """Return the table of all situations that a task can reach.

    Raises:
        ConfigError: the task is unknown.
    """
    if map_name not in MAPS:
        raise ConfigError(
            f"env_args.map_name={map_name} is not a battle of env=probe: set it to one of {', '.join(MAPS)}."
        )
    task = _TASKS[map_name]()
    situations = list(task.starts)
    index = {situation: i for i, situation in enumerate(situations)}
    outcomes: list[list[Outcome]] = []
    for situation in situations:  # the list grows during the loop: a breadth-first search
        outcomes.append([_outcome(task, situation, a) for a in range(len(task.available(situation)))])
        for outcome in outcomes[-1]:
            if outcome.after not in index:
                index[outcome.after] = len(situations)
                situations.append(outcome.after)

    def per_action(value: Callable[[Outcome], float], dtype: type) -> np.ndarray:
        return np.array([[value(outcome) for outcome in row] for row in outcomes], dtype=dtype)

    available = [task.available(situation) for situation in situations]
    return Table(
        episode_limit=task.episode_limit,
        n_starts=len(task.starts),
        obs=np.array([_observe(s, mask) for s, mask in zip(situations, available, strict=True)], np.float32),
        state=np.array([_survey(situation) for situation in situations], np.float32),
        available=np.array(available, np.int32),
        after=per_action(lambda outcome: index[outcome.after], np.int64),
        reward=per_action(lambda outcome: outcome.reward, np.float32),
        over=per_action(lambda outcome: outcome.over, np.bool_),
        won=per_action(lambda outcome: outcome.won, np.bool_),
        dead_allies=np.array([not situation.health for situation in situations], np.float32),
        dead_enemies=np.array([sum(not enemy.health for enemy in s.enemies) for s in situations], np.float32),
    )


def sizes(env_args: Mapping[str, Any]) -> tuple[int, int]:
    """Return a task's numbers of agents and actions. Raises ConfigError as ``table``."""
    return 1, table(env_args["map_name"]).available.shape[1]


def _outcome(task: Task, situation: Situation, action: int) -> Outcome:
    decided = not situation.health or not any(enemy.health for enemy in situation.enemies)
    if decided or not task.available(situation)[action]:
        return Outcome(situation, 0.0, decided, False)
    return task.play(situation, action)


def _observe(situation: Situation, available: list[int]) -> list[float]:
    """Return the observation in SMAC's order: 4 moves, (can_target, dist, dx, dy, health) of each enemy, own health."""
    if not situation.health:
        return [0.0] * (5 + 5 * len(situation.enemies))
    values: list[float] = list(available[NORTH:ATTACK])
    for enemy, can_target in zip(situation.enemies, available[ATTACK:], strict=True):
        if enemy.health and enemy.distance < SIGHT:
            where = (enemy.distance / SIGHT, enemy.x / SIGHT, enemy.y / SIGHT)
            values += [can_target, *where, enemy.health]
        else:
            values += [0.0] * 5
    return [*values, situation.health]


def _survey(situation: Situation) -> list[float]:
    """Return the state: (health, x, y) of the agent, then of each enemy, visible or not. Dead units are zeros."""
    values = [situation.health, 0.0, 0.0]
    for enemy in situation.enemies:
        values += [enemy.health, enemy.x / SIGHT, enemy.y / SIGHT] if enemy.health else [0.0] * 3
    return values


def optimal_actions(map_name: str) -> np.ndarray:
    """Return the best action at each timestep and situation, int64 [episode_limit, S]; the first of equal ones."""
    task = table(map_name)
    value, actions = np.zeros(len(task.obs)), []
    for _ in range(task.episode_limit):
        values = action_values(task, value)
        actions.append(values.argmax(axis=1))
        value = values.max(axis=1)
    return np.stack(actions[::-1])


def action_values(task: Table, value: np.ndarray) -> np.ndarray:
    """Return action values [S, A], given the values ``value`` [S] of the next situations; -inf if not available."""
    values = task.reward + np.where(task.over, 0, value[task.after])
    return np.where(task.available, values, -np.inf)
