"""Known-answer battles: an algorithm should learn the optimum, and nothing in the control without information.

``retreat``, ``approach`` and ``target`` have one decision each; ``duel`` is a short fight (rules: ``probe_tasks``).
Every task is a table, so stepping thousands of copies is a look-up.
"""

from typing import Any

import numpy as np

from lolm_plugin.envs.base import SingleEnv, Transition
from lolm_plugin.envs.probe_tasks import ATTACK, table
from lolm_plugin.errors import ConfigError


class ProbeVectorEnv:
    """``n_envs`` copies of one known-answer battle with one agent; see ``VectorEnv``.

    ``info`` has ``battle_won`` (the right action was taken, or the duel was won), ``dead_allies`` and ``dead_enemies``.

    Args:
        map_name: one of ``probe_tasks.MAPS``.
        n_envs: number of copies.
        shuffle_obs: True for a control without information. Observation and state show an unrelated situation, drawn
            at every step from all situations with the same action mask; mask, reward and dynamics stay true. No policy
            can then exceed ``blind_return``, and every prompt is still consistent with its mask.

    Raises:
        ConfigError: the map or a key is unknown.
    """

    def __init__(self, map_name: str, n_envs: int, shuffle_obs: bool = False, **unknown: Any) -> None:
        if unknown:
            raise ConfigError(
                f"env_args.{next(iter(unknown))} is unknown to env=probe, whose env_args are map_name, "
                "seed and shuffle_obs: remove it."
            )
        self._task = table(map_name)
        self.n_envs = n_envs
        self.n_agents = 1
        self.n_actions = self._task.available.shape[1]
        self.n_enemies = self.n_actions - ATTACK
        self.obs_size = self._task.obs.shape[1]
        self.state_size = self._task.state.shape[1]
        self.episode_limit = self._task.episode_limit
        self._shuffle_obs = shuffle_obs
        # Situations sorted by kind (same mask, decided or not), with start and length of each kind's run.
        decided = self._task.dead_enemies == self.n_enemies
        shared = np.column_stack([self._task.available, decided])
        kind = np.unique(shared, axis=0, return_inverse=True)[1]
        counts = np.bincount(kind)
        self._by_kind = np.argsort(kind, kind="stable")
        self._run_length = counts[kind]
        self._run_start = (np.cumsum(counts) - counts)[kind]

    def reset(self, seeds: np.ndarray) -> None:
        """Start one episode per copy; see ``VectorEnv.reset``."""
        assert seeds.shape == (self.n_envs,), seeds.shape
        self._key = _scramble(seeds.astype(np.uint64))
        self._situation = _below(self._key, self._task.n_starts)
        self._over = np.zeros(self.n_envs, dtype=bool)
        self._t = 0
        self._show()

    def step(self, actions: np.ndarray) -> Transition:
        """Step every copy: ``actions`` int64 ``[n_envs, 1]``."""
        action = np.asarray(actions)[:, 0]
        allowed = self._task.available[self._situation, action] == 1
        assert (allowed | self._over).all(), "an action was taken that avail_actions rules out"
        at = (self._situation, action)
        self._t += 1
        self._situation = self._task.after[at]
        terminated = self._over | self._task.over[at]
        truncated = ~terminated & (self._t >= self.episode_limit)
        self._over = terminated | truncated
        self._show()
        info = {
            "battle_won": self._task.won[at].astype(np.float32),
            "dead_allies": self._task.dead_allies[self._situation],
            "dead_enemies": self._task.dead_enemies[self._situation],
        }
        return Transition(self._task.reward[at], terminated, truncated, info)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _show(self) -> None:
        shown = self._situation
        if self._shuffle_obs:
            draw = _scramble(self._key + np.uint64(self._t + 1))
            shown = self._by_kind[self._run_start[shown] + _below(draw, self._run_length[shown])]
        self.obs = self._task.obs[shown][:, None]
        self.state = self._task.state[shown]
        self.avail_actions = self._task.available[self._situation][:, None]


def make_env(
    map_name: str,
    seed: int | None = None,
    common_reward: bool = True,
    reward_scalarisation: str = "sum",
    **env_args: Any,
) -> SingleEnv:
    """Build one battle for EPyMARL's runners. It has one agent, so ``reward_scalarisation`` has no effect.

    Raises:
        ConfigError: as ``ProbeVectorEnv``, and for ``common_reward=False``.
    """
    if not common_reward:
        raise ConfigError(
            "common_reward=False cannot be used with env=probe, whose team shares one reward: set common_reward=True."
        )
    return SingleEnv(ProbeVectorEnv(map_name, 1, **env_args), seed or 0)


def _scramble(numbers: np.ndarray) -> np.ndarray:
    """Hash each number with splitmix64, so that neighbouring numbers become unrelated: uint64 ``[n]`` -> ``[n]``."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _below(numbers: np.ndarray, limit: int | np.ndarray) -> np.ndarray:
    """Map scrambled numbers to uniform draws from ``range(limit)``: int64 ``[n]``."""
    return ((numbers >> np.uint64(32)) * np.asarray(limit, np.uint64) >> np.uint64(32)).astype(np.int64)
