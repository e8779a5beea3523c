"""The output of SMAC's own encoder on random battles is decoded to the true numbers, on every map with every flag.

Needs the real ``smac`` package, not the game: the tests write the battle into the environment.
"""

from itertools import product

import numpy as np
import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.checks import check_sizes, check_teams
from lolm_plugin.observations.sc2 import MAPS
from lolm_plugin.observations.units import NAMES, UNIVERSE, index

from .truth import STANDARD_IDS, TrueUnit, Truth, check_joint_state, check_observations, check_state, game_unit

starcraft2 = pytest.importorskip("smac.env.starcraft2.starcraft2", reason="needs oxwhirl's smac with pysc2")

OBS_FLAGS = ("obs_all_health", "obs_own_health", "obs_last_action", "obs_pathing_grid", "obs_terrain_height")
STATE_FLAGS = ("state_last_action", "state_timestep_number", "obs_instead_of_state")
# The type ids of allies count up from the first one of a map.
FIRST_ALLY_ID = 1970
PLAYABLE = (28.0, 24.0)


def random_battle(map_name, rng, dead=0.2):
    """Return units within a few sight ranges of each other. Some are on whole cells, exactly at a range."""

    def unit(name):
        x, y = rng.uniform(6, 26, 2) if rng.random() < 0.7 else rng.integers(6, 26, 2).astype(float)
        whole = UNIVERSE[index(name)]
        alive = rng.random() >= dead
        health = rng.integers(1, int(whole.max_health) + 1) / whole.max_health * alive
        shield = rng.integers(0, int(whole.max_shield) + 1) / whole.max_shield if whole.max_shield else 0.0
        return TrueUnit(name, float(x), float(y), float(health), float(shield), float(rng.random()))

    battle = MAPS[map_name]
    teams = [[unit(name) for name, n in team.items() for _ in range(n)] for team in (battle.allies, battle.enemies)]
    rng.shuffle(teams[1])  # the game lists enemies in any order
    return Truth(*teams, dict.fromkeys(NAMES, 9.0), dict.fromkeys(NAMES, 6.0))


def stage(env, truth, map_name, rng):
    """Write the battle into a SMAC environment without launching the game."""
    env.map_x = env.map_y = int(truth.map_size)
    env.max_distance_x, env.max_distance_y = PLAYABLE
    env.pathing_grid = rng.random((32, 32)) < 0.8
    env.terrain_height = rng.random((32, 32))
    env._init_ally_unit_types(FIRST_ALLY_ID)
    env.last_action = np.eye(env.n_actions)[rng.integers(env.n_actions, size=env.n_agents)]
    names = list(MAPS[map_name].allies)
    env.agents = {i: game_unit(unit, FIRST_ALLY_ID + names.index(unit.name)) for i, unit in enumerate(truth.allies)}
    env.enemies = {j: game_unit(unit, STANDARD_IDS[unit.name]) for j, unit in enumerate(truth.enemies)}
    return env


def build(map_name, flags, **options):
    battle = MAPS[map_name]
    env_args = {"map_name": map_name, **flags}
    return build_layouts("sc2", env_args, battle.n_agents, 6 + battle.n_enemies, options)


@pytest.mark.parametrize("map_name", MAPS)
def test_the_maps_are_smacs(map_name):
    env = starcraft2.StarCraft2Env(map_name=map_name)
    battle = MAPS[map_name]
    assert (env.n_agents, env.n_enemies) == (battle.n_agents, battle.n_enemies)


@pytest.mark.parametrize(
    "flags", product([False, True], repeat=len(OBS_FLAGS)), ids=lambda f: "".join("FT"[i] for i in f)
)
@pytest.mark.parametrize("map_name", MAPS)
def test_observations_decode_to_the_truth(map_name, flags):
    rng = np.random.default_rng([index("marine"), *map(ord, map_name), *flags])
    flags = dict(zip(OBS_FLAGS, flags, strict=True))
    state_flags = dict(zip(STATE_FLAGS, rng.random(3) < 0.5, strict=True))
    truth = random_battle(map_name, rng, dead=rng.choice([0.0, 0.3]))
    env = stage(starcraft2.StarCraft2Env(map_name=map_name, **flags, **state_flags), truth, map_name, rng)
    layouts = build(map_name, {**flags, **state_flags})
    scheme = {"obs": {"vshape": env.get_obs_size()}, "state": {"vshape": env.get_state_size()}}
    check_sizes(layouts, scheme, env.get_total_actions())
    check_observations(layouts, truth, np.stack(env.get_obs()), np.array(env.get_avail_actions()))
    if state_flags["obs_instead_of_state"]:
        check_joint_state(layouts, truth, env.get_state())
    else:
        check_state(layouts, truth, env.get_state(), PLAYABLE)


@pytest.mark.parametrize("map_name", ["2s3z", "MMM2", "3m"])
def test_dead_agents_stay_dead_with_the_timestep(map_name):
    """With the timestep, SMAC returns one number more than it declares. The others keep their index."""
    rng = np.random.default_rng(7)
    truth = random_battle(map_name, rng, dead=0.5)
    flags = {"obs_timestep_number": True}
    env = stage(starcraft2.StarCraft2Env(map_name=map_name, **flags), truth, map_name, rng)
    env._episode_steps = 9
    layouts = build(map_name, flags)
    assert layouts.observation.size == env.get_obs_size() == len(env.get_obs()[0]) - 1
    check_observations(layouts, truth, np.stack(env.get_obs()), np.array(env.get_avail_actions()))


@pytest.mark.parametrize("map_name", ["2s3z", "3s5z", "3s5z_vs_3s6z"])
def test_forks_with_aligned_enemy_types_are_refused_without_the_option(map_name, monkeypatch):
    def aligned(self, unit, ally):
        return unit.unit_type - self._min_unit_type if ally else {74: 0, 73: 1}[unit.unit_type]

    monkeypatch.setattr(starcraft2.StarCraft2Env, "get_unit_type_id", aligned)
    rng = np.random.default_rng(1)
    truth = random_battle(map_name, rng, dead=0.0)
    env = stage(starcraft2.StarCraft2Env(map_name=map_name), truth, map_name, rng)
    check_state(build(map_name, {}, aligned_enemy_types=True), truth, env.get_state(), PLAYABLE)
    layouts = build(map_name, {}, aligned_enemy_types=True)
    check_observations(layouts, truth, np.stack(env.get_obs()), np.array(env.get_avail_actions()))
    with pytest.raises(ConfigError, match=rf"map_name={map_name} .*enemy team.*layout.aligned_enemy_types=True"):
        check_teams(build(map_name, {}), torch.from_numpy(env.get_state())[None])
