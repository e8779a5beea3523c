"""The two interfaces of an environment: many copies stepped at once, and EPyMARL's single environment."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from lolm_plugin.errors import ConfigError
from lolm_plugin.randomness import keyed_seeds


class Transition(NamedTuple):
    """Results of one step of every copy. An episode is over if it is terminated or truncated."""

    reward: np.ndarray  # float32 [n_envs], shared by the team
    terminated: np.ndarray  # bool [n_envs]: ended by the rules
    truncated: np.ndarray  # bool [n_envs]: cut off by the time limit; never True together with terminated
    info: dict[str, np.ndarray]  # name -> float [n_envs]; used at the last step of an episode only

    @property
    def over(self) -> np.ndarray:
        """Return True for each copy whose episode is over: bool ``[n_envs]``."""
        return self.terminated | self.truncated


class VectorEnv(Protocol):
    """``n_envs`` copies of one battle, stepped together by the ``vector`` runner.

    Actions follow SMAC: 0 no-op (dead agents only), 1 stop, 2 north, 3 south, 4 east, 5 west, 6+j attack enemy j.
    ``reset`` and ``step`` replace ``obs``, ``state`` and ``avail_actions`` by new arrays and never modify old ones. The
    constructor takes ``n_envs`` and the ``env_args`` except ``seed``. Register it as ``vector`` of ``registry.Env``.

    Four battles of one decision, with an arbitrary available action in each:

    >>> from lolm_plugin.envs.probe import ProbeVectorEnv
    >>> env = ProbeVectorEnv("retreat", n_envs=4)
    >>> env.reset(np.arange(4, dtype=np.uint32))
    >>> transition = env.step(env.avail_actions.argmax(-1))
    >>> transition.over.tolist()
    [True, True, True, True]
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
        """Start one new episode per copy. Each is fully determined by its seed: uint32 ``[n_envs]``."""
        ...

    def step(self, actions: np.ndarray) -> Transition:
        """Step every copy with int64 actions ``[n_envs, n_agents]``.

        Results of a copy whose episode was already over are meaningless.
        """
        ...

    def close(self) -> None:
        """Release the resources of all copies."""
        ...


def env_info(env: VectorEnv) -> dict[str, int]:
    """Return the sizes from which EPyMARL builds its buffers."""
    return {
        "state_shape": env.state_size,
        "obs_shape": env.obs_size,
        "n_actions": env.n_actions,
        "n_agents": env.n_agents,
        "episode_limit": env.episode_limit,
    }


class KeyedEnv:
    """Base class for EPyMARL's ``MultiAgentEnv`` interface. Episode ``i`` depends on ``(seed, i)`` only.

    ``episode`` is the number of the episode that the next reset starts. Set it to continue another run's episodes. A
    subclass implements the methods that raise NotImplementedError, ``step`` (see ``SingleEnv.step``) and ``close``.
    This base class is optional: the environment of ``examples/add_an_env`` is a single file without it.
    """

    n_agents: int
    episode_limit: int

    def __init__(self, seed: int) -> None:
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Set the seed, and continue with episode 0."""
        self._seed = seed
        self.episode = 0

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[list[np.ndarray], dict]:
        """Start the next episode. Return each agent's observation ``[obs_size]`` and an empty info."""
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
        """Return ``state_shape obs_shape n_actions n_agents episode_limit``, as ``env_info``."""
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
        """Return the number of actions."""
        return self.get_env_info()["n_actions"]

    def get_stats(self) -> dict[str, float]:
        """Return an empty dict: all statistics are in an episode's info."""
        return {}

    def render(self) -> None:
        """Do nothing: an exception here would block EPyMARL's parallel runner forever."""

    def save_replay(self) -> None:
        """Raise ConfigError: no replay is recorded."""
        raise ConfigError("save_replay=True cannot be used because this env records no replay: set it to False.")


class SingleEnv(KeyedEnv):
    """Adapter from a ``VectorEnv`` with one copy to EPyMARL's ``MultiAgentEnv``."""

    def __init__(self, vector_env: VectorEnv, seed: int) -> None:
        assert vector_env.n_envs == 1, vector_env.n_envs
        self.vector_env = vector_env
        self.n_agents = vector_env.n_agents
        self.episode_limit = vector_env.episode_limit
        super().__init__(seed)

    def _begin(self, seeds: np.ndarray) -> None:
        self.vector_env.reset(seeds)

    def step(self, actions: Sequence[int] | np.ndarray) -> tuple[list[np.ndarray], float, bool, bool, dict[str, float]]:
        """Execute one action per agent: ``[n_agents]``, a sequence, array or tensor.

        Returns:
            Observations, the team's reward, terminated, truncated (by the time limit), and info.
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
        """Return ``state_shape obs_shape n_actions n_agents episode_limit``."""
        return env_info(self.vector_env)

    def close(self) -> None:
        """Close the copy."""
        self.vector_env.close()
