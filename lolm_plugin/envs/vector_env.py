"""What an environment that steps many copies at once looks like: numpy in, numpy out."""

from typing import NamedTuple, Protocol

import numpy as np


class Transition(NamedTuple):
    """Results of one step of every copy. An episode is over once it is terminated or truncated."""

    reward: np.ndarray  # float32 [n_envs], shared by the team
    terminated: np.ndarray  # bool [n_envs]: ended by the rules
    truncated: np.ndarray  # bool [n_envs]: cut off by the time limit, so never terminated as well
    info: dict[str, np.ndarray]  # name -> float [n_envs]; read at the last step of an episode

    @property
    def over(self) -> np.ndarray:
        """Return whether the episode of each copy is over: bool ``[n_envs]``."""
        return self.terminated | self.truncated


class VectorEnv(Protocol):
    """``n_envs`` copies of one battle, stepped together.

    Actions follow SMAC: 0 no-op (the dead only), 1 stop, 2 north, 3 south, 4 east, 5 west, 6+j attack
    enemy j. What the agents see is kept in the three array attributes, replaced by reset and step and
    never written to, so that they may be kept.
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
        """Take int64 ``[n_envs, n_agents]``; what a copy returns after its end means nothing."""
        ...

    def close(self) -> None:
        """Release what the copies hold."""
        ...


def env_info(env: VectorEnv) -> dict[str, int]:
    """The sizes EPyMARL asks a runner or an environment for before it builds its buffers."""
    return {
        "state_shape": env.state_size,
        "obs_shape": env.obs_size,
        "n_actions": env.n_actions,
        "n_agents": env.n_agents,
        "episode_limit": env.episode_limit,
    }
