"""What our environments for EPyMARL's own runners have in common."""

from typing import Any

import numpy as np

from lolm_plugin.errors import ConfigError
from lolm_plugin.randomness import keyed_seeds


class KeyedEnv:
    """EPyMARL's ``MultiAgentEnv``; episode ``i`` is drawn from ``(seed, i)`` alone.

    ``episode`` is the number of the one the next reset starts; set it to go on where another run stopped.
    """

    def __init__(self, seed: int) -> None:
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Go to episode 0 of another seed."""
        self._seed = seed
        self.episode = 0

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[list[np.ndarray], dict]:
        """Start the next episode; returns each agent's observation ``[obs_size]`` and an empty info."""
        if seed is not None:
            self.seed(seed)
        self._begin(keyed_seeds(self._seed, "episode", self.episode, count=1))
        self.episode += 1
        return self.get_obs(), {}

    def _begin(self, seeds: np.ndarray) -> None:
        """Start an episode that follows from its seed: uint32 ``[1]``."""
        raise NotImplementedError

    def get_obs(self) -> list[np.ndarray]:
        """Every agent's observation, float32 ``[obs_size]`` each."""
        raise NotImplementedError

    def get_stats(self) -> dict[str, float]:
        """Nothing beyond each episode's info."""
        return {}

    def render(self) -> None:
        """Draw nothing: an exception here would hang EPyMARL's parallel runner for ever."""

    def save_replay(self) -> None:
        """Refused, since no replay is kept."""
        raise ConfigError("save_replay=True cannot be used because this env records no replay: set it to False.")
