"""Marines against one zealot on an open field: a minimal environment in one file.

The zealot walks to the nearest marine and hits it. Marines shoot it from up to 6 cells away. The best tactic: the
attacked marine runs away while the others shoot.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.battle import BattleLayout, Layouts
from lolm_plugin.observations.layout import N_BASE_ACTIONS, StateLayout, contiguous
from lolm_plugin.observations.units import index

MARINES = {"pair": 2, "squad": 3}  # map name -> number of marines
FIELD, SIGHT, RANGE, REACH = 16.0, 9.0, 6.0, 1.0  # cells
SHOT, BLOW = 0.1, 0.4  # health taken by one marine's shot and by the zealot's
LIMIT = 30  # env steps
NO_OP, STOP = 0, 1
MOVES = {2: (0, 1), 3: (0, -1), 4: (1, 0), 5: (-1, 0)}  # north, south, east, west; one cell


def sizes(env_args: Mapping[str, Any]) -> tuple[int, int]:
    """Return a map's numbers of agents and actions, without building it.

    Args:
        env_args: the section ``env_args`` of the configuration.

    Raises:
        ConfigError: the map is unknown.
    """
    if env_args["map_name"] not in MARINES:
        known = ", ".join(MARINES)
        raise ConfigError(
            f"env_args.map_name={env_args['map_name']} is not a map of env=skirmish; set it to one of: {known}."
        )
    return MARINES[env_args["map_name"]], N_BASE_ACTIONS + 1


def layouts(env_args: Mapping[str, Any], n_agents: int, n_actions: int, options: Mapping[str, Any]) -> Layouts:
    """Describe each number of observation and state. SMAC's order makes prompts, critic and checks work unchanged.

    Args:
        env_args: the section ``env_args`` of the configuration.
        n_agents: number of agents, as ``sizes`` returned it.
        n_actions: number of actions, as ``sizes`` returned it.
        options: the section ``layout`` of the configuration.

    Returns:
        The layouts of an agent's observation and of the global state.
    """
    marine, zealot = index("marine"), index("zealot")
    relative = ("dist", "dx", "dy", "health")
    enemies, allies, own = contiguous(
        4,
        (1, ("can_target", *relative), (), zealot),
        (n_agents - 1, ("visible", *relative), (), marine),
        (1, ("health", "x", "y"), (), marine),
    )
    absolute = ("health", "x", "y")
    state_allies, state_enemies = contiguous(0, (n_agents, absolute, (), marine), (1, absolute, (), zealot))
    blocks = {"enemies": enemies, "allies": allies, "own": own}
    observation = BattleLayout("skirmish", env_args["map_name"], **blocks, sight=SIGHT, shoot_range=RANGE)
    return Layouts(observation, StateLayout(state_allies, state_enemies))


class Skirmish:
    """An environment with EPyMARL's interface. Each battle depends only on ``(seed, number of the battle)``.

    Args:
        map_name: a key of ``MARINES``.
        seed: seed of all battles.
        common_reward: passed by every runner; not used, because the marines share one reward.
        reward_scalarisation: passed by every runner; not used.

    Raises:
        ConfigError: the map is unknown.
    """

    def __init__(self, map_name: str, seed: int, common_reward: bool, reward_scalarisation: str) -> None:
        self.n_agents, self.n_actions = sizes({"map_name": map_name})
        self.episode_limit = LIMIT
        self._seed, self._battle = seed, 0

    def reset(self) -> tuple[list[np.ndarray], dict]:
        """Start the next battle: marines in the west, the zealot in the east."""
        rng = np.random.default_rng([self._seed, self._battle])
        self._battle += 1
        self._t = 0
        self._health = np.ones(self.n_agents + 1)  # the last one is the zealot's
        west, east = rng.uniform((2, 4), (5, 12), (self.n_agents, 2)), rng.uniform((11, 4), (14, 12), (1, 2))
        self._position = np.concatenate([west, east])
        return self.get_obs(), {}

    def step(self, actions: Sequence[int]) -> tuple[list[np.ndarray], float, bool, bool, dict[str, float]]:
        """Execute one action per marine.

        Returns:
            Observations, the team's reward, terminated, truncated (by the time limit), and info.
        """
        before = self._health[-1]
        for agent, action in enumerate(int(action) for action in actions):
            if action in MOVES:
                self._position[agent] = np.clip(self._position[agent] + MOVES[action], 0, FIELD)
            elif action == N_BASE_ACTIONS:
                self._health[-1] = max(0.0, self._health[-1] - SHOT)
        if self._health[-1] > 0:
            self._zealot_acts()
        self._t += 1
        won, lost = self._health[-1] == 0, not self._health[:-1].any()
        reward = before - self._health[-1] + won
        return self.get_obs(), float(reward), bool(won or lost), self._t == LIMIT, {"battle_won": float(won)}

    def get_obs(self) -> list[np.ndarray]:
        """Return every agent's observation, float32 ``[obs_size]`` each."""
        return [self._view(agent) for agent in range(self.n_agents)]

    def get_state(self) -> np.ndarray:
        """Return health and position of every unit, zeros for the dead: float32 ``[state_size]``."""
        rows = np.column_stack([self._health, self._position / FIELD - 0.5])
        return (rows * (self._health > 0)[:, None]).ravel().astype(np.float32)

    def get_avail_actions(self) -> list[list[int]]:
        """Return the action masks ``[n_agents][n_actions]``. A dead marine has no-op only."""
        masks = []
        for agent in range(self.n_agents):
            alive = self._health[agent] > 0
            inside = [
                (self._position[agent] + move >= 0).all() and (self._position[agent] + move <= FIELD).all()
                for move in MOVES.values()
            ]
            shoots = self._health[-1] > 0 and self._distance(agent, -1) <= RANGE
            masks.append([0, 1, *map(int, inside), int(shoots)] if alive else [1] + [0] * (self.n_actions - 1))
        return masks

    def get_env_info(self) -> dict[str, int]:
        """Return the sizes from which EPyMARL builds its buffers."""
        return {
            "n_agents": self.n_agents,
            "n_actions": self.n_actions,
            "obs_shape": 4 + 5 + 5 * (self.n_agents - 1) + 3,
            "state_shape": 3 * (self.n_agents + 1),
            "episode_limit": LIMIT,
        }

    def get_stats(self) -> dict:
        """Return an empty dict: all statistics are in ``info``."""
        return {}

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _zealot_acts(self) -> None:
        living = [agent for agent in range(self.n_agents) if self._health[agent] > 0]
        if not living:
            return
        prey = min(living, key=lambda agent: self._distance(agent, -1))
        distance = self._distance(prey, -1)
        if distance <= REACH:
            self._health[prey] = max(0.0, self._health[prey] - BLOW)
        else:
            self._position[-1] += (self._position[prey] - self._position[-1]) / distance

    def _distance(self, one: int, other: int) -> float:
        return math.dist(self._position[one], self._position[other])

    def _view(self, agent: int) -> np.ndarray:
        if self._health[agent] <= 0:
            return np.zeros(self.get_env_info()["obs_shape"], np.float32)
        mask = self.get_avail_actions()[agent]
        others = [i for i in range(self.n_agents) if i != agent]
        units = [self._unit(agent, -1, mask[N_BASE_ACTIONS]), *(self._unit(agent, other, 1) for other in others)]
        own = [self._health[agent], *(self._position[agent] / FIELD)]
        return np.concatenate([mask[2:N_BASE_ACTIONS], *units, own]).astype(np.float32)

    def _unit(self, agent: int, other: int, flag: int) -> list[float]:
        """Return the features of another unit as ``agent`` sees it; zeros if it is dead or out of sight."""
        distance = self._distance(agent, other)
        if self._health[other] <= 0 or distance >= SIGHT:
            return [0.0] * 5
        dx, dy = (self._position[other] - self._position[agent]) / SIGHT
        return [float(flag), distance / SIGHT, dx, dy, self._health[other]]
