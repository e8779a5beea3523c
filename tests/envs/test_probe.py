"""Known-answer battles: observations, rewards, bounds of the return, and the control without information."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lolm_plugin.envs.probe import ProbeVectorEnv, make_env
from lolm_plugin.envs.probe_tasks import MAPS
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.probe import build
from lolm_plugin.randomness import keyed_seeds
from tests.probe_bounds import best_return_without_target_choice, blind_return, optimal_return

NO_OP, STOP, NORTH, SOUTH, EAST, WEST, ATTACK = range(7)
OPPOSITE = {NORTH: SOUTH, SOUTH: NORTH, EAST: WEST, WEST: EAST}
ONE_STEP = ("retreat", "approach", "target")
THIRD = 1 / 3


def started(map_name, n_envs=200, first_seed=0, **env_args):
    env = ProbeVectorEnv(map_name, n_envs, **env_args)
    env.reset(np.arange(first_seed, first_seed + n_envs, dtype=np.uint32))
    return env


def enemy_side(row):
    """Return the move toward the first enemy, from one observation."""
    dx, dy = row[6], row[7]
    if abs(dx) > abs(dy):
        return EAST if dx > 0 else WEST
    return NORTH if dy > 0 else SOUTH


def right_action(map_name, row):
    """Return the best action for one observation."""
    in_range, distance, own_health = row[4] == 1, row[5] * 9, row[-1]
    if map_name == "retreat":
        return OPPOSITE[enemy_side(row)] if own_health < 0.5 else ATTACK
    if map_name == "approach":
        return ATTACK if in_range else enemy_side(row)
    if map_name == "duel":
        return OPPOSITE[enemy_side(row)] if distance < 1.5 else ATTACK
    return ATTACK + int(np.argmin(row[[8, 13, 18]]))


def play(env, act):
    """Play every copy to its end. Return the returns [n_envs], each copy's last info and its length."""
    returns = np.zeros(env.n_envs)
    over = np.zeros(env.n_envs, dtype=bool)
    length = np.zeros(env.n_envs, dtype=int)
    last = {}
    for _ in range(env.episode_limit):
        step = env.step(act(env))
        returns += np.where(over, 0, step.reward)
        length += ~over
        ending = step.over & ~over
        for name, value in step.info.items():
            last.setdefault(name, np.zeros(env.n_envs))[ending] = value[ending]
        assert not (step.terminated & step.truncated & ~over).any()
        over |= step.over
    assert over.all()
    return returns, last, length


def by_rule(map_name):
    return lambda env: np.array(
        [[right_action(map_name, row[0]) if row.any() else NO_OP] for row in env.obs], dtype=np.int64
    )


def always_attack(env):
    return np.where(env.avail_actions[:, 0, NO_OP], NO_OP, ATTACK)[:, None].astype(np.int64)


def at_random(generator):
    def act(env):
        scores = generator.random(env.avail_actions.shape) * env.avail_actions
        return scores.argmax(-1)

    return act


@pytest.mark.parametrize(
    ("map_name", "obs"),
    [
        # move 4 | can_target, dist, dx, dy, health of each enemy | own health
        ("retreat", [1, 1, 1, 1, 1, THIRD, 0, THIRD, 1, 0.2]),
        ("retreat", [1, 1, 1, 1, 1, THIRD, -THIRD, 0, 1, 0.9]),
        ("approach", [1, 1, 1, 1, 1, THIRD, 0, -THIRD, 1, 1]),
        ("approach", [1, 1, 1, 1, 0, 8 / 9, 8 / 9, 0, 1, 1]),
        ("duel", [0, 0, 1, 1, 1, 1 / 9, -1 / 9, 0, 1, 1]),
        ("duel", [0, 0, 1, 1, 1, 2 / 9, 2 / 9, 0, 1, 1]),
        (
            "target",
            # north, south and east of the agent
            [1, 1, 1, 1, *(1, THIRD, 0, THIRD, 0.5), *(1, THIRD, 0, -THIRD, 0.9), *(1, THIRD, THIRD, 0, 0.2), 1],
        ),
    ],
)
def test_observations_are_in_smac_order(map_name, obs):
    shown = started(map_name).obs[:, 0]
    expected = np.array(obs, dtype=np.float32)

    assert shown.dtype == np.float32
    assert (shown == expected).all(axis=1).any(), np.unique(shown, axis=0)


@pytest.mark.parametrize(("map_name", "n_situations"), [("retreat", 8), ("approach", 8), ("duel", 4), ("target", 6)])
def test_every_start_is_equally_likely(map_name, n_situations):
    situations, counts = np.unique(started(map_name, 8000).obs[:, 0], axis=0, return_counts=True)

    assert len(situations) == n_situations
    assert np.abs(counts / 8000 - 1 / n_situations).max() < 0.02


def test_the_state_has_health_and_position_of_every_unit():
    env = started("target")
    for obs, state in zip(env.obs[:, 0], env.state, strict=True):
        enemies = obs[4:-1].reshape(3, 5)[:, [4, 2, 3]].ravel()
        np.testing.assert_array_equal(state, [1, 0, 0, *enemies])


@pytest.mark.parametrize("map_name", MAPS)
def test_the_layout_matches_the_environment(map_name):
    env = started(map_name)
    layouts = build({"map_name": map_name}, env.n_agents, env.n_actions, {})
    assert (env.obs_size, env.state_size) == (layouts.observation.size, layouts.state.size)
    assert (env.obs.shape, env.state.shape) == ((200, 1, env.obs_size), (200, env.state_size))
    assert env.avail_actions.shape == (200, 1, env.n_actions)

    seen = layouts.observation.decode(torch.from_numpy(env.obs))
    assert seen.enemies.present.all()
    assert seen.own.present.all()
    assert seen.allies.present.shape == (200, 1, 0)
    cells = seen.enemies.fields["dist"] * seen.sight[..., None]
    torch.testing.assert_close(cells, cells.round(), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(seen.enemies.fields["can_target"], env.avail_actions[..., 6:])

    allies, enemies = layouts.state.decode(torch.from_numpy(env.state))
    np.testing.assert_array_equal(allies.fields["health"][:, 0], seen.own.fields["health"][:, 0, 0])
    np.testing.assert_array_equal(enemies.fields["x"], seen.enemies.fields["dx"][:, 0])
    np.testing.assert_array_equal(enemies.fields["y"], seen.enemies.fields["dy"][:, 0])


@pytest.mark.parametrize("map_name", ONE_STEP)
def test_only_the_right_action_is_rewarded(map_name):
    """All situations and actions are checked: 200 seeds cover the at most 8 starts."""
    for action in range(ProbeVectorEnv(map_name, 1).n_actions):
        env = started(map_name)
        right = np.array([right_action(map_name, row[0]) for row in env.obs])
        allowed = env.avail_actions[:, 0, action] == 1
        step = env.step(np.where(allowed, action, STOP)[:, None])
        pays = allowed & (right == action)

        np.testing.assert_array_equal(step.reward, pays.astype(np.float32))
        np.testing.assert_array_equal(step.info["battle_won"], pays.astype(np.float32))
        assert step.reward.dtype == np.float32
        assert step.terminated.all()


@pytest.mark.parametrize("map_name", MAPS)
def test_the_best_policy_earns_the_optimal_return_in_every_episode(map_name):
    env = started(map_name)
    returns, info, length = play(env, by_rule(map_name))

    np.testing.assert_array_equal(returns, optimal_return(map_name))
    assert info["battle_won"].all()
    assert not info["dead_allies"].any()
    np.testing.assert_array_equal(info["dead_enemies"], map_name == "duel")
    assert length.max() <= env.episode_limit


def test_the_bounds_of_each_task():
    """Computed by hand. The best blind plan of the duel alternates between attacking and stepping to one fixed side."""
    assert {name: optimal_return(name) for name in MAPS} == {"retreat": 1, "approach": 1, "duel": 2, "target": 1}
    assert {name: best_return_without_target_choice(name) for name in MAPS} == {
        "retreat": 1,
        "approach": 1,
        "duel": 2,
        "target": pytest.approx(THIRD),
    }
    assert {name: blind_return(name) for name in MAPS} == {
        "retreat": 0.5,
        "approach": (4 * 1 + 4 * 0.25) / 8,
        "duel": (2 + 2 + 0.5 + 0.25) / 4,
        "target": pytest.approx(THIRD),
    }


def test_a_duel_step_by_step():
    """Enemy 2 cells to the east: shoot, take one blow while shooting, then alternate stepping back and shooting."""
    env = started("duel")
    follow = int(np.flatnonzero((env.obs[:, 0] == np.float32([0, 0, 1, 1, 1, 2 / 9, 2 / 9, 0, 1, 1])).all(1))[0])
    expected = [
        # action, reward; afterwards: gap, enemy health, own health
        (ATTACK, 0.25, 1, 0.75, 1.0),
        (ATTACK, 0.25, 1, 0.5, 0.5),
        (WEST, 0.0, 2, 0.5, 0.5),
        (ATTACK, 0.25, 1, 0.25, 0.5),
        (WEST, 0.0, 2, 0.25, 0.5),
    ]
    for action, reward, gap, enemy_health, own_health in expected:
        step = env.step(np.where(env.avail_actions[:, 0, NO_OP], NO_OP, action)[:, None])
        assert step.reward[follow] == reward
        assert not step.terminated[follow]
        row = np.float32([0, 0, 1, 1, 1, gap / 9, gap / 9, 0, enemy_health, own_health])
        np.testing.assert_array_equal(env.obs[follow, 0], row)
        np.testing.assert_array_equal(env.state[follow], np.float32([own_health, 0, 0, enemy_health, gap / 9, 0]))

    step = env.step(np.where(env.avail_actions[:, 0, NO_OP], NO_OP, np.where(env.obs[:, 0, 4], ATTACK, STOP))[:, None])
    assert step.reward[follow] == 1.25
    assert step.terminated[follow]
    assert (step.info["battle_won"][follow], step.info["dead_enemies"][follow]) == (1, 1)
    np.testing.assert_array_equal(env.obs[follow, 0], np.float32([0, 0, 1, 1, 0, 0, 0, 0, 0, 0.5]))
    np.testing.assert_array_equal(env.state[follow], np.float32([0.5, 0, 0, 0, 0, 0]))


def test_always_attacking_loses_the_duel():
    env = started("duel")
    gap = np.rint(env.obs[:, 0, 5] * 9)
    returns, info, _ = play(env, always_attack)

    np.testing.assert_array_equal(returns, np.where(gap == 1, 0.5, 0.75))
    assert returns.mean() < optimal_return("duel") / 2
    assert not info["battle_won"].any()
    assert info["dead_allies"].all()


def test_a_dead_agent_has_only_no_op_and_an_empty_observation():
    env = started("duel")
    play(env, always_attack)

    np.testing.assert_array_equal(env.avail_actions, np.broadcast_to([1, 0, 0, 0, 0, 0, 0], (200, 1, 7)))
    assert not env.obs.any()
    assert not env.state[:, :3].any()
    assert (env.state[:, 3] > 0).all()


def test_running_away_ends_at_the_time_limit():
    env = started("duel")
    away = lambda env: np.where(env.obs[:, 0, 6] > 0, WEST, EAST)[:, None]  # noqa: E731
    returns, info, length = play(env, away)

    assert (length == env.episode_limit).all()
    started_again = started("duel")
    for _ in range(env.episode_limit):
        step = started_again.step(away(started_again))
    assert (step.truncated & ~step.terminated).all()
    assert not returns.any()
    assert not info["battle_won"].any()
    assert env.obs[:, 0, 5].min() > 6 / 9
    assert not env.avail_actions[:, 0, ATTACK].any()


@pytest.mark.parametrize(("map_name", "shuffle_obs"), product(MAPS, (False, True)))
def test_masks_and_observations_agree_at_every_step(map_name, shuffle_obs):
    """As in SMAC, a living agent can stop and never has no-op. The flags in its observation equal its mask."""
    env = started(map_name, shuffle_obs=shuffle_obs)
    act = at_random(np.random.default_rng(0))
    for _ in range(env.episode_limit + 1):
        mask, dead = env.avail_actions[:, 0], ~env.obs[:, 0].any(axis=1)
        np.testing.assert_array_equal(mask[:, NO_OP], dead)
        np.testing.assert_array_equal(mask[:, STOP], ~dead)
        np.testing.assert_array_equal(mask[:, 2:6], env.obs[:, 0, :4])
        np.testing.assert_array_equal(mask[:, 6:], env.obs[:, 0, 4:-1:5])
        env.step(act(env))


def test_the_mask_of_retreat_has_no_information():
    assert (started("retreat").avail_actions == [0, 1, 1, 1, 1, 1, 1]).all()


def test_target_without_a_choice_earns_a_third():
    uniform = lambda env: np.random.default_rng(1).integers(6, 9, (env.n_envs, 1))  # noqa: E731
    lowest_index = always_attack
    for policy in (uniform, lowest_index):
        returns, _, _ = play(started("target", 6000), policy)
        assert returns.mean() == pytest.approx(best_return_without_target_choice("target"), abs=0.025)


def test_the_best_blind_plan_of_the_duel_earns_the_blind_return():
    env = started("duel", 4000)
    plan = iter([ATTACK, WEST] * 4)

    def act(env):
        action, mask = next(plan), env.avail_actions[:, 0]
        return np.where(mask[:, NO_OP], NO_OP, np.where(mask[:, action], action, STOP))[:, None]

    assert play(env, act)[0].mean() == pytest.approx(blind_return("duel"), abs=0.05)


def best_table_earns(map_name, shuffle_obs):
    """Fit the best table from observation to action on 4,000 situations; return its mean reward on 4,000 others."""
    tried = {}
    seeds = np.arange(4000, dtype=np.uint32)
    env = ProbeVectorEnv(map_name, 4000, shuffle_obs=shuffle_obs)
    for action in range(1, env.n_actions):
        env.reset(seeds)
        allowed = env.avail_actions[:, 0, action] == 1
        reward = env.step(np.where(allowed, action, STOP)[:, None]).reward
        env.reset(seeds)
        for row, may, paid in zip(env.obs[:, 0], allowed, reward, strict=True):
            if may:
                tried.setdefault(row.tobytes(), {}).setdefault(action, []).append(paid)
    table = {row: max(paid, key=lambda action: np.mean(paid[action])) for row, paid in tried.items()}
    env.reset(seeds + np.uint32(4000))
    return env.step(np.array([[table[row.tobytes()]] for row in env.obs[:, 0]])).reward.mean()


@pytest.mark.parametrize("map_name", ONE_STEP)
def test_shuffled_observations_have_no_information(map_name):
    assert best_table_earns(map_name, shuffle_obs=False) == 1
    assert best_table_earns(map_name, shuffle_obs=True) == pytest.approx(blind_return(map_name), abs=0.04)


def test_shuffled_observations_of_a_duel_never_show_the_side():
    true, shown = started("duel", 4000), started("duel", 4000, shuffle_obs=True)
    for action in (ATTACK, EAST, ATTACK):
        alive = true.avail_actions[:, 0, NO_OP] == 0
        agree = np.sign(true.obs[alive, 0, 6]) == np.sign(shown.obs[alive, 0, 6])
        assert agree.mean() == pytest.approx(0.5, abs=0.04)
        np.testing.assert_array_equal(agree, np.sign(true.state[alive, 4]) == np.sign(shown.state[alive, 4]))
        for env in (true, shown):
            env.step(np.where(alive, action, NO_OP)[:, None])


@pytest.mark.parametrize("map_name", MAPS)
def test_shuffling_does_not_change_masks_rewards_and_dynamics(map_name):
    true, shown = started(map_name), started(map_name, shuffle_obs=True)
    act = at_random(np.random.default_rng(0))
    differed = False
    for _ in range(true.episode_limit):
        np.testing.assert_array_equal(true.avail_actions, shown.avail_actions)
        differed |= (true.obs != shown.obs).any()
        actions = act(true)
        before, after = true.step(actions), shown.step(actions)
        np.testing.assert_array_equal(before.reward, after.reward)
        np.testing.assert_array_equal(before.terminated, after.terminated)
        for name in before.info:
            np.testing.assert_array_equal(before.info[name], after.info[name])
    assert differed


@pytest.mark.parametrize(("map_name", "shuffle_obs"), product(MAPS, (False, True)))
def test_an_episode_depends_only_on_its_seed(map_name, shuffle_obs):
    seeds = keyed_seeds(3, "test", count=40)
    order = np.random.default_rng(0).permutation(40)
    together = ProbeVectorEnv(map_name, 40, shuffle_obs=shuffle_obs)
    shuffled = ProbeVectorEnv(map_name, 40, shuffle_obs=shuffle_obs)
    alone = ProbeVectorEnv(map_name, 1, shuffle_obs=shuffle_obs)
    for env in (shuffled, alone):  # an earlier episode must have no effect
        env.reset(seeds[: env.n_envs] + np.uint32(1))
        env.step(np.full((env.n_envs, 1), STOP))
    together.reset(seeds)
    shuffled.reset(seeds[order])
    alone.reset(seeds[7:8])
    act = at_random(np.random.default_rng(0))
    for _ in range(together.episode_limit):
        for name in ("obs", "state", "avail_actions"):
            np.testing.assert_array_equal(getattr(together, name)[order], getattr(shuffled, name))
            np.testing.assert_array_equal(getattr(together, name)[7:8], getattr(alone, name))
        actions = act(together)
        step = together.step(actions)
        np.testing.assert_array_equal(step.reward[order], shuffled.step(actions[order]).reward)
        np.testing.assert_array_equal(step.reward[7:8], alone.step(actions[7:8]).reward)


def test_stepping_past_the_end_does_no_harm():
    for map_name in MAPS:
        env = started(map_name)
        play(env, by_rule(map_name))
        step = env.step(np.full((200, 1), ATTACK))
        assert step.terminated.all()
        assert np.isfinite(env.obs).all()


def test_returned_arrays_are_never_modified():
    env = started("duel")
    first = (env.obs, env.state, env.avail_actions, *env.step(always_attack(env))[:2])
    copies = [array.copy() for array in first]
    play(env, always_attack)
    for array, copy in zip(first, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_an_unavailable_action_fails_an_assertion():
    env = started("approach")
    with pytest.raises(AssertionError, match="rules out"):
        env.step(np.full((200, 1), ATTACK))


def test_an_unknown_map_is_refused_and_the_known_ones_named():
    for answer in (lambda name: ProbeVectorEnv(name, 1), optimal_return, blind_return):
        with pytest.raises(ConfigError, match=r"map_name=3m .*retreat, approach, duel, target"):
            answer("3m")


def test_an_unknown_key_is_refused():
    with pytest.raises(ConfigError, match=r"env_args\.time_limit is unknown to env=probe"):
        make_env(map_name="duel", time_limit=3, common_reward=True, reward_scalarisation="sum")


def test_separate_rewards_are_refused():
    with pytest.raises(ConfigError, match="common_reward=True"):
        make_env(map_name="duel", common_reward=False, reward_scalarisation="sum")


def test_one_battle_with_epymarls_interface():
    env = make_env(map_name="duel", seed=5, shuffle_obs=False, common_reward=True, reward_scalarisation="sum")
    info = {"state_shape": 6, "obs_shape": 10, "n_actions": 7, "n_agents": 1, "episode_limit": 8}
    assert env.get_env_info() == info

    wins = []
    for _ in range(4):
        env.reset()
        total, terminated, truncated = 0.0, False, False
        while not (terminated or truncated):
            (obs,) = env.get_obs()
            _, reward, terminated, truncated, info = env.step([right_action("duel", obs)])
            total += reward
        assert total == optimal_return("duel")
        assert set(info) == {"battle_won", "dead_allies", "dead_enemies"}
        wins.append(info["battle_won"])
        assert (env.get_obs()[0].shape, env.get_state().shape) == ((10,), (6,))
    assert wins == [1.0] * 4
    env.close()


def test_the_yaml_of_probe_builds_the_environment():
    path = Path(__file__).parents[2] / "config" / "envs" / "probe.yaml"
    config = yaml.safe_load(path.read_text())
    env = make_env(**config["env_args"], common_reward=True, reward_scalarisation="sum")

    assert config["env"] == "probe"
    assert env.get_env_info()["episode_limit"] == 1
    assert config["test_greedy"]
