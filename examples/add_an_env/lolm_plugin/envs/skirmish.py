"""Marines against one zealot on an open field: an environment in one file, as small as it can be.

The zealot walks to the nearest marine and hits it; marines shoot it from up to 6 cells away. Running away while the
others shoot pays.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.battle import BattleLayout, Layouts
from lolm_plugin.observations.layout import N_BASE_ACTIONS, StateLayout, contiguous
from lolm_plugin.observations.units import index

MARINES = {"pair": 2, "squad": 3}  # map name -> how many
FIELD, SIGHT, RANGE, REACH = 16.0, 9.0, 6.0, 1.0  # cells
SHOT, BLOW = 0.1, 0.4  # health taken by one marine's shot and by the zealot's
LIMIT = 30  # env steps
NO_OP, STOP = 0, 1
MOVES = {2: (0, 1), 3: (0, -1), 4: (1, 0), 5: (-1, 0)}  # north, south, east, west; one cell


def sizes(env_args: Mapping[str, Any]) -> tuple[int, int]:
    """Agents and actions of a map, without building it; a map that does not exist is told before anything is loaded."""
    if env_args["map_name"] not in MARINES:
        known = ", ".join(MARINES)
        raise ConfigError(
            f"env_args.map_name={env_args['map_name']} is no map of env=skirmish; set it to one of: {known}."
        )
    return MARINES[env_args["map_name"]], N_BASE_ACTIONS + 1


def layouts(env_args: Mapping[str, Any], n_agents: int, n_actions: int, options: Mapping[str, Any]) -> Layouts:
    """Which number means what: SMAC's order, so that prompts, critic and checks need nothing else."""
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
    """EPyMARL's environment interface; every battle is drawn from ``(seed, number of the battle)``."""

    def __init__(self, map_name: str, seed: int, common_reward: bool, reward_scalarisation: str) -> None:
        self.n_agents, self.n_actions = sizes({"map_name": map_name})
        self.episode_limit = LIMIT
        self._seed, self._battle = seed, 0

    def reset(self) -> tuple[list[np.ndarray], dict]:
        """Marines in the west, the zealot in the east."""
        rng = np.random.default_rng([self._seed, self._battle])
        self._battle += 1
        self._t = 0
        self._health = np.ones(self.n_agents + 1)  # the zealot's last
        west, east = rng.uniform((2, 4), (5, 12), (self.n_agents, 2)), rng.uniform((11, 4), (14, 12), (1, 2))
        self._place = np.concatenate([west, east])
        return self.get_obs(), {}

    def step(self, actions: Sequence[int]) -> tuple[list[np.ndarray], float, bool, bool, dict[str, float]]:
        """One action per marine; returns observations, the team's reward, terminated, truncated and info."""
        before = self._health[-1]
        for agent, action in enumerate(int(action) for action in actions):
            if action in MOVES:
                self._place[agent] = np.clip(self._place[agent] + MOVES[action], 0, FIELD)
            elif action == N_BASE_ACTIONS:
                self._health[-1] = max(0.0, self._health[-1] - SHOT)
        if self._health[-1] > 0:
            self._zealot_acts()
        self._t += 1
        won, lost = self._health[-1] == 0, not self._health[:-1].any()
        reward = before - self._health[-1] + won
        return self.get_obs(), float(reward), bool(won or lost), self._t == LIMIT, {"battle_won": float(won)}

    def get_obs(self) -> list[np.ndarray]:
        """Every agent's observation, float32 ``[obs_size]``."""
        return [self._view(agent) for agent in range(self.n_agents)]

    def get_state(self) -> np.ndarray:
        """Health and place of everybody, the dead all zeros; float32 ``[state_size]``."""
        rows = np.column_stack([self._health, self._place / FIELD - 0.5])
        return (rows * (self._health > 0)[:, None]).ravel().astype(np.float32)

    def get_avail_actions(self) -> list[list[int]]:
        """Masks ``[n_agents][n_actions]``: the dead have no-op alone."""
        masks = []
        for agent in range(self.n_agents):
            alive = self._health[agent] > 0
            inside = [
                (self._place[agent] + move >= 0).all() and (self._place[agent] + move <= FIELD).all()
                for move in MOVES.values()
            ]
            shoots = self._health[-1] > 0 and self._distance(agent, -1) <= RANGE
            masks.append([0, 1, *map(int, inside), int(shoots)] if alive else [1] + [0] * (self.n_actions - 1))
        return masks

    def get_env_info(self) -> dict[str, int]:
        """The sizes a host asks for."""
        return {
            "n_agents": self.n_agents,
            "n_actions": self.n_actions,
            "obs_shape": 4 + 5 + 5 * (self.n_agents - 1) + 3,
            "state_shape": 3 * (self.n_agents + 1),
            "episode_limit": LIMIT,
        }

    def get_stats(self) -> dict:
        """Nothing beyond ``info``."""
        return {}

    def close(self) -> None:
        """Nothing to release."""

    def _zealot_acts(self) -> None:
        living = [agent for agent in range(self.n_agents) if self._health[agent] > 0]
        if not living:
            return
        prey = min(living, key=lambda agent: self._distance(agent, -1))
        distance = self._distance(prey, -1)
        if distance <= REACH:
            self._health[prey] = max(0.0, self._health[prey] - BLOW)
        else:
            self._place[-1] += (self._place[prey] - self._place[-1]) / distance

    def _distance(self, one: int, other: int) -> float:
        return math.dist(self._place[one], self._place[other])

    def _view(self, agent: int) -> np.ndarray:
        if self._health[agent] <= 0:
            return np.zeros(self.get_env_info()["obs_shape"], np.float32)
        mask = self.get_avail_actions()[agent]
        others = [i for i in range(self.n_agents) if i != agent]
        rows = [self._row(agent, -1, mask[N_BASE_ACTIONS]), *(self._row(agent, other, 1) for other in others)]
        own = [self._health[agent], *(self._place[agent] / FIELD)]
        return np.concatenate([mask[2:N_BASE_ACTIONS], *rows, own]).astype(np.float32)

    def _row(self, agent: int, other: int, flag: int) -> list[float]:
        """Another unit as ``agent`` sees it: zeros where it is dead or out of sight."""
        distance = self._distance(agent, other)
        if self._health[other] <= 0 or distance >= SIGHT:
            return [0.0] * 5
        dx, dy = (self._place[other] - self._place[agent]) / SIGHT
        return [float(flag), distance / SIGHT, dx, dy, self._health[other]]
