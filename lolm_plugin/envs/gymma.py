"""Multi-agent tasks of Gymnasium and PettingZoo behind EPyMARL's interface, where EPyMARL's own ``gymma`` is not.

Keys, sizes, masks and rewards are as there.
"""

import importlib
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from lolm_plugin.envs.keyed_env import KeyedEnv
from lolm_plugin.errors import ConfigError

PETTING_ZOO = re.compile(r"pz-(\w+?)-([\w-]+)")  # pz-mpe-simple-spread-v3
ITS_OWN = ("key", "time_limit", "pretrained_wrapper", "seed")  # env_args that are not handed to the task


class GymmaEnv(KeyedEnv):
    """One task for the host's runners."""

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
                f"env_args.pretrained_wrapper={pretrained_wrapper} needs an EPyMARL checkout, whose wrapper it is: "
                "set it to null, or EPYMARL_HOME to a checkout."
            )
        if reward_scalarisation not in ("sum", "mean"):
            raise ConfigError(
                f"reward_scalarisation={reward_scalarisation} is not a choice; set it to one of: sum, mean."
            )
        self._task = _make(key, options)
        self._sum = {"sum": np.sum, "mean": np.mean}[reward_scalarisation] if common_reward else None
        self.n_agents = len(self._task.observation_spaces)
        self.episode_limit = time_limit
        self._size = max(map(_flatdim, self._task.observation_spaces))
        self._actions = [int(space.n) for space in self._task.action_spaces]
        self._first_actions = [int(space.start) for space in self._task.action_spaces]  # ours are counted from 0
        super().__init__(seed or 0)

    def _begin(self, seeds: np.ndarray) -> None:
        self._show(self._task.reset(int(seeds[0]) % 2**31))
        self._step = 0

    def step(self, actions: Sequence[int] | np.ndarray) -> tuple[list[np.ndarray], Any, bool, bool, dict[str, float]]:
        """One action per agent -> observations, reward (one, or ``[n_agents]``), terminated, truncated, info."""
        chosen = [int(action) + first for action, first in zip(actions, self._first_actions, strict=True)]
        seen, rewards, terminated, truncated, info = self._task.step(chosen)
        if any(own is not None for own in seen):  # no agent is left at some tasks' ends
            self._show(seen)
        self._step += 1
        reward = [float(reward) for reward in rewards]
        numbers = {
            name: float(value) for name, value in info.items() if np.isscalar(value) and not isinstance(value, str)
        }
        late = self._step >= self.episode_limit
        return (
            self.get_obs(),
            reward if self._sum is None else float(self._sum(reward)),
            terminated,
            truncated or late,
            numbers,
        )

    def get_obs(self) -> list[np.ndarray]:
        """Every agent's observation, float32 ``[obs_size]`` each."""
        return self._obs

    def get_obs_agent(self, agent_id: int) -> np.ndarray:
        """One agent's observation, float32 ``[obs_size]``."""
        return self._obs[agent_id]

    def get_obs_size(self) -> int:
        """Length of an agent's observation: the longest, zeros ending the others."""
        return self._size

    def get_state(self) -> np.ndarray:
        """All observations, one after the other: float32 ``[n_agents * obs_size]``."""
        return np.concatenate(self._obs)

    def get_state_size(self) -> int:
        """Length of the global state."""
        return self.n_agents * self._size

    def get_avail_actions(self) -> list[list[int]]:
        """Every agent's action mask; what an agent has fewer actions for than others is not available."""
        return [self.get_avail_agent_actions(agent) for agent in range(self.n_agents)]

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        """Return one agent's action mask. An agent that has left the task has only action 0, which is not sent."""
        known = self._actions[agent_id] if self._present[agent_id] else 1
        return [int(action < known) for action in range(self.get_total_actions())]

    def get_total_actions(self) -> int:
        """Number of actions an agent can ever take."""
        return max(self._actions)

    def get_env_info(self) -> dict[str, int]:
        """The sizes a runner asks for before it builds its buffers."""
        return {
            "state_shape": self.get_state_size(),
            "obs_shape": self._size,
            "n_actions": self.get_total_actions(),
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def close(self) -> None:
        """Close the task."""
        self._task.close()

    def _show(self, seen: Sequence[Any]) -> None:
        """Keep what each agent observes; None for one that has left, which sees zeros from now on."""
        flatten = importlib.import_module("gymnasium.spaces").flatten
        self._present = [own is not None for own in seen]
        flat = [
            np.zeros(0, np.float32) if own is None else np.asarray(flatten(space, own), np.float32)
            for space, own in zip(self._task.observation_spaces, seen, strict=True)
        ]
        self._obs = [np.pad(own, (0, self._size - len(own))) for own in flat]


class _Gymnasium:
    """A Gymnasium environment with a tuple of spaces, one an agent."""

    def __init__(self, key: str, options: Mapping[str, Any]) -> None:
        gymnasium = importlib.import_module("gymnasium")
        # EPyMARL's TimeLimit is ours; Gymnasium's checker knows nothing of several agents.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._env = gymnasium.make(key, disable_env_checker=True, **options)
        spaces = (self._env.observation_space, self._env.action_space)
        if not all(type(space).__name__ == "Tuple" for space in spaces):
            self.close()
            raise ConfigError(
                f"env_args.key={key} has one agent: gymma plays tasks with a tuple of spaces, one an agent, such as "
                "lbforaging:Foraging-8x8-2p-3f-v3."
            )
        self.observation_spaces, self.action_spaces = (list(space.spaces) for space in spaces)

    def reset(self, seed: int) -> Sequence[Any]:
        return self._env.reset(seed=seed)[0]

    def step(self, actions: list[int]) -> tuple[Sequence[Any], Sequence[float], bool, bool, Mapping[str, Any]]:
        seen, rewards, terminated, truncated, info = self._env.step(actions)
        rewards = rewards if isinstance(rewards, Sequence | np.ndarray) else [rewards / len(actions)] * len(actions)
        return seen, rewards, bool(np.all(terminated)), bool(np.all(truncated)), info

    def close(self) -> None:
        self._env.close()


class _PettingZoo:
    """A PettingZoo environment whose agents act at once; those that leave early stay as agents without a choice."""

    def __init__(self, module: str, options: Mapping[str, Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._env = importlib.import_module(module).parallel_env(**options)
        self._agents = list(self._env.possible_agents)
        self.observation_spaces = [self._env.observation_space(agent) for agent in self._agents]
        self.action_spaces = [self._env.action_space(agent) for agent in self._agents]

    def reset(self, seed: int) -> Sequence[Any]:
        seen, _ = self._env.reset(seed=seed)
        return [seen.get(agent) for agent in self._agents]

    def step(self, actions: list[int]) -> tuple[Sequence[Any], Sequence[float], bool, bool, Mapping[str, Any]]:
        chosen = dict(zip(self._agents, actions, strict=True))
        acting = list(self._env.agents)
        seen, rewards, terminated, truncated, infos = self._env.step({agent: chosen[agent] for agent in acting})
        over = all(terminated.get(agent) or truncated.get(agent) for agent in acting) or not self._env.agents
        cut = over and any(truncated.get(agent) and not terminated.get(agent) for agent in acting)
        info = {f"{agent}_{name}": value for agent, own in infos.items() for name, value in own.items()}
        # An agent that leaves is shown once more; at the end that is the state that bootstrapping looks at.
        shown = [seen.get(agent) if over or agent in self._env.agents else None for agent in self._agents]
        return shown, [float(rewards.get(agent, 0.0)) for agent in self._agents], over and not cut, cut, info

    def close(self) -> None:
        self._env.close()


def make_env(**env_args: Any) -> GymmaEnv:
    """A task for the bundled host's runners."""
    return GymmaEnv(**env_args)


def sizes(env_args: Mapping[str, Any]) -> tuple[int, int]:
    """How many agents and actions a task has."""
    spaces = _spaces(_key(env_args), _options(env_args))
    return len(spaces[0]), max(int(space.n) for space in spaces[1])


def observation_space(env_args: Mapping[str, Any]) -> Any:
    """The observation space of an agent, the longest if they differ."""
    return max(_spaces(_key(env_args), _options(env_args))[0], key=_flatdim)


def _key(env_args: Mapping[str, Any]) -> str:
    if not env_args.get("key"):
        raise ConfigError(
            "env_args.key is missing, by which env=gymma knows its tasks: set it to one such as "
            "lbforaging:Foraging-8x8-2p-3f-v3."
        )
    return str(env_args["key"])


def _options(env_args: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((name, value) for name, value in env_args.items() if name not in ITS_OWN))


@lru_cache(maxsize=8)
def _spaces(key: str, options: tuple[tuple[str, Any], ...]) -> tuple[list[Any], list[Any]]:
    task = _make(key, dict(options))
    task.close()
    return task.observation_spaces, task.action_spaces


def _make(key: str, options: Mapping[str, Any]) -> Any:
    """The task behind a key; ConfigError if there is none, or a package is missing."""
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
            raise ConfigError(f"env_args.key={key} is no task of PettingZoo's: change the key.") from error
        raise ConfigError(
            f"env_args.key={key} needs the Python package {missing}, which is not installed: "
            "pip install 'lolm_plugin[gymma]' brings level-based foraging, the warehouse and MPE; others come apart."
        ) from error
    except Exception as error:  # whatever a task objects to
        raise ConfigError(
            f"env_args.key={key} cannot be made ({type(error).__name__}: {error}); change the key."
        ) from error
    if not all(type(space).__name__ == "Discrete" for space in task.action_spaces):
        task.close()
        raise ConfigError(
            f"env_args.key={key} has actions that are no plain numbers: set it to a task with Discrete ones."
        )
    for space in task.observation_spaces:
        try:
            _flatdim(space)
        except (NotImplementedError, ValueError, TypeError) as error:
            task.close()
            raise ConfigError(
                f"env_args.key={key} has observations of no fixed size ({space}), where a policy needs as many numbers "
                "in every step: set it to a task with spaces such as Box, Discrete or a Dict of these."
            ) from error
    return task


def _flatdim(space: Any) -> int:
    return importlib.import_module("gymnasium.spaces").flatdim(space)
