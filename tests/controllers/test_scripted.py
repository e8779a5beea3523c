"""Scripted teachers: the probes' optimum earns the optimal return, and SMAX's rules decide like jaxmarl's."""

from types import SimpleNamespace

import pytest
import torch

from lolm_plugin import registry
from lolm_plugin.controllers.scripted import NEVER, ProbeOptimum, SMAXHeuristic
from lolm_plugin.envs.probe_tasks import MAPS, optimal_actions, table
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.layout import N_BASE_ACTIONS
from tests.probe_bounds import optimal_return

NORTH, SOUTH, EAST, WEST = range(2, 6)


@pytest.mark.parametrize("map_name", MAPS)
def test_the_best_actions_earn_the_optimal_return(map_name):
    task, best = table(map_name), optimal_actions(map_name)
    earned = 0.0
    for start in range(task.n_starts):
        situation, over, t = start, False, 0
        while not over and t < task.episode_limit:
            action = best[t, situation]
            assert task.available[situation, action]
            earned += float(task.reward[situation, action])
            situation, over, t = task.after[situation, action], task.over[situation, action], t + 1
    assert earned / task.n_starts == pytest.approx(optimal_return(map_name))


def controller(kind, env, env_args):
    n_agents, n_actions = registry.load(registry.MAP_SIZES[env])(env_args)
    args = SimpleNamespace(
        env=env, env_args=env_args, n_agents=n_agents, n_actions=n_actions, layout={"probes": False}, device="cpu",
        test_greedy=True, seed=1, decisions_file="",
    )  # fmt: skip
    layouts = build_layouts(env, env_args, n_agents, n_actions)
    scheme = {"obs": {"vshape": layouts.observation.size}, "state": {"vshape": layouts.state.size}}
    return kind(scheme, {"agents": n_agents}, args)


def test_other_actions_are_never_drawn_but_have_finite_log_probabilities():
    mac, task = controller(ProbeOptimum, "probe", {"map_name": "target"}), table("target")
    obs, available = torch.from_numpy(task.obs)[:, None, None], torch.from_numpy(task.available)[:, None, None]
    batch = {"obs": obs, "avail_actions": available}
    log_probs = mac.act(batch, 0, 0, torch.ones(len(obs), dtype=torch.bool), test_mode=True).log_probs[:, 0]
    best = torch.from_numpy(optimal_actions("target")[0])
    assert torch.equal(log_probs.argmax(-1), best)
    others = log_probs[available[:, 0, 0] > 0]
    assert set(others.tolist()) == {0.0, NEVER}


def test_shuffled_observations_have_no_optimum():
    with pytest.raises(ConfigError, match="shuffle_obs=False"):
        controller(ProbeOptimum, "probe", {"map_name": "duel", "shuffle_obs": True})


class Scene:
    """Observations of the marine in 1m_vs_2m, on a map of size 1 x 1."""

    def __init__(self, **enemies):
        self.mac = controller(SMAXHeuristic, "smax", {"map_name": "1m_vs_2m"})
        self.mac.init_hidden(1)
        self.layout = self.mac.layouts.observation

    def act(self, enemies, x=0.25, y=0.5, blocked=(), attackable=()):
        """Return the chosen action. ``enemies``: index -> (dx, dy), in fractions of the sight range."""
        obs = torch.zeros(1, 1, self.layout.size)
        own = self.layout.own
        obs[..., own.start : own.start + 4] = torch.tensor([1.0, 0.0, x, y])
        for i, (dx, dy) in enemies.items():
            start = self.layout.enemies.start + i * self.layout.enemies.width
            numbers = torch.tensor([float(i in attackable), (dx**2 + dy**2) ** 0.5, dx, dy, 1.0, 0.0, 1.0])
            obs[..., start : start + len(numbers)] = numbers
        available = torch.ones(1, 1, self.layout.n_actions, dtype=torch.bool)
        available[..., 0] = False
        available[..., list(blocked)] = False
        available[..., N_BASE_ACTIONS:] = torch.tensor([i in attackable for i in range(2)])
        return int(self.mac.choose(obs, available, 0))


def test_smax_moves_to_the_point_opposite_its_start_if_no_enemy_is_visible():
    scene = Scene()
    assert scene.act({}) == EAST
    assert scene.act({}, x=0.9) == WEST  # still to (0.75, 0.5)
    assert scene.act({}, x=0.75, y=0.1) == NORTH


def test_smax_moves_to_the_closest_enemy_and_around_a_wall():
    scene = Scene()
    assert scene.act({0: (0.0, -0.6), 1: (0.9, 0.0)}) == SOUTH
    assert scene.act({0: (0.1, -0.6)}, blocked=[SOUTH]) == EAST


def test_smax_attacks_the_closest_enemy_until_it_is_out_of_range():
    scene = Scene()
    assert scene.act({0: (0.4, 0.0), 1: (0.3, 0.0)}, attackable=[0, 1]) == N_BASE_ACTIONS + 1
    assert scene.act({0: (0.2, 0.0), 1: (0.3, 0.0)}, attackable=[0, 1]) == N_BASE_ACTIONS + 1  # the same
    assert scene.act({0: (0.2, 0.0)}, attackable=[0]) == N_BASE_ACTIONS
    scene.mac.init_hidden(1)
    assert scene.act({0: (0.2, 0.0), 1: (0.3, 0.0)}, attackable=[0, 1]) == N_BASE_ACTIONS
