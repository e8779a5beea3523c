"""Multi-agent tasks of Gymnasium and PettingZoo with EPyMARL's interface, for the bundled host.

Keys, sizes, masks and rewards equal those of EPyMARL's ``gymma``.
"""

import importlib
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from lolm_plugin.envs.base import KeyedEnv
from lolm_plugin.errors import ConfigError

PETTING_ZOO = re.compile(r"pz-(\w+?)-([\w-]+)")  # pz-mpe-simple-spread-v3
OWN_ARGUMENTS = ("key", "time_limit", "pretrained_wrapper", "seed")  # env_args that are not passed to the task
SCALARISATIONS = {"sum": np.sum, "mean": np.mean}

# Observations (None for an agent that has left), rewards, terminated, truncated, info.
Step = tuple[Sequence[Any], Sequence[float], bool, bool, Mapping[str, Any]]


class GymmaEnv(KeyedEnv):
    """One task of Gymnasium or PettingZoo, for the bundled host's runners.

    Args:
        key: the task, such as ``lbforaging:Foraging-8x8-2p-3f-v3`` or ``pz-mpe-simple-spread-v3``.
        time_limit: longest episode, in environment steps.
        seed: seed of all episodes; None: 0.
        pretrained_wrapper: must be empty; only EPyMARL has such wrappers.
        common_reward: True for one reward of the team, False for one per agent.
        reward_scalarisation: ``sum`` or ``mean`` of the agents' rewards, with ``common_reward``.
        options: passed to the task.

    Raises:
        ConfigError: there is no such task, a package is missing, or a setting cannot be used.
    """

    def __init__(
        self,
        key: str,
        time_limit: int,
        seed: int | None = None,
        pretrained_wrapper: str | None = None,
        common_reward: bool = True,
        reward_scalarisation: str = "sum",
        **options: Any,
    ) -> None:
        if pretrained_wrapper:
            raise ConfigError(
                f"env_args.pretrained_wrapper={pretrained_wrapper} needs an EPyMARL checkout, which has this wrapper: "
                "set it to null, or EPYMARL_HOME to a checkout."
            )
        if reward_scalarisation not in SCALARISATIONS:
            raise ConfigError(
                f"reward_scalarisation={reward_scalarisation} is not a choice; set it to one of: sum, mean."
            )
        self._task = _make(key, options)
        self._scalarise: Any = SCALARISATIONS[reward_scalarisation] if common_reward else None
        self.n_agents = len(self._task.observation_spaces)
        self.episode_limit = time_limit
        self._obs_size = max(map(_flatdim, self._task.observation_spaces))
        self._counts = [int(space.n) for space in self._task.action_spaces]  # actions of each agent
        self._first_actions = [int(space.start) for space in self._task.action_spaces]  # agents count from 0
        super().__init__(seed or 0)

    def _begin(self, seeds: np.ndarray) -> None:
        self._show(self._task.reset(int(seeds[0]) % 2**31))
        self._step = 0

    def step(self, actions: Sequence[int] | np.ndarray) -> tuple[list[np.ndarray], Any, bool, bool, dict[str, float]]:
        """Execute one action per agent.

        Returns:
            Observations, the reward (a number, or a list ``[n_agents]``), terminated, truncated and info.
        """
        chosen = [int(action) + first for action, first in zip(actions, self._first_actions, strict=True)]
        observations, rewards, terminated, truncated, info = self._task.step(chosen)
        if any(one is not None for one in observations):  # at the end of some tasks no agent is left
            self._show(observations)
        self._step += 1
        reward = [float(one) for one in rewards]
        numbers: dict[str, Any] = {name: value for name, value in info.items() if np.isscalar(value)}
        return (
            self.get_obs(),
            reward if self._scalarise is None else float(self._scalarise(reward)),
            terminated,
            truncated or self._step >= self.episode_limit,
            {name: float(value) for name, value in numbers.items() if not isinstance(value, str)},
        )

    def get_obs(self) -> list[np.ndarray]:
        """Return every agent's observation, float32 ``[obs_size]`` each; shorter ones are padded with zeros."""
        return self._obs

    def get_state(self) -> np.ndarray:
        """Return all observations, concatenated: float32 ``[n_agents * obs_size]``."""
        return np.concatenate(self._obs)

    def get_avail_actions(self) -> list[list[int]]:
        """Return every agent's action mask. An agent that has left has only action 0, which the task never receives."""
        counts = [count if present else 1 for count, present in zip(self._counts, self._present, strict=True)]
        return [[int(action < count) for action in range(max(self._counts))] for count in counts]

    def get_env_info(self) -> dict[str, int]:
        """Return ``state_shape obs_shape n_actions n_agents episode_limit``."""
        return {
            "state_shape": self.n_agents * self._obs_size,
            "obs_shape": self._obs_size,
            "n_actions": max(self._counts),
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def close(self) -> None:
        """Close the task."""
        self._task.close()

    def _show(self, observations: Sequence[Any]) -> None:
        """Store each agent's observation, flat and padded; zeros for an agent that has left (None)."""
        flatten = importlib.import_module("gymnasium.spaces").flatten
        self._present = [one is not None for one in observations]
        flat = [
            np.zeros(0, np.float32) if one is None else np.asarray(flatten(space, one), np.float32)
            for space, one in zip(self._task.observation_spaces, observations, strict=True)
        ]
        self._obs = [np.pad(one, (0, self._obs_size - len(one))) for one in flat]


class _Gymnasium:
    """A Gymnasium environment with a tuple of spaces, one per agent."""

    def __init__(self, key: str, options: Mapping[str, Any]) -> None:
        gymnasium = importlib.import_module("gymnasium")
        # ``GymmaEnv`` applies the time limit. Gymnasium's checker does not support several agents.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._env = gymnasium.make(key, disable_env_checker=True, **options)
        spaces = (self._env.observation_space, self._env.action_space)
        if not all(type(space).__name__ == "Tuple" for space in spaces):
            self.close()
            raise ConfigError(
                f"env_args.key={key} has one agent, but env=gymma needs a tuple of spaces, one per agent: set it to a "
                "multi-agent task such as lbforaging:Foraging-8x8-2p-3f-v3."
            )
        self.observation_spaces, self.action_spaces = (list(space.spaces) for space in spaces)

    def reset(self, seed: int) -> Sequence[Any]:
        return self._env.reset(seed=seed)[0]

    def step(self, actions: list[int]) -> Step:
        observations, rewards, terminated, truncated, info = self._env.step(actions)
        if not isinstance(rewards, Sequence | np.ndarray):
            rewards = [rewards / len(actions)] * len(actions)
        return observations, list(rewards), bool(np.all(terminated)), bool(np.all(truncated)), info

    def close(self) -> None:
        self._env.close()


class _PettingZoo:
    """A PettingZoo environment whose agents act at once. Agents that leave early stay, without a choice."""

    def __init__(self, module: str, options: Mapping[str, Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._env = importlib.import_module(module).parallel_env(**options)
        self._agents = list(self._env.possible_agents)
        self.observation_spaces = [self._env.observation_space(agent) for agent in self._agents]
        self.action_spaces = [self._env.action_space(agent) for agent in self._agents]

    def reset(self, seed: int) -> Sequence[Any]:
        observations, _ = self._env.reset(seed=seed)
        return [observations.get(agent) for agent in self._agents]

    def step(self, actions: list[int]) -> Step:
        chosen = dict(zip(self._agents, actions, strict=True))
        acting = list(self._env.agents)
        observations, rewards, terminated, truncated, infos = self._env.step({agent: chosen[agent] for agent in acting})
        over = all(terminated.get(agent) or truncated.get(agent) for agent in acting) or not self._env.agents
        cut = over and any(truncated.get(agent) and not terminated.get(agent) for agent in acting)
        info = {f"{agent}_{name}": value for agent, one in infos.items() for name, value in one.items()}
        # An agent that leaves is shown once more; at the end that is the state from which values are bootstrapped.
        shown = [observations.get(agent) if over or agent in self._env.agents else None for agent in self._agents]
        return shown, [float(rewards.get(agent, 0.0)) for agent in self._agents], over and not cut, cut, info

    def close(self) -> None:
        self._env.close()


def make_env(**env_args: Any) -> GymmaEnv:
    """Build a task for the bundled host's runners; see ``GymmaEnv``."""
    return GymmaEnv(**env_args)


def sizes(env_args: Mapping[str, Any]) -> tuple[int, int]:
    """Return a task's numbers of agents and actions. Raises ConfigError as ``GymmaEnv``."""
    observation_spaces, action_spaces = _spaces(env_args)
    return len(observation_spaces), max(int(space.n) for space in action_spaces)


def observation_space(env_args: Mapping[str, Any]) -> Any:
    """Return an agent's observation space; if they differ, the one with the largest flat size."""
    return max(_spaces(env_args)[0], key=_flatdim)


def _spaces(env_args: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    if not env_args.get("key"):
        raise ConfigError(
            "env_args.key is missing, so env=gymma has no task: set it to one such as lbforaging:Foraging-8x8-2p-3f-v3."
        )
    options = sorted((name, value) for name, value in env_args.items() if name not in OWN_ARGUMENTS)
    return _spaces_of(str(env_args["key"]), tuple(options))


@lru_cache(maxsize=8)
def _spaces_of(key: str, options: tuple[tuple[str, Any], ...]) -> tuple[list[Any], list[Any]]:
    task = _make(key, dict(options))
    task.close()
    return task.observation_spaces, task.action_spaces


def _make(key: str, options: Mapping[str, Any]) -> _Gymnasium | _PettingZoo:
    """Build the task of a key. Raises ConfigError if it does not exist, a package is missing, or it is unsupported."""
    zoo = PETTING_ZOO.fullmatch(key)
    try:
        task = (
            _PettingZoo(f"pettingzoo.{zoo[1]}.{zoo[2].replace('-', '_')}", options) if zoo else _Gymnasium(key, options)
        )
    except ConfigError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or key.split(":")[0]
        if missing.startswith("pettingzoo."):
            raise ConfigError(f"env_args.key={key} is not a task of PettingZoo: change the key.") from error
        raise ConfigError(
            f"env_args.key={key} needs the Python package {missing}, which is not installed: "
            "pip install 'lolm_plugin[gymma]' installs level-based foraging, the warehouse and MPE, but no other tasks."
        ) from error
    except Exception as error:  # a task may raise any exception
        raise ConfigError(
            f"env_args.key={key} cannot be made ({type(error).__name__}: {error}); change the key."
        ) from error
    try:
        _check_spaces(key, task)
    except ConfigError:
        task.close()
        raise
    return task


def _check_spaces(key: str, task: _Gymnasium | _PettingZoo) -> None:
    if not all(type(space).__name__ == "Discrete" for space in task.action_spaces):
        raise ConfigError(
            f"env_args.key={key} has actions that are not Discrete: set it to a task with Discrete action spaces."
        )
    for space in task.observation_spaces:
        try:
            _flatdim(space)
        except (NotImplementedError, ValueError, TypeError) as error:
            raise ConfigError(
                f"env_args.key={key} has observations without a fixed size ({space}), but a policy needs equally "
                "many numbers in every step: set it to a task with spaces such as Box, Discrete or a Dict of these."
            ) from error


def _flatdim(space: Any) -> int:
    return importlib.import_module("gymnasium.spaces").flatdim(space)
