import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from lolm_plugin.envs.smax import SMAXVectorEnv, make_env
from lolm_plugin.envs.smax_scenarios import UNIT_TYPES, scenario
from lolm_plugin.errors import ConfigError
from lolm_plugin.randomness import keyed_generator

build = cache(SMAXVectorEnv)  # each takes some seconds to compile


def start(env, *seeds):
    env.reset(np.array(seeds, dtype=np.uint32))


def random_actions(env, *key):
    draws = keyed_generator(0, *key).random(env.avail_actions.shape)
    return (draws * env.avail_actions).argmax(-1)


def units(env):
    """Return jaxmarl's state of all copies: positions [n_envs, units, 2], ..."""
    return env._battles[1].state


def change(env, **leaves):
    """Overwrite leaves of jaxmarl's state in all copies, broadcast to their shapes."""
    import jax.numpy as jnp

    key, outer = env._battles
    for name, leaf in leaves.items():
        old = getattr(outer.state, name)
        leaves[name] = jnp.array(np.broadcast_to(leaf, old.shape), old.dtype)
    env._battles = key, outer.replace(state=outer.state.replace(**leaves))


def halt(env):
    """Return stop for living agents and no-op for dead ones."""
    return env.avail_actions[:, :, 1].astype(np.int64)


def jaxmarl_scenarios():
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

    return MAP_NAME_TO_SCENARIO


def test_jaxmarls_maps_are_equal():
    for name, theirs in jaxmarl_scenarios().items():
        ours = scenario(name)
        assert (len(ours.ally_types), len(ours.enemy_types)) == (theirs.num_allies, theirs.num_enemies), name
        assert ours.random_units == theirs.smacv2_unit_type_generation == theirs.smacv2_position_generation, name
        numbers = [UNIT_TYPES.index(unit) for unit in ours.ally_types + ours.enemy_types]
        assert numbers == theirs.unit_types.tolist(), name


@pytest.mark.parametrize("name", ["3m", "3s_vs_4z", "6h_vs_8z", "1m_vs_1M", "smacv2_10_units"])
def test_sizes_follow_from_jaxmarls(name):
    from jaxmarl.environments.smax import SMAX

    env = SMAXVectorEnv(name, 2)
    theirs = SMAX(num_allies=env.n_agents, num_enemies=env.n_enemies)
    n_units = env.n_agents + env.n_enemies
    # Other units lack last move (2) and target (1) but have a distance and a flag. Own features and state are equal.
    assert env.obs_size == theirs.obs_size - (n_units - 1) + 4
    assert env.state_size == theirs.state_size - 2 * n_units
    assert env.n_actions == theirs.num_ally_actions + 1
    assert tuple(theirs.unit_type_names) == UNIT_TYPES


def test_observations_agree_with_jaxmarls():
    from jaxmarl.environments.smax import HeuristicEnemySMAX

    env = build("3s5z", 8)
    game = HeuristicEnemySMAX(scenario=jaxmarl_scenarios()["3s5z"])
    start(env, *range(8))
    copy, n, m = 3, env.n_agents, env.n_enemies
    for t in range(40):
        outer = type(env._battles[1])(*(tree_slice(leaf, copy) for leaf in vars(env._battles[1]).values()))
        obs, masks = game.get_obs(outer), game.get_avail_actions(outer)
        for i in range(n):
            theirs = np.asarray(obs[f"ally_{i}"])
            others, own = theirs[:-10].reshape(n - 1 + m, 13), theirs[-10:]
            others = others[:, [1, 2, 0, 6, *range(7, 13)]]  # dx, dy, health, cooldown, type
            ours = env.obs[copy, i]
            enemies, allies = ours[4 : 4 + 12 * m].reshape(m, 12), ours[4 + 12 * m : -10].reshape(n - 1, 12)
            np.testing.assert_allclose(allies[:, 2:], others[: n - 1], atol=1e-6)
            np.testing.assert_allclose(enemies[:, 2:], others[n - 1 :], atol=1e-6)
            np.testing.assert_allclose(ours[-10:], own[[0, 3, 1, 2, *range(4, 10)]], atol=1e-6)
            north, east, south, west, stop, *attacks = np.asarray(masks[f"ally_{i}"]).tolist()
            mask = env.avail_actions[copy, i].tolist()
            assert mask[6:] == attacks
            assert mask[0] + mask[1] == stop
            assert np.all(np.array(mask[2:6]) <= [north, south, east, west])
        env.step(random_actions(env, "view", t))
    assert env.avail_actions[copy, :, 0].any(), "no unit died, so dead units were not compared"


def tree_slice(tree, i):
    import jax

    return jax.tree.map(lambda leaf: leaf[i], tree)


def test_an_episode_depends_only_on_its_seed_and_actions():
    one, many = build("3s5z", 1), build("3s5z", 8)
    start(one, 7)
    start(many, 3, 9, 7, 2**32 - 1, 0, 1, 2, 4)
    for t in range(60):
        for kind in ("obs", "state", "avail_actions"):
            np.testing.assert_array_equal(getattr(one, kind)[0], getattr(many, kind)[2])
        actions = random_actions(many, "copies", t)
        in_many, in_one = many.step(actions), one.step(actions[2:3])
        assert (in_many.reward[2], in_many.terminated[2]) == (in_one.reward[0], in_one.terminated[0])
        assert {k: v[2] for k, v in in_many.info.items()} == {k: v[0] for k, v in in_one.info.items()}
    start(many, 7, 7, *range(6))
    assert (many.obs[0] == many.obs[1]).all()
    assert (many.obs[0] != many.obs[2]).any()


def test_numbers_have_32_bits_even_if_jax_uses_64():
    import jax

    plain = SMAXVectorEnv("1m_vs_1z", 1)
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)  # same effect as JAX_ENABLE_X64=1
    try:
        wide = SMAXVectorEnv("1m_vs_1z", 1)
        for env in (plain, wide):
            start(env, 5)
        for t in range(3):
            actions = random_actions(plain, "wide", t)
            assert wide.step(actions).reward == plain.step(actions).reward
            np.testing.assert_array_equal(wide.state, plain.state)
            assert (wide.obs.dtype, wide.avail_actions.dtype) == (np.float32, np.int32)
    finally:
        jax.config.update("jax_enable_x64", before)


def test_random_draws_differ_between_steps_and_are_reproducible():
    env = build("3m", 4)
    place = [[16, 10], [16, 11], [16, 12], [18, 10], [18, 11], [18, 12]]
    drawn = []
    for _ in range(2):
        start(env, 5, 5, 6, 7)
        for _ in range(2):
            change(env, unit_positions=place, unit_health=40, unit_weapon_cooldowns=0)
            env.avail_actions = np.ones_like(env.avail_actions)
            env.step(np.array([[6, 7, 8]] * 4))
            drawn.append(np.asarray(units(env).unit_weapon_cooldowns)[:, :3].tolist())  # reloading takes a random time
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]
    assert drawn[0][0] == drawn[0][1] != drawn[0][2] != drawn[0][3]


def test_stepping_compiles_once():
    env = build("3m", 4)
    for _ in range(2):
        start(env, 1, 2, 3, 4)
        for t in range(3):
            env.step(random_actions(env, "compile", t))
    assert env._step.__wrapped__._cache_size() == 1


def test_a_battle_ends_exactly_at_its_time_limit():
    env = build("3m", 4)
    assert env.episode_limit == 60
    start(env, 0, 1, 2, 3)
    change(env, unit_health=1e6)
    ends = []
    for _ in range(env.episode_limit + 2):  # stepping after the end does no harm
        transition = env.step(halt(env))
        assert not transition.terminated.any()
        ends.append((transition.truncated.tolist(), transition.info["timeout"].tolist()))
        assert np.isfinite(env.obs).all()
    assert ends == [([False] * 4, [0] * 4)] * 59 + [([True] * 4, [1] * 4)] * 3
    assert SMAXVectorEnv("3m", 1, time_limit=7).episode_limit == 7


def test_won_lost_drawn_and_timed_out_are_distinguished():
    env = build("3m", 4)
    start(env, 0, 1, 2, 3)
    health = np.full((4, 6), 45.0)
    health[0, 3:] = 0
    health[1, :3] = 0
    health[2] = 0
    change(env, unit_health=health, unit_alive=health > 0, step=[0, 0, 0, env.episode_limit - 1])
    env._over[:] = True  # the masks are still those of the previous battles
    reward, terminated, truncated, info = env.step(np.ones((4, 3), dtype=np.int64))
    assert (terminated.tolist(), truncated.tolist()) == ([True, True, True, False], [False, False, False, True])
    assert reward.tolist() == [10, 0, 0, 0]
    outcomes = {name: value.tolist() for name, value in info.items()}
    assert outcomes == {
        "battle_won": [1, 0, 0, 0],
        "draw": [0, 0, 1, 0],
        "timeout": [0, 0, 0, 1],
        "dead_allies": [0, 3, 3, 0],
        "dead_enemies": [3, 0, 3, 0],
    }


def test_a_win_at_the_limit_is_a_win_and_damage_is_rewarded():
    env = build("3m", 4)
    start(env, 0, 1, 2, 3)
    # At the last step three pairs face each other. One shot takes 9 of 45 health.
    place = [[14, 10], [14, 11], [14, 12], [18, 10], [18, 11], [18, 12]]
    change(env, unit_positions=place, unit_health=[45, 45, 45, 4.5, 4.5, 9], step=env.episode_limit - 1)
    env.avail_actions = np.ones_like(env.avail_actions)
    reward, terminated, truncated, info = env.step(np.array([[6, 7, 8]] * 4))
    assert (terminated & ~truncated).all()
    assert (info["battle_won"].tolist(), info["timeout"].tolist(), info["dead_enemies"].tolist()) == (
        [1] * 4,
        [0] * 4,
        [3] * 4,
    )
    np.testing.assert_allclose(reward, 10 * (1 + (0.1 + 0.1 + 0.2) / 3), rtol=1e-5)


def test_actions_are_numbered_as_in_smac():
    env = build("3m", 4)
    start(env, 1, 1, 1, 1)
    change(env, unit_positions=[[16, 8], [16, 16], [16, 24], [30, 2], [30, 16], [30, 30]])
    env.avail_actions = np.ones_like(env.avail_actions)
    env.step(np.array([[2] * 3, [3] * 3, [4] * 3, [5] * 3]))
    moved = np.asarray(units(env).unit_positions)[:, 1] - [16, 16]
    stride = 3.15 / 2
    np.testing.assert_allclose(moved, [[0, stride], [0, -stride], [stride, 0], [-stride, 0]], atol=1e-3)


def test_a_masked_action_is_refused_until_the_battle_is_over():
    env = build("3m", 4)
    start(env, 0, 1, 2, 3)
    out_of_range = np.array([[1, 1, 1]] * 3 + [[1, 1, 6]])
    with pytest.raises(AssertionError, match="avail_actions rules out"):
        env.step(out_of_range)
    health = np.full((4, 6), 45.0)
    health[3, :3] = 0
    change(env, unit_health=health, unit_alive=health > 0)
    assert env.step(np.ones((4, 3), dtype=np.int64)).terminated.tolist() == [False, False, False, True]
    env.step(out_of_range)


@pytest.mark.parametrize(("name", "n_envs", "rounds"), [("3m", 4, 5), ("8m", 8, 2), ("3s5z", 8, 3)])
def test_random_play_never_dies_at_a_wall(name, n_envs, rounds):
    env = build(name, n_envs)
    nearest, dead = np.inf, 0
    for game in range(rounds):
        start(env, *range(game * n_envs, (game + 1) * n_envs))
        over = np.zeros(n_envs, dtype=bool)
        for t in range(env.episode_limit):
            transition = env.step(random_actions(env, "walls", game, t))
            # Dead units stay where they died, so their positions are checked, too.
            position = np.asarray(units(env).unit_positions)[~over, : env.n_agents]
            nearest = min(nearest, position.min(), (32 - position).min())
            over |= transition.over
            if over.all():
                break
        dead += transition.info["dead_allies"].sum()
    assert nearest > 1
    assert dead > 0


def test_random_teams_differ_between_episodes():
    env = SMAXVectorEnv("smacv2_5_units", 1)
    kinds = []
    for seed in range(3):
        start(env, seed)
        assert env.obs.shape == (1, 5, env.obs_size)
        kinds.append(np.asarray(units(env).unit_types)[0].tolist())
    assert kinds[0] != kinds[1] or kinds[1] != kinds[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"common_reward": False}, "set common_reward=True"),
        ({"time_limit": 0}, "env_args.time_limit=0 .* null for the 60 of 3m"),
        ({"time_limit": 2.5}, "env_args.time_limit=2.5 "),
        ({"difficulty": 7}, "env_args.difficulty is unknown to env=smax"),
        ({"map_name": "MMM2"}, "SMAX has no medivac"),
    ],
)
def test_invalid_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_env(**{"map_name": "3m", "seed": 1, **changes})


def test_without_jaxmarl_the_install_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxmarl.environments.smax.heuristic_enemy_smax_env", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[smax\]'"):
        SMAXVectorEnv("3m", 1)


def test_importing_jaxmarl_does_not_change_the_streams(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "jaxmarl"]:
        monkeypatch.delitem(sys.modules, name)
    streams = sys.stdout, sys.stderr, sys.__stdout__
    SMAXVectorEnv("3m", 1)
    assert (sys.stdout, sys.stderr, sys.__stdout__) == streams


def test_smax_is_imported_without_the_other_environments_and_does_not_hide_them():
    code = (
        "import sys; from lolm_plugin.envs.smax import load_jaxmarl; game, _ = load_jaxmarl()\n"
        "assert not {'jaxmarl', 'jaxmarl.environments', 'jaxmarl.environments.storm'} & set(sys.modules)\n"
        "from jaxmarl.environments.smax import HeuristicEnemySMAX, SMAX; assert HeuristicEnemySMAX is game\n"
        "import jaxmarl; assert jaxmarl.make and 'jaxmarl.environments.storm' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_make_env_gives_one_battle_for_epymarls_runners():
    env = make_env(map_name="2m_vs_1z", seed=4, time_limit=None, common_reward=True, reward_scalarisation="sum")
    assert env.get_env_info() == {
        "state_shape": 30,
        "obs_shape": 4 + 12 + 12 + 10,
        "n_actions": 7,
        "n_agents": 2,
        "episode_limit": 150,
    }
