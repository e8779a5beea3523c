"""One copy of a vector environment, behind the interface EPyMARL's own runners speak."""

from collections.abc import Sequence

import numpy as np

from lolm_plugin.envs.keyed_env import KeyedEnv
from lolm_plugin.envs.vector_env import VectorEnv, env_info


class SingleEnv(KeyedEnv):
    """EPyMARL's ``MultiAgentEnv`` around a ``VectorEnv`` of one copy."""

    def __init__(self, vector_env: VectorEnv, seed: int) -> None:
        assert vector_env.n_envs == 1, vector_env.n_envs
        self.vector_env = vector_env
        self.n_agents = vector_env.n_agents
        self.episode_limit = vector_env.episode_limit
        super().__init__(seed)

    def _begin(self, seeds: np.ndarray) -> None:
        self.vector_env.reset(seeds)

    def step(self, actions: Sequence[int] | np.ndarray) -> tuple[list[np.ndarray], float, bool, bool, dict[str, float]]:
        """Take one action per agent (``[n_agents]``, a tensor as well).

        Returns observations, the team's reward, terminated, truncated (by the time limit) and info.
        """
        transition = self.vector_env.step(np.array([[int(action) for action in actions]], dtype=np.int64))
        info = {name: float(value[0]) for name, value in transition.info.items()}
        terminated, truncated = bool(transition.terminated[0]), bool(transition.truncated[0])
        return self.get_obs(), float(transition.reward[0]), terminated, truncated, info

    def get_obs(self) -> list[np.ndarray]:
        """Every agent's observation, float32 ``[obs_size]`` each."""
        return list(self.vector_env.obs[0])

    def get_obs_agent(self, agent_id: int) -> np.ndarray:
        """One agent's observation, float32 ``[obs_size]``."""
        return self.vector_env.obs[0, agent_id]

    def get_obs_size(self) -> int:
        """Length of an agent's observation."""
        return self.vector_env.obs_size

    def get_state(self) -> np.ndarray:
        """The global state, float32 ``[state_size]``."""
        return self.vector_env.state[0]

    def get_state_size(self) -> int:
        """Length of the global state."""
        return self.vector_env.state_size

    def get_avail_actions(self) -> list[np.ndarray]:
        """Every agent's action mask, int32 ``[n_actions]`` each."""
        return list(self.vector_env.avail_actions[0])

    def get_avail_agent_actions(self, agent_id: int) -> np.ndarray:
        """One agent's action mask, int32 ``[n_actions]``."""
        return self.vector_env.avail_actions[0, agent_id]

    def get_total_actions(self) -> int:
        """Number of actions an agent can ever take."""
        return self.vector_env.n_actions

    def get_env_info(self) -> dict[str, int]:
        """The sizes a runner asks for before it builds its buffers."""
        return env_info(self.vector_env)

    def close(self) -> None:
        """Close the copy."""
        self.vector_env.close()
