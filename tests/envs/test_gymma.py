"""Tasks of Gymnasium and PettingZoo on the bundled host, equal to EPyMARL's gymma."""

import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Sequence

from lolm_plugin.envs import gymma
from lolm_plugin.errors import ConfigError

FORAGING = "lbforaging:Foraging-8x8-2p-3f-v3"
SPREAD = "pz-mpe-simple-spread-v3"


def play(env, steps, seed=0):
    """Return observations and rewards of an episode with random actions."""
    rng = np.random.default_rng(seed)
    results = [env.reset()[0]]
    for _ in range(steps):
        obs, reward, terminated, truncated, _ = env.step(rng.integers(env.get_total_actions(), size=env.n_agents))
        results += [obs, reward]
        if terminated or truncated:
            break
    return results


@pytest.mark.parametrize(
    ("key", "agents", "actions", "size"),
    [(FORAGING, 2, 6, 15), ("rware:rware-tiny-2ag-v2", 2, 5, 71), (SPREAD, 3, 5, 18)],
)
def test_sizes_match_the_task(key, agents, actions, size):
    assert gymma.sizes({"key": key, "time_limit": 9}) == (agents, actions)
    env = gymma.make_env(key=key, time_limit=9, seed=0)
    info = {"state_shape": agents * size, "obs_shape": size, "n_actions": actions, "n_agents": agents}
    assert env.get_env_info() == {**info, "episode_limit": 9}
    env.reset()
    assert np.array(env.get_obs()).shape == (agents, size)
    assert np.array(env.get_obs()).dtype == np.float32
    assert (env.get_state() == np.concatenate(env.get_obs())).all()
    assert np.array(env.get_avail_actions()).tolist() == [[1] * actions] * agents


def test_steps_equal_those_of_the_wrapped_task():
    env, plain = gymma.make_env(key=FORAGING, time_limit=50, seed=3), gymnasium.make(FORAGING, disable_env_checker=True)
    obs, _ = env.reset()
    drawn = env._task._env.unwrapped.np_random_seed
    expected, _ = plain.reset(seed=drawn)
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert np.array_equal(obs, expected)
        actions = rng.integers(6, size=2)
        obs, reward, terminated, truncated, _ = env.step(actions)
        expected, rewards, done, cut, _ = plain.step(actions.tolist())
        assert reward == pytest.approx(sum(rewards))
        assert (terminated or truncated) == (done or cut)
        if done or cut:
            break


@pytest.mark.parametrize("key", [FORAGING, SPREAD])
def test_an_episode_depends_only_on_seed_and_number(key):
    one, other = (gymma.make_env(key=key, time_limit=10, seed=5) for _ in range(2))
    first, second = play(one, 10), play(one, 10)
    other.episode = 1
    assert _same(second, play(other, 10))
    assert not _same(first, second)


def _same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_time_limit_cuts_an_episode_off():
    env = gymma.make_env(key="rware:rware-tiny-2ag-v2", time_limit=3, seed=0)
    env.reset()
    assert [env.step([0, 0])[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


def test_rewards_are_summed_averaged_or_separate():
    rewards = {}
    for name, options in {
        "sum": {},
        "mean": {"reward_scalarisation": "mean"},
        "apart": {"common_reward": False},
    }.items():
        env = gymma.make_env(key=SPREAD, time_limit=24, seed=0, **options)
        env.reset()
        rewards[name] = env.step([1, 2, 3])[1]
    assert len(rewards["apart"]) == 3
    assert rewards["sum"] == pytest.approx(sum(rewards["apart"]))
    assert rewards["mean"] == pytest.approx(rewards["sum"] / 3)


def test_the_last_step_of_a_pettingzoo_task_has_its_reward():
    env = gymma.make_env(key=SPREAD, time_limit=25, seed=0)
    env.reset()
    for _ in range(25):
        obs, reward, _, truncated, _ = env.step([0, 0, 0])
    assert truncated
    assert reward < 0
    assert np.array(obs).shape == (3, 18)


@pytest.mark.parametrize(
    ("env_args", "words"),
    [
        ({"key": "CartPole-v1"}, r"env_args\.key=CartPole-v1 has one agent"),
        ({"key": "nowhere:Task-v0"}, r"needs the Python package nowhere.*lolm_plugin\[gymma\]"),
        ({"key": "pz-mpe-simple-spred-v3"}, r"env_args\.key=pz-mpe-simple-spred-v3 is not a task of PettingZoo"),
        ({"key": "lbforaging:Foraging-8x8-2p-9f-v3"}, r"cannot be made .* change the key"),
        ({"key": FORAGING, "reward_scalarisation": "max"}, r"reward_scalarisation=max is not a choice"),
        (
            {"key": FORAGING, "pretrained_wrapper": "PretrainedTag"},
            r"pretrained_wrapper=PretrainedTag needs an EPyMARL",
        ),
    ],
)
def test_unsupported_tasks_are_refused(env_args, words):
    with pytest.raises(ConfigError, match=words):
        gymma.make_env(**{"time_limit": 10, **env_args})


def test_a_task_without_a_key_is_refused():
    with pytest.raises(ConfigError, match=r"env_args\.key is missing"):
        gymma.sizes({"map_name": "3m", "key": None})


def test_a_replay_is_refused():
    with pytest.raises(ConfigError, match="save_replay=True"):
        gymma.make_env(key=FORAGING, time_limit=10).save_replay()


class Leavers:
    """A task with PettingZoo's parallel interface: agent i is terminated after i + 1 steps; ``clock`` truncates all."""

    possible_agents = ("first", "second", "third")
    clock = None

    def observation_space(self, agent):
        return Box(0.0, 9.0, (2,), np.float32)

    def action_space(self, agent):
        return Discrete(3, start=1)

    def reset(self, seed=None):
        self.agents, self.t, self.taken = list(self.possible_agents), 0, []
        return self._seen(), {}

    def step(self, actions):
        assert list(actions) == self.agents, "only the present agents act"
        self.taken.append(actions)
        self.t += 1
        order = {agent: i for i, agent in enumerate(self.possible_agents)}
        cut = dict.fromkeys(self.agents, self.t == self.clock)
        over = {agent: self.t > order[agent] and not cut[agent] for agent in self.agents}
        seen, rewards = self._seen(), dict.fromkeys(self.agents, 1.0)
        self.agents = [agent for agent in self.agents if not (over[agent] or cut[agent])]
        return seen, rewards, over, cut, {}

    def _seen(self):
        return {agent: np.full(2, 1 + self.t, np.float32) for agent in self.agents}

    def close(self):
        pass


@pytest.fixture
def leavers(monkeypatch):
    """Return a function that builds a task whose agents leave one by one, at the latest at step ``clock``."""

    def make(clock=None):
        monkeypatch.setattr(Leavers, "clock", clock)
        monkeypatch.setitem(sys.modules, "pettingzoo.made.leavers_v0", SimpleNamespace(parallel_env=Leavers))
        env = gymma.make_env(key="pz-made-leavers-v0", time_limit=10, seed=0)
        env.reset()
        return env

    return make


def test_agents_that_leave_early_have_no_choice_and_no_reward(leavers):
    env = leavers()
    assert env.get_avail_actions() == [[1, 1, 1]] * 3
    assert env.step([0, 1, 2])[1:4] == (3.0, False, False)
    assert env.get_avail_actions() == [[1, 0, 0], [1, 1, 1], [1, 1, 1]]
    assert np.array(env.get_obs()).tolist() == [[0, 0], [2, 2], [2, 2]]
    assert env.step([0, 1, 2])[1:4] == (2.0, False, False)
    assert env.step([0, 0, 2])[1:4] == (1.0, True, False)
    # The action space begins at 1, and only present agents act.
    first, second, third = env._task._env.taken
    assert (first, second) == ({"first": 1, "second": 2, "third": 3}, {"second": 2, "third": 3})
    assert third == {"third": 3}


def test_a_task_cut_off_by_its_own_time_limit_is_truncated(leavers):
    env = leavers(clock=2)
    assert env.step([0, 0, 0])[2:4] == (False, False)
    assert env.step([0, 0, 0])[2:4] == (False, True)
    assert np.array(env.get_obs()).tolist() == [[0, 0], [3, 3], [3, 3]]


def test_a_space_without_a_fixed_size_is_refused(leavers, monkeypatch):
    monkeypatch.setattr(Leavers, "observation_space", lambda self, agent: Sequence(Box(0.0, 1.0)))
    with pytest.raises(ConfigError, match=r"key=pz-made-leavers-v0 has observations without a fixed size .*Sequence"):
        leavers()
