"""Whole episodes of the real smacv2 and pysc2 on the fake game.

``test_smacv2.py`` runs this file in a separate process, because pysc2 cannot load SMAC's and SMACv2's maps together.
"""

import random
from collections import Counter

import numpy as np
import pytest
from smacv2.env.starcraft2 import distributions
from smacv2.env.starcraft2.wrapper import StarCraftCapabilityEnvWrapper

from .conftest import is_running
from .maps import SMACV2_MAP
from .policies import hunt_nearest, randomly
from .units import KINDS

# Units of each race in the order of SMACv2's type bits, with their probabilities.
RACES = {
    "protoss": {"stalker": 0.45, "zealot": 0.45, "colossus": 0.1},
    "terran": {"marine": 0.45, "marauder": 0.45, "medivac": 0.1},
    "zerg": {"zergling": 0.45, "hydralisk": 0.45, "baneling": 0.1},
}
EXCEPTIONS = ["medivac", "baneling"]  # no team has only these
SIZES = {"protoss": (92, 130), "terran": (82, 120), "zerg": (82, 120)}  # sizes of observation and state
N_ACTIONS, LIMIT = 11, 200
WON = ["battle_won", "dead_allies", "dead_enemies"]


def arguments(race):
    """Return the arguments in which EPyMARL's 5_vs_5 scenarios differ from SMACv2's defaults."""
    units = RACES[race]
    teams = {"dist_type": "weighted_teams", "unit_types": list(units), "weights": list(units.values()), "observe": True}
    teams["exception_unit_types"] = [name for name in EXCEPTIONS if name in units]
    places = {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32}
    capabilities = {"n_units": 5, "n_enemies": 5, "team_gen": teams, "start_positions": places}
    options = {"obs_own_pos": True, "use_unit_ranges": True, "min_attack_range": 2}
    return {"map_name": f"10gen_{race}", "capability_config": capabilities, **options}


@pytest.fixture
def new_env(game_folder, monkeypatch):
    """Return a function that builds a 5_vs_5 of a race. The same seed draws the same teams and positions."""
    monkeypatch.setenv("SC2PATH", str(game_folder))
    envs = []

    def build(race, seed=1):
        # SMACv2 draws from generators that cannot be seeded from outside.
        seeds = np.random.SeedSequence(seed)
        monkeypatch.setattr(distributions, "default_rng", lambda: np.random.default_rng(seeds.spawn(1)[0]))
        random.seed(seed)
        np.random.seed(seed)
        envs.append(StarCraftCapabilityEnvWrapper(**arguments(race), seed=seed))
        return envs[-1]

    yield build
    for env in envs:
        env.close()


def episode(env, policy):
    """Play an episode after a reset. Return its observations and states, the rewards and the last info."""
    seen, rewards, over, info = [], [], False, {}
    while not over:
        reward, over, info = env.step(policy(env))
        rewards.append(reward)
        seen.append((env.get_obs(), env.get_state()))
    return seen, rewards, info


def names(units):
    """Return the names of units, from the ids of the game's and SMACv2's unit types."""
    known = {type_id: name for name, type_id in SMACV2_MAP.ally_ids.items()}
    known |= {kind.unit_id: kind.name for kind in KINDS.values()}
    return [known[unit.unit_type] for unit in units]


def inside(place):
    """Return the valid position for a requested one, which may be behind the walls."""
    (x, y), area = place, SMACV2_MAP.area
    return min(max(x, area.west), area.east - 0.01), min(max(y, area.south), area.north - 0.01)


def check_start(env):
    """Check that the drawn teams are complete, at full health and at their drawn positions."""
    drawn, agents, enemies = env.episode_config["team_gen"], env.agents.values(), env.enemies.values()
    assert [unit.owner for unit in [*agents, *enemies]] == [1] * 5 + [2] * 5
    assert all((unit.health, unit.shield) == (unit.health_max, unit.shield_max) for unit in [*agents, *enemies])
    assert names(agents) == sorted(drawn["ally_team"])
    assert {unit.unit_type for unit in agents} <= set(SMACV2_MAP.ally_ids.values())
    assert names(enemies) == list(drawn["enemy_team"])  # in the order of the requests
    for units, asked in ((agents, env.ally_start_positions), (enemies, env.enemy_start_positions)):
        places = sorted((unit.pos.x, unit.pos.y) for unit in units)
        assert np.allclose(places, sorted(map(inside, asked)), atol=1e-5)


@pytest.mark.parametrize("race", RACES)
def test_random_battles(race, new_env):
    env, policy = new_env(race), randomly()
    teams, tags = [], set()
    for battle in range(4):
        env.reset()
        info = env.get_env_info()
        assert (info["obs_shape"], info["state_shape"]) == SIZES[race]
        assert (info["n_agents"], info["n_actions"], info["episode_limit"]) == (5, N_ACTIONS, LIMIT)
        assert env.ally_unit_map == SMACV2_MAP.ally_ids
        check_start(env)
        teams.append(names(env.agents.values()))
        new = {unit.tag for unit in [*env.agents.values(), *env.enemies.values()]}
        assert len(new) == 10
        assert not tags & new
        tags |= new

        seen, rewards, info = episode(env, policy)  # SMACv2 asserts that actions are available
        assert min(rewards) >= 0
        assert sum(rewards) > 0
        assert len(rewards) > 5
        assert sorted(info) == WON
        fighters = sum(name != "medivac" for name in teams[-1])  # SMACv2 counts a battle without them as lost
        assert info["dead_allies"] >= fighters or info["battle_won"] or len(rewards) == LIMIT
        assert all(len(obs) == 5 and {row.shape for row in obs} == {SIZES[race][:1]} for obs, _ in seen)
        assert {state.shape for _, state in seen} == {SIZES[race][1:]}
        assert all(np.abs(obs).max() <= 1 for obs, _ in seen)
        assert all(np.abs(state).max() <= 1 for _, state in seen)
        assert env.battles_game == battle + 1
    assert len(set(map(tuple, teams))) > 1
    assert env.force_restarts == 0


@pytest.mark.parametrize("race", RACES)
def test_the_enemies_come_and_win_against_who_does_nothing(race, new_env):
    env = new_env(race)
    env.reset()
    _, rewards, info = episode(env, lambda env: [1 if unit.health else 0 for unit in env.agents.values()])
    assert not info["battle_won"]
    assert info["dead_allies"] >= 5 - names(env.agents.values()).count("medivac")
    assert len(rewards) < LIMIT


@pytest.mark.parametrize("race", RACES)
def test_a_good_policy_wins_sometimes(race, new_env):
    env = new_env(race)
    won = []
    for _ in range(8):
        env.reset()
        won.append(episode(env, hunt_nearest)[2]["battle_won"])
    assert env.battles_won == sum(won) >= 2


def test_a_seed_reproduces_its_battles(new_env):
    def battles(seed):
        env, policy, everything = new_env("protoss", seed), randomly(), []
        for _ in range(2):
            env.reset()
            seen, rewards, _ = episode(env, policy)
            everything.append((np.concatenate([[*np.ravel(obs), *state] for obs, state in seen]).tolist(), rewards))
        return everything

    first = battles(1)
    assert battles(1) == first
    assert first[0] != first[1]
    assert battles(2)[0] != first[0]


def test_available_moves_and_attacks_are_executed(new_env):
    env, policy = new_env("protoss"), randomly()
    env.reset()
    moves, seen, over = {2: (0, 1), 3: (0, -1), 4: (1, 0), 5: (-1, 0)}, Counter(), False
    while not over:
        actions = policy(env)
        places = [(unit.pos.x, unit.pos.y) for unit in env.agents.values()]
        tags = [unit.tag for unit in env.enemies.values()]
        _, over, _ = env.step(actions)
        for agent, action in enumerate(actions):
            unit, (x, y) = env.agents[agent], places[agent]
            if action == 0:
                assert unit.health == 0
            elif unit.health and action in moves:
                east, north = moves[action]
                seen["way clear" if east * (unit.pos.x - x) + north * (unit.pos.y - y) > 0.5 else "in the way"] += 1
            elif unit.health and action >= 6 and env.enemies[action - 6].health:
                assert unit.engaged_target_tag == tags[action - 6]
                seen["attack"] += 1
    assert seen["attack"] > 0
    assert seen["way clear"] > 3 * seen["in the way"]  # other units or the wall


def test_a_crash_ends_the_episode_and_the_next_plays_on_in_a_new_process(new_env, monkeypatch, tmp_path):
    fired = tmp_path / "fired"
    monkeypatch.setenv("FAKE_SC2_FAULT", "crash:600")
    monkeypatch.setenv("FAKE_SC2_FAULT_ONCE", str(fired))
    env, policy = new_env("zerg"), randomly()
    for _ in range(50):
        env.reset()
        pid = env._sc2_proc.pid
        _, rewards, info = episode(env, policy)
        if fired.exists():
            break
    assert (rewards[-1], info, env.force_restarts) == (0, {}, 1)
    assert env.battles_game > 0
    assert not is_running(pid)
    env.reset()
    check_start(env)
    assert env._sc2_proc.pid != pid
    assert sorted(episode(env, policy)[2]) == WON


def test_closing_leaves_no_process(new_env):
    env = new_env("zerg")
    env.reset()
    pid = env._sc2_proc.pid
    assert is_running(pid)
    env.close()
    assert not is_running(pid)
