import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lolm_plugin import registry
from lolm_plugin.envs import base
from lolm_plugin.envs.base import SingleEnv, Transition
from lolm_plugin.envs.smax import SMAXVectorEnv
from lolm_plugin.errors import ConfigError
from lolm_plugin.host.bundled.episode_batch import EpisodeBatch
from lolm_plugin.randomness import keyed_generator, keyed_seeds
from lolm_plugin.runners.vector_runner import VectorRunner


class CountDown:
    """An environment whose episode of seed s lasts ``1 + s % 4`` steps and shows s and the step.

    On the map ``cut`` a fourth step is a time limit reported as StarCraft does, on ``late`` as Gymnasium does. On other
    maps it terminates the episode.
    """

    n_agents, n_enemies, n_actions, obs_size, state_size, episode_limit = 2, 1, 7, 3, 2, 4

    def __init__(self, map_name, n_envs, flavour="plain"):
        self.map_name, self.n_envs, self.flavour = map_name, n_envs, flavour
        self.seeds, self.closed = [], False

    def reset(self, seeds):
        self.seeds.append(seeds.tolist())
        self.length, self.t = 1 + seeds % 4, 0
        self._show()

    def step(self, actions):
        self.t += 1
        self._show()
        over = self.t >= self.length
        late = over & (self.length == 4) & (self.map_name == "late")
        reward = (self.t + actions.sum(1)).astype(np.float32)
        info = {"battle_won": (self.length == 2).astype(np.float32), "steps": np.full(self.n_envs, self.t)}
        if self.map_name == "cut":
            info["episode_limit"] = self.length == 4
        return Transition(reward, over & ~late, late, info)

    def close(self):
        self.closed = True

    def _show(self):
        shown = [[[length, self.t, agent] for agent in range(2)] for length in self.length]
        self.obs = np.array(shown, np.float32)
        self.state = self.obs[:, 0, :2]
        self.avail_actions = np.ones((self.n_envs, 2, 7), np.int32)


class Mac:
    """A controller whose actions depend only on observations; it records its calls."""

    def __init__(self):
        self.calls, self.hidden = [], []
        self.action_selector = SimpleNamespace(epsilon=0.5)

    def init_hidden(self, batch_size):
        self.hidden.append(batch_size)

    def select_actions(self, batch, t_ep, t_env, bs=slice(None), test_mode=False):
        self.calls.append(SimpleNamespace(t=t_ep, t_env=t_env, rows=bs, test=test_mode, grad=torch.is_grad_enabled()))
        obs, mask = batch["obs"][bs, t_ep], batch["avail_actions"][bs, t_ep]
        scores = [keyed_generator(t_ep, int(row.sum() * 1e4)).random(mask.shape[1:]) for row in obs.abs()]
        return (torch.from_numpy(np.array(scores)) * mask).argmax(-1)


class OneHot:
    def __init__(self, size):
        self.size = size

    def transform(self, tensor):
        return torch.nn.functional.one_hot(tensor[..., 0], self.size).float()

    def infer_output_info(self, vshape_in, dtype_in):
        return (self.size,), torch.float32


class Log:
    def __init__(self):
        self.logged = []

    def log_stat(self, name, value, t_env):
        self.logged.append((name, value, t_env))


@pytest.fixture(autouse=True)
def _count_down(monkeypatch):
    monkeypatch.setitem(registry.VECTOR_ENVS, "countdown", f"{__name__}:CountDown")


def settings(**changes):
    defaults = {
        "env": "countdown",
        "env_args": {"map_name": "plain", "seed": 9},
        "seed": 9,
        "batch_size_run": 6,
        "common_reward": True,
        "reward_scalarisation": "sum",
        "render": False,
        "save_replay": False,
        "device": "cpu",
        "test_nepisode": 6,
        "runner_log_interval": 1,
    }
    return SimpleNamespace(**{**defaults, **changes})


def batch_arguments(info):
    scheme = {
        "state": {"vshape": info["state_shape"]},
        "obs": {"vshape": info["obs_shape"], "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (info["n_actions"],), "group": "agents", "dtype": torch.int},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
        "reward": {"vshape": (1,)},
    }
    preprocess = {"actions": ("actions_onehot", [OneHot(info["n_actions"])])}
    return {"scheme": scheme, "groups": {"agents": info["n_agents"]}, "preprocess": preprocess}


def make(**changes):
    runner = VectorRunner(settings(**changes), Log(), SimpleNamespace(EpisodeBatch=EpisodeBatch))
    runner.setup(**batch_arguments(runner.get_env_info()), mac=Mac())
    return runner


def one_by_one(env, n_episodes):
    """Return the batch that an episode runner would store when it plays the episodes one after the other."""
    info, mac = env.get_env_info(), Mac()
    kwargs = batch_arguments(info)
    batch = EpisodeBatch(batch_size=n_episodes, max_seq_length=info["episode_limit"] + 1, **kwargs)

    def show(i, t):
        seen = {"state": [env.get_state()], "avail_actions": [env.get_avail_actions()], "obs": [env.get_obs()]}
        batch.update(seen, bs=[i], ts=t)

    for i in range(n_episodes):
        env.reset()
        t, over = 0, False
        while not over:
            show(i, t)
            actions = mac.select_actions(batch, t, 0, [i])
            _, reward, terminated, truncated, info = env.step(actions[0])
            over = terminated or truncated
            ended = over and not info.get("episode_limit", False)
            data = {"actions": actions.unsqueeze(1), "reward": [(reward,)], "terminated": [(ended,)]}
            batch.update(data, bs=[i], ts=t)
            t += 1
        show(i, t)
        batch.update({"actions": mac.select_actions(batch, t, 0, [i]).unsqueeze(1)}, bs=[i], ts=t)
    return batch


@pytest.mark.parametrize(
    ("n_envs", "env", "env_args", "single"),
    [
        (9, "countdown", {"map_name": "plain"}, CountDown),
        (9, "countdown", {"map_name": "cut"}, CountDown),
        (1, "countdown", {"map_name": "plain"}, CountDown),
        (5, "smax", {"map_name": "1m_vs_1z", "time_limit": 25}, SMAXVectorEnv),
    ],
)
def test_the_batch_equals_that_of_single_episodes(monkeypatch, n_envs, env, env_args, single):
    runner = make(env=env, env_args={**env_args, "seed": 9}, batch_size_run=n_envs)
    batch = runner.run()
    seeds = keyed_seeds(9, "train", 0, 0, count=n_envs)
    monkeypatch.setattr(base, "keyed_seeds", lambda seed, purpose, i, count: seeds[i : i + count])
    expected = one_by_one(SingleEnv(single(n_envs=1, **env_args), seed=0), n_envs)
    assert (batch.batch_size, batch.max_seq_length) == (n_envs, runner.episode_limit + 1)
    assert set(batch.scheme) == set(expected.scheme)
    for key in batch.scheme:
        torch.testing.assert_close(batch[key], expected[key], rtol=0, atol=0, msg=key)
    steps = batch["filled"].sum(1)[:, 0] - 1
    assert runner.t_env == steps.sum()
    assert n_envs == 1 or len(set(steps.tolist())) > 1, "all episodes were as long"


def test_the_controller_acts_once_more_after_each_episodes_end():
    runner = make()
    batch = runner.run()
    lengths = runner.env.length.tolist()
    assert len(set(lengths)) > 2
    expected = [[i for i in range(6) if lengths[i] >= t] for t in range(max(lengths) + 1)]
    assert [call.rows for call in runner.mac.calls] == expected
    assert [call.t for call in runner.mac.calls] == list(range(max(lengths) + 1))
    assert not any(call.test or call.grad or call.t_env for call in runner.mac.calls)
    assert runner.mac.hidden == [6]
    assert batch["filled"][..., 0].sum(1).tolist() == [length + 1 for length in lengths]
    assert batch["terminated"][..., 0].argmax(1).tolist() == [length - 1 for length in lengths]


def test_each_step_is_stored_in_two_parts(monkeypatch):
    written, update = [], EpisodeBatch.update

    def recorded(self, data, bs=slice(None), ts=slice(None), mark_filled=True):
        written.append((ts, sorted(data), bs))
        update(self, data, bs, ts, mark_filled)

    monkeypatch.setattr(EpisodeBatch, "update", recorded)
    runner = make()
    batch = runner.run()
    last, first_end = runner.env.length.max(), runner.env.length.min()
    acted, seen = ["actions", "reward", "terminated"], ["avail_actions", "obs", "state"]
    middle = [part for t in range(last) for part in ((t, acted), (t + 1, seen))]
    assert [(t, fields) for t, fields, _ in written] == [(0, seen), *middle, (last, ["actions"])]
    assert all((bs == slice(None)) == (t <= first_end) for t, _, bs in written if t != first_end + 1)
    assert batch["reward"].dtype == torch.float32


@pytest.mark.parametrize(
    ("map_name", "bootstrap", "left_open"),
    [
        *(("plain", bootstrap, False) for bootstrap in (None, True, False)),
        *(("cut", bootstrap, True) for bootstrap in (None, True, False)),  # False is applied by the learner
        *(("late", bootstrap, bootstrap is True) for bootstrap in (None, True, False)),
    ],
)
def test_a_time_limit_is_stored_as_the_key_says(map_name, bootstrap, left_open):
    batch = make(env_args={"map_name": map_name}, bootstrap_time_limit=bootstrap, batch_size_run=9).run()
    lengths = batch["filled"].sum(1)[:, 0] - 1
    assert (lengths == 4).any()
    ends = (lengths < 4) | (not left_open)
    assert batch["terminated"].sum(1)[:, 0].tolist() == ends.long().tolist()
    steps = torch.arange(batch.max_seq_length) == lengths[:, None] - 1
    assert (batch["terminated"][..., 0] <= steps).all()


def test_time_limits_of_smax_are_bootstrapped_if_set():
    env_args = {"map_name": "1m_vs_1z", "time_limit": 3}  # too short for a win
    for bootstrap, ends in ((None, 1), (True, 0)):
        runner = make(env="smax", env_args=env_args, batch_size_run=2, bootstrap_time_limit=bootstrap)
        assert runner.run()["terminated"].sum(1)[:, 0].tolist() == [ends] * 2
        assert ("timeout_mean", 1.0, 6) in runner.logger.logged


def test_a_step_terminated_and_truncated_counts_as_terminated_with_one_warning(caplog):
    runner = make(bootstrap_time_limit=True)
    runner.logger.console_logger = logging.getLogger("vector")
    for _ in range(2):
        assert runner.stored_terminated(np.array([True, False]), np.array([True, True]), {}).tolist() == [True, False]
    (record,) = caplog.records
    assert "env_args.time_limit=3, one step less" in record.getMessage()


def test_an_agent_without_an_available_action_stops_the_run(monkeypatch):
    show = CountDown._show

    def masked(self):
        show(self)
        self.avail_actions[1, 1] = self.t < 1  # no action in the state after the first step

    monkeypatch.setattr(CountDown, "_show", masked)
    runner = make(batch_size_run=4)
    over = keyed_seeds(9, "train", 0, 0, count=4)[1] % 4 == 0
    assert not over, "its episode is not over after the first step"
    with pytest.raises(
        ConfigError, match=r"^Agent 1 has no available action at step 1 of environment 1 \(env=countdown\)"
    ):
        runner.run()


def test_test_episodes_do_not_count_as_environment_steps():
    runner = make()
    runner.run(test_mode=True)
    assert runner.t_env == 0
    assert all(call.test for call in runner.mac.calls)
    runner.run()
    runner.run()
    first, second = ([1 + seed % 4 for seed in seeds] for seeds in runner.env.seeds[1:])
    assert runner.t_env == sum(first) + sum(second)
    assert runner.mac.calls[-1].t_env == sum(first)


def test_seeds_are_keyed_by_purpose_steps_and_episode():
    runner = make(test_nepisode=12)
    runner.run(test_mode=True)
    runner.run(test_mode=True)
    runner.run()
    t_env = runner.t_env
    runner.run(test_mode=True)
    runner.run()
    tests = keyed_seeds(9, "test", 0, 0, count=12).tolist()
    keys = [("train", 0), ("test", t_env), ("train", t_env)]
    others = [keyed_seeds(9, *key, 0, count=6).tolist() for key in keys]
    assert runner.env.seeds == [tests[:6], tests[6:], *others]

    resumed = make()
    resumed.t_env = t_env
    resumed.run()
    assert resumed.env.seeds[0] == runner.env.seeds[-1]


def test_logged_infos_are_of_each_episodes_last_step():
    runner = make()
    assert runner.log_train_stats_t < 0
    batch = runner.run()
    lengths = batch["filled"].sum(1)[:, 0].numpy() - 1
    returns = batch["reward"].sum(1)[:, 0].double().numpy()
    logged = {name: value for name, value, _ in runner.logger.logged}
    assert logged == pytest.approx(
        {
            "return_mean": returns.mean(),
            "return_std": returns.std(),
            "ep_length_mean": lengths.mean(),
            "steps_mean": lengths.mean(),
            "battle_won_mean": (lengths == 2).mean(),
            "epsilon": 0.5,
        }
    )
    assert {t_env for *_, t_env in runner.logger.logged} == {runner.t_env} == {runner.log_train_stats_t}
    runner.logger.logged.clear()
    runner.log_train_stats_t = runner.t_env
    runner.run(test_mode=True)
    assert {name for name, *_ in runner.logger.logged} == {f"test_{name}" for name in logged if name != "epsilon"}


def test_close_env_closes_the_environment():
    runner = make()
    runner.close_env()
    assert runner.env.closed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "sc2"}, "runner=vector cannot step env=sc2.*set runner=parallel"),
        ({"common_reward": False}, "set common_reward=True"),
        ({"render": True}, "set render=False"),
        ({"save_replay": True}, "set save_replay=False"),
    ],
)
def test_unsupported_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        make(**changes)


def test_there_is_no_replay():
    with pytest.raises(ConfigError, match="set save_replay=False"):
        make().save_replay()


@pytest.mark.parametrize("evaluate", [False, True])
@pytest.mark.parametrize("test_nepisode", [1, 5, 6, 8, 13])
def test_a_test_counts_exactly_test_nepisode_episodes_of_the_same_battles(test_nepisode, evaluate):
    runner = make(test_nepisode=test_nepisode, evaluate=evaluate)
    for _ in range(-(-test_nepisode // 6)):
        batch = runner.run(test_mode=True)
    lengths = 1 + keyed_seeds(9, "test", 0, 0, count=test_nepisode) % 4
    logged = {name: value for name, value, _ in runner.logger.logged}
    assert logged["test_ep_length_mean"] == pytest.approx(lengths.mean())
    assert logged["test_battle_won_mean"] == pytest.approx((lengths == 2).mean())
    last = (test_nepisode - 1) % 6 + 1
    assert batch["filled"][:, 0, 0].tolist() == [1] * last + [0] * (6 - last)  # the others stay empty
    assert [len(call.rows) for call in runner.mac.calls if call.t == 0][-1] == last


def test_a_second_test_at_the_same_step_plays_the_same_battles():
    runner = make(test_nepisode=8)
    for _ in range(2):
        runner.begin_test()
        for _ in range(2):
            runner.run(test_mode=True)
    assert runner.env.seeds[:2] == runner.env.seeds[2:]


def test_idle_copies_take_available_actions():
    runner = VectorRunner(
        settings(env="smax", env_args={"map_name": "2m_vs_1m"}, batch_size_run=3, test_nepisode=4),
        Log(),
        SimpleNamespace(EpisodeBatch=EpisodeBatch),
    )
    runner.setup(**batch_arguments(runner.get_env_info()), mac=Mac())
    for _ in range(2):  # the environment rejects an unavailable action
        runner.run(test_mode=True)
    assert [name for name, *_ in runner.logger.logged].count("test_return_mean") == 1


def test_an_evaluation_plays_exactly_test_nepisode_episodes():
    runner = make(evaluate=True, test_nepisode=12)
    batches = [runner.run(test_mode=True) for _ in range(12)]
    assert len(runner.env.seeds) == 2
    assert all(batch is batches[1] for batch in batches[1:])
    assert [name for name, _, _ in runner.logger.logged].count("test_return_mean") == 1
