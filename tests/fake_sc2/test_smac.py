"""Whole episodes of the real smac and pysc2 on the fake game."""

import numpy as np
import pytest

from .conftest import is_running
from .maps import MAPS
from .policies import attack_nearest, randomly

# (agents, enemies, actions, observation, state with last actions, steps) from SMAC's documentation.
SIZES = {
    "3m": (3, 3, 9, 30, 48, 60),
    "2s3z": (5, 5, 11, 80, 120, 120),
    "3s5z_vs_3s6z": (8, 9, 15, 136, 230, 170),
    "MMM2": (10, 12, 18, 176, 322, 180),
}


def episode(env, policy):
    """Play an episode after a reset. Return its observations and states, the rewards and the last info."""
    seen, rewards, over, info = [(env.get_obs(), env.get_state())], [], False, {}
    while not over:
        reward, over, info = env.step(policy(env))
        rewards.append(reward)
        seen.append((env.get_obs(), env.get_state()))
    return seen, rewards, info


def kill(env, units):
    from s2clientprotocol import debug_pb2

    tags = [unit.tag for unit in units]
    env._controller.debug([debug_pb2.DebugCommand(kill_unit=debug_pb2.DebugKillUnit(tag=tags))])


@pytest.mark.parametrize("name", SIZES)
def test_random_battles(name, new_env):
    env = new_env(name)
    tags, policy = set(), randomly()
    for battle in range(3):
        env.reset()
        info = env.get_env_info()
        sizes = [info[key] for key in ("n_actions", "obs_shape", "state_shape", "episode_limit")]
        assert (env.n_agents, env.n_enemies, *sizes) == SIZES[name]
        units = [*env.agents.values(), *env.enemies.values()]
        assert all((unit.health, unit.shield) == (unit.health_max, unit.shield_max) for unit in units)
        assert [unit.owner for unit in units] == [1] * env.n_agents + [2] * env.n_enemies
        types = [unit.unit_type for unit in units[: env.n_agents]]
        assert types == sorted(types)
        assert sorted(set(types)) == sorted(MAPS[name].ally_ids.values())
        assert not tags & {unit.tag for unit in units}
        tags |= {unit.tag for unit in units}

        seen, rewards, info = episode(env, policy)  # SMAC asserts that actions are available
        assert min(rewards) >= 0
        assert 0 < sum(rewards) <= 21  # damage to regenerated shields is rewarded, too
        assert len(rewards) > 10
        assert set(info) == {"battle_won", "dead_allies", "dead_enemies"}
        fighters = env.n_agents - MAPS[name].allies.get("medivac", 0)  # SMAC counts a battle without them as lost
        assert info["dead_allies"] >= fighters or info["battle_won"] or len(rewards) == env.episode_limit
        assert all(np.abs(obs).max() <= 1 for obs, _ in seen)
        assert all(np.abs(state).max() <= 1 for _, state in seen)
        assert env.battles_game == battle + 1
    assert env.force_restarts == 0


def test_a_seed_reproduces_its_battles(new_env):
    def battles(seed):
        env, policy, everything = new_env("2s3z", seed=seed), randomly(), []
        for _ in range(2):
            env.reset()
            seen, rewards, info = episode(env, policy)
            everything.append((np.concatenate([[*np.ravel(obs), *state] for obs, state in seen]).tolist(), rewards))
            assert not info["battle_won"]
        return everything

    first = battles(1)
    assert battles(1) == first
    assert first[0] != first[1]
    assert battles(2)[0] != first[0]


@pytest.mark.parametrize("name", ["3m", "2s3z"])
def test_a_good_policy_wins_sometimes_and_a_win_returns_20(name, new_env):
    env = new_env(name)
    returns = {True: [], False: []}
    for _ in range(8):
        env.reset()
        _, rewards, info = episode(env, attack_nearest)
        returns[info["battle_won"]].append(sum(rewards))
    # Damage to regenerated shields is rewarded again.
    assert returns[True] == pytest.approx([20] * env.battles_won, abs=0.5 if name == "2s3z" else 1e-6)
    assert env.battles_won >= 2
    assert all(0 < value < 18 for value in returns[False])


def test_replays_are_saved(new_env, game_folder):
    env = new_env("3m", replay_prefix="kept")
    env.reset()
    env.step([1, 1, 1])
    env.save_replay()
    (replay,) = (game_folder / "Replays").glob("kept_*.SC2Replay")
    assert b"3m, seed 1, 8 game loops" in replay.read_bytes()


def test_closing_leaves_no_process(new_env):
    env = new_env("3m")
    env.reset()
    pid = env._sc2_proc.pid
    assert is_running(pid)
    env.close()
    assert not is_running(pid)


def test_the_type_bits_of_zealots_and_stalkers_differ_between_teams(new_env):
    env = new_env("2s3z")
    env.reset()
    state = env.get_state_dict()
    stalker, zealot = MAPS["2s3z"].ally_ids.values()
    assert [unit.unit_type for unit in env.agents.values()] == [stalker] * 2 + [zealot] * 3
    assert state["allies"][:, -2:].tolist() == [[1, 0]] * 2 + [[0, 1]] * 3
    assert [unit.unit_type for unit in env.enemies.values()] == [73, 74, 73, 74, 73]
    assert state["enemies"][:, -2:].tolist() == [[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]]


def test_a_medivac_heals_the_ally_of_its_action(new_env):
    env = new_env("MMM2")
    env.reset()
    medivac, patient = 9, None
    while patient is None:
        _, over, _ = env.step(attack_nearest(env))
        assert not over
        mask = env.get_avail_actions()[medivac]
        hurt = [i for i in range(9) if mask[6 + i] and env.agents[i].health < env.agents[i].health_max]
        patient = hurt[0] if hurt else None
    # Without attackers health can only rise. The last step is still played.
    kill(env, [unit for unit in env.enemies.values() if unit.unit_type != 54])
    before, energy = env.agents[patient].health, env.agents[medivac].energy
    actions = [0 if unit.health == 0 else 1 for unit in env.agents.values()]
    actions[medivac] = 6 + patient
    _, over, info = env.step(actions)
    assert before < env.agents[patient].health <= before + 4.5
    assert env.agents[medivac].energy < energy
    assert over, "SMAC ends a battle when the enemy has only a medivac left"
    assert info["battle_won"]


def test_if_all_units_die_together_no_team_wins_and_a_new_battle_starts(new_env):
    env = new_env("2s3z")
    env.reset()
    first = env.agents[0].tag
    kill(env, [*env.agents.values(), *env.enemies.values()])
    _, over, info = env.step([1] * 5)
    assert over
    assert info == {"battle_won": False, "dead_allies": 5, "dead_enemies": 5}
    env.reset()
    assert all(unit.health == unit.health_max for unit in [*env.agents.values(), *env.enemies.values()])
    assert env.agents[0].tag > first
    _, _, info = env.step([1] * 5)
    assert info["dead_allies"] == info["dead_enemies"] == 0


def test_the_mask_matches_the_walkable_cells(new_env):
    # The only enemy of this map cannot walk.
    env = new_env("2s_vs_1sc")
    env.reset()
    area, cells = MAPS["2s_vs_1sc"].area, np.arange(32)
    x, y = np.meshgrid(cells, cells, indexing="ij")
    walkable = (area.west <= x) & (x < area.east) & (area.south <= y) & (y < area.north)
    assert np.array_equal(env.pathing_grid, walkable)

    north, south, east, west = 2, 3, 4, 5
    # At each wall, the mask lets a unit come within 1 cell of the wall.
    ends = {west: ("x", area.west), south: ("y", area.south), north: ("y", area.north), east: ("x", area.east)}
    for action, (axis, wall) in ends.items():
        moves = 0
        while env.get_avail_actions()[0][action]:
            _, over, _ = env.step([action, 1])
            moves += 1
            assert not over
        assert moves > 2
        assert 0 <= abs(getattr(env.agents[0].pos, axis) - wall) <= 1


@pytest.mark.parametrize(("loop", "battle"), [(30, 1), (300, 2)])
def test_a_crash_ends_the_episode_and_the_next_plays_on_in_a_new_process(loop, battle, new_env, monkeypatch, tmp_path):
    fired = tmp_path / "fired"
    monkeypatch.setenv("FAKE_SC2_FAULT", f"crash:{loop}")
    monkeypatch.setenv("FAKE_SC2_FAULT_ONCE", str(fired))
    env, policy = new_env("3m"), randomly()
    for _ in range(battle):
        assert not fired.exists()
        env.reset()
        pid = env._sc2_proc.pid
        _, rewards, info = episode(env, policy)
    assert fired.exists()
    assert (rewards[-1], info, env.force_restarts) == (0, {}, 1)
    assert not is_running(pid)
    for _ in range(2):
        env.reset()
        assert env._sc2_proc.pid != pid
        _, rewards, info = episode(env, policy)
        assert info["dead_allies"] == 3
    assert env.force_restarts == 1
