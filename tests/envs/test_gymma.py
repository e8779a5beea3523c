"""Gymnasium's and PettingZoo's tasks behind the bundled host, as EPyMARL's gymma has them."""

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
    """Observations and rewards of an episode of random actions."""
    rng = np.random.default_rng(seed)
    found = [env.reset()[0]]
    for _ in range(steps):
        obs, reward, terminated, truncated, _ = env.step(rng.integers(env.get_total_actions(), size=env.n_agents))
        found += [obs, reward]
        if terminated or truncated:
            break
    return found


@pytest.mark.parametrize(
    ("key", "agents", "actions", "size"),
    [(FORAGING, 2, 6, 15), ("rware:rware-tiny-2ag-v2", 2, 5, 71), (SPREAD, 3, 5, 18)],
)
def test_sizes_are_those_of_the_task(key, agents, actions, size):
    assert gymma.sizes({"key": key, "time_limit": 9}) == (agents, actions)
    env = gymma.make_env(key=key, time_limit=9, seed=0)
    info = {"state_shape": agents * size, "obs_shape": size, "n_actions": actions, "n_agents": agents}
    assert env.get_env_info() == {**info, "episode_limit": 9}
    env.reset()
    assert np.array(env.get_obs()).shape == (agents, size)
    assert np.array(env.get_obs()).dtype == np.float32
    assert (env.get_state() == np.concatenate(env.get_obs())).all()
    assert np.array(env.get_avail_actions()).tolist() == [[1] * actions] * agents


def test_steps_are_those_of_the_task_itself():
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
def test_an_episode_follows_from_seed_and_number_alone(key):
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


def test_rewards_are_summed_averaged_or_apart():
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
        ({"key": "pz-mpe-simple-spred-v3"}, r"env_args\.key=pz-mpe-simple-spred-v3 is no task of PettingZoo"),
        ({"key": "lbforaging:Foraging-8x8-2p-9f-v3"}, r"cannot be made .* change the key"),
        ({"key": FORAGING, "reward_scalarisation": "max"}, r"reward_scalarisation=max is not a choice"),
        (
            {"key": FORAGING, "pretrained_wrapper": "PretrainedTag"},
            r"pretrained_wrapper=PretrainedTag needs an EPyMARL",
        ),
    ],
)
def test_what_cannot_be_played_is_refused_in_a_sentence(env_args, words):
    with pytest.raises(ConfigError, match=words):
        gymma.make_env(**{"time_limit": 10, **env_args})


def test_a_task_without_a_key_is_refused():
    with pytest.raises(ConfigError, match=r"env_args\.key is missing"):
        gymma.sizes({"map_name": "3m", "key": None})


def test_a_replay_is_refused():
    with pytest.raises(ConfigError, match="save_replay=True"):
        gymma.make_env(key=FORAGING, time_limit=10).save_replay()


class Leavers:
    """PettingZoo's parallel interface: agent i leaves after i + 1 steps, each by its own end or all cut off."""

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
        assert list(actions) == self.agents, "only those that are there act"
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
    """``leavers(clock)``: a task whose agents leave one after the other, all of them at ``clock`` at the latest."""

    def make(clock=None):
        monkeypatch.setattr(Leavers, "clock", clock)
        monkeypatch.setitem(sys.modules, "pettingzoo.made.leavers_v0", SimpleNamespace(parallel_env=Leavers))
        env = gymma.make_env(key="pz-made-leavers-v0", time_limit=10, seed=0)
        env.reset()
        return env

    return make


def test_agents_that_leave_early_have_no_choice_and_no_reward_until_the_others_are_done(leavers):
    env = leavers()
    assert env.get_avail_actions() == [[1, 1, 1]] * 3
    assert env.step([0, 1, 2])[1:4] == (3.0, False, False)
    assert env.get_avail_actions() == [[1, 0, 0], [1, 1, 1], [1, 1, 1]]
    assert np.array(env.get_obs()).tolist() == [[0, 0], [2, 2], [2, 2]]
    assert env.step([0, 1, 2])[1:4] == (2.0, False, False)
    assert env.step([0, 0, 2])[1:4] == (1.0, True, False)
    # Of a space that begins at 1, and for those alone that were there.
    first, second, third = env._task._env.taken
    assert (first, second) == ({"first": 1, "second": 2, "third": 3}, {"second": 2, "third": 3})
    assert third == {"third": 3}


def test_a_task_cut_off_by_its_own_clock_says_so(leavers):
    env = leavers(clock=2)
    assert env.step([0, 0, 0])[2:4] == (False, False)
    assert env.step([0, 0, 0])[2:4] == (False, True)
    assert np.array(env.get_obs()).tolist() == [[0, 0], [3, 3], [3, 3]]


def test_a_space_of_no_fixed_size_is_refused(leavers, monkeypatch):
    monkeypatch.setattr(Leavers, "observation_space", lambda self, agent: Sequence(Box(0.0, 1.0)))
    with pytest.raises(ConfigError, match=r"key=pz-made-leavers-v0 has observations of no fixed size .*Sequence"):
        leavers()
