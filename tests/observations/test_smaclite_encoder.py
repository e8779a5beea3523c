"""The output of SMAClite in random play is decoded to the true numbers, on every map and on custom ones.

Needs the real ``smaclite`` package.
"""

import json

import numpy as np
import pytest

from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.checks import check_sizes
from lolm_plugin.observations.smaclite import MAPS, sizes
from lolm_plugin.observations.units import NAMES

from .truth import TrueUnit, Truth, check_observations, check_state

pytest.importorskip("smaclite", reason="needs smaclite")

STEPS = {"2c_vs_64zg": 6, "27m_vs_30m": 6, "bane_vs_bane": 6, "corridor": 10}  # fewer for large battles


def make(map_name, **arguments):
    import gymnasium

    return gymnasium.make(f"smaclite/{map_name}-v0", seed=3, **arguments).unwrapped


def truth_of(env):
    def unit(there):
        stats = there.type.stats
        cooldown = (
            there.energy / there.max_energy
            if stats.combat_type.name == "HEALING"
            else (there.cooldown / there.max_cooldown)
        )
        return TrueUnit(
            stats.name.lower().replace("_", " "),
            float(there.pos[0]),
            float(there.pos[1]),
            there.hp / there.max_hp,
            there.shield / there.max_shield if there.max_shield else 0.0,
            float(cooldown),
        )

    gone = TrueUnit("marine", 0.0, 0.0, 0.0)
    teams = []
    for count, units in ((env.n_agents, env.agents), (env.n_enemies, env.enemies)):
        by_id = {there.id_in_faction: unit(there) for there in units.values()}
        teams.append([by_id.get(i, gone) for i in range(count)])
    return Truth(*teams, dict.fromkeys(NAMES, 9.0), dict.fromkeys(NAMES, 6.0))


def play(env, layouts, steps, seed=0):
    """Play at random towards the enemy and compare every step with the truth."""
    rng = np.random.default_rng(seed)
    for _ in range(2):
        env.reset()
        for _ in range(steps):
            truth = truth_of(env)
            masks = np.array(env.get_avail_actions())
            check_observations(layouts, truth, np.stack(env.get_obs()), masks)
            check_state(layouts, truth, env.get_state(), (32.0, 32.0))
            eager = masks * rng.random(masks.shape)
            eager[:, 4] *= 1 + 2 * (rng.random(len(masks)) < 0.5)
            _, _, over, _, _ = env.step([int(action) for action in eager.argmax(1)])
            if over:
                break


def build(env_args, env):
    layouts = build_layouts("smaclite", env_args, *sizes(env_args))
    scheme = {"obs": {"vshape": env.obs_size}, "state": {"vshape": env.state_size}}
    check_sizes(layouts, scheme, env.n_actions)
    return layouts


@pytest.mark.parametrize("map_name", MAPS)
def test_observations_decode_to_the_truth(map_name):
    env = make(map_name)
    play(env, build({"map_name": map_name}, env), STEPS.get(map_name, 25))


def custom(tmp_path, allies, enemies, types=None, shields=(False, False)):
    groups = [(8, "ALLY", allies), (24, "ENEMY", enemies)]
    content = {
        "name": "mine",
        "num_allied_units": sum(allies.values()),
        "num_enemy_units": sum(enemies.values()),
        "groups": [{"x": x, "y": 16, "faction": faction, "units": units} for x, faction, units in groups],
        "attack_point": [8, 16],
        "terrain_preset": "SIMPLE",
        "num_unit_types": len(types or ()),
        "ally_has_shields": shields[0],
        "enemy_has_shields": shields[1],
    }
    if types:
        content["unit_type_ids"] = {name: i for i, name in enumerate(types)}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    return {"map_name": "custom", "map_file": str(path)}


@pytest.mark.parametrize(
    ("allies", "enemies", "types", "shields"),
    [
        ({"MARINE": 3}, {"MARINE": 3}, None, (False, False)),
        ({"STALKER": 3}, {"ZEALOT": 4}, None, (True, True)),
        ({"MARINE": 2}, {"ZEALOT": 1}, None, (False, True)),
        ({"MARINE": 4, "MEDIVAC": 1}, {"MARINE": 2}, ("MEDIVAC", "MARINE"), (False, False)),
    ],
    ids=["3m", "3s_vs_4z", "2m_vs_1z", "healer with more allies than enemies"],
)
def test_custom_maps(tmp_path, allies, enemies, types, shields):
    env_args = custom(tmp_path, allies, enemies, types, shields)
    env = make("custom", map_file=env_args["map_file"])
    play(env, build(env_args, env), 25)
