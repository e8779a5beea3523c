"""The two interfaces of our environments: many copies stepped at once, and EPyMARL's one environment."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from lolm_plugin.errors import ConfigError
from lolm_plugin.randomness import keyed_seeds


class Transition(NamedTuple):
    """Results of one step of every copy. An episode is over once it is terminated or truncated."""

    reward: np.ndarray  # float32 [n_envs], shared by the team
    terminated: np.ndarray  # bool [n_envs]: ended by the rules
    truncated: np.ndarray  # bool [n_envs]: cut off by the time limit, so never terminated as well
    info: dict[str, np.ndarray]  # name -> float [n_envs]; read at the last step of an episode

    @property
    def over(self) -> np.ndarray:
        """Whether the episode of each copy is over: bool ``[n_envs]``."""
        return self.terminated | self.truncated


class VectorEnv(Protocol):
    """``n_envs`` copies of one battle, stepped together.

    Actions follow SMAC: 0 no-op (the dead only), 1 stop, 2 north, 3 south, 4 east, 5 west, 6+j attack enemy j.
    ``reset`` and ``step`` replace the three arrays of what the agents see and never write into them.
    """

    n_envs: int
    n_agents: int
    n_enemies: int
    n_actions: int
    obs_size: int
    state_size: int
    episode_limit: int

    obs: np.ndarray  # float32 [n_envs, n_agents, obs_size]
    state: np.ndarray  # float32 [n_envs, state_size]
    avail_actions: np.ndarray  # int32 [n_envs, n_agents, n_actions]

    def reset(self, seeds: np.ndarray) -> None:
        """Start one new episode per copy, each fully determined by its seed: uint32 ``[n_envs]``."""
        ...

    def step(self, actions: np.ndarray) -> Transition:
        """Take int64 ``[n_envs, n_agents]``; results of a copy whose episode is over are meaningless."""
        ...

    def close(self) -> None:
        """Release what the copies hold."""
        ...


def env_info(env: VectorEnv) -> dict[str, int]:
    """Return the sizes that EPyMARL asks a runner or an environment for before it builds its buffers."""
    return {
        "state_shape": env.state_size,
        "obs_shape": env.obs_size,
        "n_actions": env.n_actions,
        "n_agents": env.n_agents,
        "episode_limit": env.episode_limit,
    }


class KeyedEnv:
    """EPyMARL's ``MultiAgentEnv``, whose episode ``i`` is drawn from ``(seed, i)`` alone.

    ``episode`` is the number of the episode that the next reset starts; set it to continue another run's episodes.
    """

    n_agents: int
    episode_limit: int

    def __init__(self, seed: int) -> None:
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Go to episode 0 of another seed."""
        self._seed = seed
        self.episode = 0

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[list[np.ndarray], dict]:
        """Start the next episode; return each agent's observation ``[obs_size]`` and an empty info."""
        if seed is not None:
            self.seed(seed)
        self._begin(keyed_seeds(self._seed, "episode", self.episode, count=1))
        self.episode += 1
        return self.get_obs(), {}

    def _begin(self, seeds: np.ndarray) -> None:
        """Start the episode of a seed: uint32 ``[1]``."""
        raise NotImplementedError

    def get_obs(self) -> list[np.ndarray]:
        """Return every agent's observation, float32 ``[obs_size]`` each."""
        raise NotImplementedError

    def get_state(self) -> np.ndarray:
        """Return the global state, float32 ``[state_size]``."""
        raise NotImplementedError

    def get_avail_actions(self) -> list[Any]:
        """Return every agent's action mask, ``[n_actions]`` each."""
        raise NotImplementedError

    def get_env_info(self) -> dict[str, int]:
        """Return the sizes that a runner asks for before it builds its buffers."""
        raise NotImplementedError

    def get_obs_agent(self, agent_id: int) -> np.ndarray:
        """Return one agent's observation."""
        return self.get_obs()[agent_id]

    def get_avail_agent_actions(self, agent_id: int) -> Any:
        """Return one agent's action mask."""
        return self.get_avail_actions()[agent_id]

    def get_obs_size(self) -> int:
        """Return the length of an agent's observation."""
        return self.get_env_info()["obs_shape"]

    def get_state_size(self) -> int:
        """Return the length of the global state."""
        return self.get_env_info()["state_shape"]

    def get_total_actions(self) -> int:
        """Return the number of actions that an agent can ever take."""
        return self.get_env_info()["n_actions"]

    def get_stats(self) -> dict[str, float]:
        """Return no statistics beyond each episode's info."""
        return {}

    def render(self) -> None:
        """Draw nothing: an exception here would hang EPyMARL's parallel runner for ever."""

    def save_replay(self) -> None:
        """Refuse, since no replay is kept."""
        raise ConfigError("save_replay=True cannot be used because this env records no replay: set it to False.")


class SingleEnv(KeyedEnv):
    """One copy of a ``VectorEnv`` as EPyMARL's ``MultiAgentEnv``."""

    def __init__(self, vector_env: VectorEnv, seed: int) -> None:
        assert vector_env.n_envs == 1, vector_env.n_envs
        self.vector_env = vector_env
        self.n_agents = vector_env.n_agents
        self.episode_limit = vector_env.episode_limit
        super().__init__(seed)

    def _begin(self, seeds: np.ndarray) -> None:
        self.vector_env.reset(seeds)

    def step(self, actions: Sequence[int] | np.ndarray) -> tuple[list[np.ndarray], float, bool, bool, dict[str, float]]:
        """Take one action per agent (``[n_agents]``, also a tensor).

        Returns observations, the team's reward, terminated, truncated (by the time limit) and info.
        """
        transition = self.vector_env.step(np.array([[int(action) for action in actions]], dtype=np.int64))
        info = {name: float(value[0]) for name, value in transition.info.items()}
        terminated, truncated = bool(transition.terminated[0]), bool(transition.truncated[0])
        return self.get_obs(), float(transition.reward[0]), terminated, truncated, info

    def get_obs(self) -> list[np.ndarray]:
        """Return every agent's observation, float32 ``[obs_size]`` each."""
        return list(self.vector_env.obs[0])

    def get_state(self) -> np.ndarray:
        """Return the global state, float32 ``[state_size]``."""
        return self.vector_env.state[0]

    def get_avail_actions(self) -> list[np.ndarray]:
        """Return every agent's action mask, int32 ``[n_actions]`` each."""
        return list(self.vector_env.avail_actions[0])

    def get_env_info(self) -> dict[str, int]:
        """Return the sizes that a runner asks for before it builds its buffers."""
        return env_info(self.vector_env)

    def close(self) -> None:
        """Close the copy."""
        self.vector_env.close()
