import numpy as np
import pytest
import torch

from lolm_plugin.envs.base import SingleEnv, Transition
from lolm_plugin.errors import ConfigError
from lolm_plugin.randomness import keyed_seeds


class Counter:
    """Two agents that observe the episode's seed and the step; an episode has two steps."""

    n_envs, n_agents, n_enemies, n_actions, obs_size, state_size, episode_limit = 1, 2, 1, 7, 2, 3, 2

    def __init__(self):
        self.seeds, self.taken, self.closed = [], [], False

    def reset(self, seeds):
        self.seeds.append(seeds.copy())
        self.t = 0
        self._show()

    def step(self, actions):
        self.taken.append(actions.copy())
        self.t += 1
        self._show()
        over = np.array([self.t == 2])
        never = np.zeros(1, bool)
        return Transition(np.array([0.5], np.float32), over, never, {"battle_won": over.astype(np.float32)})

    def close(self):
        self.closed = True

    def _show(self):
        self.obs = np.array([[[self.seeds[-1][0] % 97, self.t], [0, self.t]]], np.float32)
        self.state = np.array([[1, 2, self.t]], np.float32)
        self.avail_actions = np.array([[[0, 1, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0]]], np.int32)


@pytest.fixture
def env():
    return SingleEnv(Counter(), seed=11)


def test_an_episode_with_epymarls_interface(env):
    obs, info = env.reset()
    assert info == {}
    assert [row.tolist() for row in obs] == [row.tolist() for row in env.get_obs()]
    obs, reward, terminated, truncated, info = env.step(torch.tensor([5, 0]))
    assert (reward, terminated, truncated, info) == (0.5, False, False, {"battle_won": 0.0})
    assert env.vector_env.taken[0].tolist() == [[5, 0]]
    assert env.vector_env.taken[0].dtype == np.int64
    assert (obs[1].tolist(), env.get_state().tolist()) == ([0, 1], [1, 2, 1])
    *_, terminated, truncated, info = env.step([1, 0])
    assert (terminated, truncated, info) == (True, False, {"battle_won": 1.0})
    # Sacred would store NumPy numbers as arrays.
    assert [type(x) for x in (reward, terminated, truncated, info["battle_won"])] == [float, bool, bool, float]


def test_a_time_limit_is_truncated_as_in_gymnasium(env, monkeypatch):
    env.reset()
    late = Transition(np.zeros(1, np.float32), np.array([False]), np.array([True]), {})
    monkeypatch.setattr(env.vector_env, "step", lambda actions: late)
    assert env.step([1, 0])[2:4] == (False, True)


def test_sizes_and_getters(env):
    env.reset()
    sizes = {"state_shape": 3, "obs_shape": 2, "n_actions": 7, "n_agents": 2, "episode_limit": 2}
    assert env.get_env_info() == sizes
    assert (env.get_obs_size(), env.get_state_size(), env.get_total_actions()) == (2, 3, 7)
    assert env.get_obs_agent(1).tolist() == env.get_obs()[1].tolist() == [0, 0]
    assert env.get_avail_agent_actions(1).tolist() == env.get_avail_actions()[1].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert np.array([env.get_obs()]).shape == (1, 2, 2)
    assert env.get_stats() == {}
    env.render()
    env.close()
    assert env.vector_env.closed


def drawn(env):
    return [int(seeds[0]) for seeds in env.vector_env.seeds]


def test_episodes_are_keyed_by_seed_and_number(env):
    for _ in range(3):
        env.reset()
    assert drawn(env) == [int(keyed_seeds(11, "episode", i, count=1)[0]) for i in range(3)]
    assert len(set(drawn(env))) == 3
    assert env.vector_env.seeds[0].dtype == np.uint32

    other = SingleEnv(Counter(), seed=11)
    other.episode = 2
    other.reset()
    assert drawn(other) == drawn(env)[2:]
    assert other.episode == 3


def test_a_new_seed_starts_at_episode_0(env):
    env.reset()
    env.reset(seed=12)
    env.reset()
    env.seed(11)
    env.reset()
    expected = [keyed_seeds(seed, "episode", i, count=1)[0] for seed, i in [(11, 0), (12, 0), (12, 1), (11, 0)]]
    assert drawn(env) == [int(seed) for seed in expected]


def test_there_is_no_replay(env):
    with pytest.raises(ConfigError, match="save_replay=True"):
        env.save_replay()
