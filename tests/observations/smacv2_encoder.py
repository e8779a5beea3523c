"""The output of SMACv2's own encoder on random battles is decoded to the true numbers.

``test_smacv2_encoder.py`` runs this in a separate process: pysc2 cannot hold SMAC's and SMACv2's maps at once.
"""

from itertools import product

import numpy as np
import pytest
import torch
import yaml
from smacv2.env.starcraft2.starcraft2 import StarCraft2Env

from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.checks import check_sizes
from lolm_plugin.observations.sc2v2 import SHOOT_RANGES, SIGHTS, TYPES, scenario_dir, sizes
from lolm_plugin.observations.units import NAMES, UNIVERSE, index
from lolm_plugin.paths import config_dir, locate, use_host_config_dir
from tests.prompts.plain_scene import scenes

from .truth import STANDARD_IDS, TrueUnit, Truth, check_observations, check_state, game_unit

ALLY_IDS = {name: 2000 + i for i, name in enumerate(sorted(STANDARD_IDS))}
FLAGS = ("obs_all_health", "obs_own_health", "obs_last_action", "obs_own_pos", "obs_timestep_number")
PLAYABLE = (30.0, 28.0)


def random_battle(arguments, rng, dead=0.2):
    names = TYPES[arguments["map_name"]]

    def unit():
        name = names[rng.integers(3)]
        x, y = rng.uniform(6, 26, 2) if rng.random() < 0.7 else rng.integers(6, 26, 2).astype(float)
        whole = UNIVERSE[index(name)]
        health = rng.integers(1, int(whole.max_health) + 1) / whole.max_health * (rng.random() >= dead)
        shield = rng.integers(0, int(whole.max_shield) + 1) / whole.max_shield if whole.max_shield else 0.0
        return TrueUnit(name, float(x), float(y), float(health), float(shield), float(rng.random()))

    capabilities = arguments["capability_config"]
    teams = [[unit() for _ in range(capabilities[key])] for key in ("n_units", "n_enemies")]
    if arguments["use_unit_ranges"]:
        reach = {name: max(SHOOT_RANGES.get(name, 0), arguments["min_attack_range"]) for name in NAMES}
        return Truth(*teams, {name: SIGHTS.get(name, 9.0) for name in NAMES}, reach)
    return Truth(*teams, dict.fromkeys(NAMES, 9.0), dict.fromkeys(NAMES, 6.0))


def stage(arguments, truth, rng):
    """Return a SMACv2 environment with this battle, without a launched game; every enemy is known."""
    capabilities = arguments["capability_config"]
    team = {**capabilities["team_gen"], "n_units": capabilities["n_units"], "n_enemies": capabilities["n_enemies"]}
    env = StarCraft2Env(**{**arguments, "capability_config": {**capabilities, "team_gen": team}})
    env.map_x = env.map_y = int(truth.map_size)
    env.max_distance_x, env.max_distance_y = PLAYABLE
    env.pathing_grid, env.terrain_height = rng.random((32, 32)) < 0.8, rng.random((32, 32))
    for name, unit_id in ALLY_IDS.items():
        setattr(env, f"{name}_id", unit_id)
    env.last_action = np.eye(env.n_actions)[rng.integers(env.n_actions, size=env.n_agents)]
    env.mask_enemies = False
    env.enemy_tags, env.obs_enemies = [0] * env.n_enemies, np.ones((env.n_enemies, env.n_agents))
    env.agents = {i: game_unit(unit, ALLY_IDS[unit.name]) for i, unit in enumerate(truth.allies)}
    env.enemies = {j: game_unit(unit, STANDARD_IDS[unit.name]) for j, unit in enumerate(truth.enemies)}
    return env


def build(map_name):
    env_args = {"map_name": map_name, "time_limit": 150}
    return build_layouts("sc2v2", env_args, *sizes(env_args))


def check(map_name, arguments, rng):
    truth = random_battle(arguments, rng, dead=rng.choice([0.0, 0.3]))
    env = stage(arguments, truth, rng)
    layouts = build(map_name)
    scheme = {"obs": {"vshape": env.get_obs_size()}, "state": {"vshape": env.get_state_size()}}
    check_sizes(layouts, scheme, env.get_total_actions())
    obs = np.stack(env.get_obs())
    assert obs.shape[1] == layouts.observation.size
    check_observations(layouts, truth, obs, np.array(env.get_avail_actions()))
    check_state(layouts, truth, env.get_state(), PLAYABLE)


@pytest.fixture
def scenario_file(scenarios, tmp_path):
    def write(race, **changes):
        source = yaml.safe_load((scenarios / f"envs/smacv2_configs/{race}_5_vs_5.yaml").read_text())["env_args"]
        arguments = {**source, **changes}
        folder = tmp_path / "envs/smacv2_configs"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mine.yaml").write_text(yaml.safe_dump({"env_args": arguments}))
        use_host_config_dir(tmp_path)
        return arguments

    return write


@pytest.mark.parametrize("flags", product([False, True], repeat=len(FLAGS)), ids=lambda f: "".join("FT"[i] for i in f))
@pytest.mark.parametrize("race", ["terran", "protoss", "zerg"])
def test_observations_decode_to_the_truth(scenario_file, race, flags):
    rng = np.random.default_rng([ord(race[0]), *flags])
    names = ("state_last_action", "state_timestep_number", "use_unit_ranges")  # SMACv2 has no obs_instead_of_state
    more = {name: bool(value) for name, value in zip(names, rng.random(3) < 0.5, strict=True)}
    check("mine", scenario_file(race, **dict(zip(FLAGS, flags, strict=True)), **more), rng)


@pytest.mark.parametrize(("n_units", "n_enemies"), [(10, 11), (9, 5)])
@pytest.mark.parametrize("race", ["terran", "protoss", "zerg"])
def test_teams_of_any_size(scenario_file, race, n_units, n_enemies):
    capabilities = {"n_units": n_units, "n_enemies": n_enemies, "team_gen": {"observe": True}}
    check("mine", scenario_file(race, capability_config=capabilities), np.random.default_rng(n_units))


def test_every_scenario_of_the_host():
    """Needs the scenario files of an EPyMARL checkout."""
    if locate(None) is None:
        pytest.skip("needs an EPyMARL checkout (EPYMARL_HOME)")
    use_host_config_dir(config_dir(locate(None)))
    names = sorted(path.stem for path in scenario_dir().glob("*.yaml"))
    assert len(names) == 18
    for name in names:
        arguments = yaml.safe_load((scenario_dir() / f"{name}.yaml").read_text())["env_args"]
        check(name, arguments, np.random.default_rng(5))


def test_an_undiscovered_enemy_hides_the_enemies_in_range(scenario_file):
    """Four enemies are two cells away and no agent knows a fifth: none is shown, but four can be attacked."""
    arguments = scenario_file("protoss", use_unit_ranges=False)
    allies = [TrueUnit("zealot", 10.0, 10.0, 1.0, 1.0)] + [TrueUnit("zealot", 10.0, 10.0, 0.0)] * 4
    enemies = [TrueUnit("stalker", 12.0, 10.0, 1.0, 1.0)] * 4 + [TrueUnit("stalker", 29.0, 29.0, 1.0, 1.0)]
    truth = Truth(allies, enemies, dict.fromkeys(NAMES, 9.0), dict.fromkeys(NAMES, 6.0))
    env = stage(arguments, truth, np.random.default_rng(1))
    env.enemy_tags, env.obs_enemies = [None] * 5, np.zeros((5, 5))
    layouts = build("mine")
    obs, mask = np.stack(env.get_obs()), np.array(env.get_avail_actions())
    assert not layouts.observation.enemies.decode(torch.from_numpy(obs)).present.any()
    check_observations(layouts, truth, obs, mask, wiped=(0,))
    (scene,) = scenes(layouts.observation, torch.from_numpy(obs[:1]), torch.from_numpy(mask[:1]), torch.tensor([0]))
    assert [enemy.number for enemy in scene.enemies] == [0, 1, 2, 3]
