"""Global generators and unfinished episode statistics are restored exactly."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lolm_plugin.checkpoints import MANIFEST, Checkpoint, read_facts_unchecked
from lolm_plugin.host.bundled.logger import Logger
from lolm_plugin.run import loop_state
from lolm_plugin.run.loop_state import LoopState
from lolm_plugin.runners.episode_stats import EpisodeStats


class OursRunner:
    def __init__(self, args, logger):
        self.t_env, self.stats = 40, EpisodeStats(args, logger)

    def state(self):
        return self.stats.state()

    def load_state(self, state):
        self.stats.load_state(state)


class HostsRunner:
    """Runner with the attributes of EPyMARL's own runners."""

    def __init__(self, args, logger):
        self.t_env, self.log_train_stats_t = 40, -1000000
        self.train_returns, self.train_stats = [], {}


def parts(runner, common_reward=True):
    args = SimpleNamespace(common_reward=common_reward, test_nepisode=2, runner_log_interval=100, n_agents=2)
    logger = Logger(SimpleNamespace(info=lambda text: None))
    learner = SimpleNamespace(last_log=30)
    return SimpleNamespace(runner=runner(args, logger), logger=logger, learner=learner, args=args)


def restored(parts, folder):
    return loop_state.load(parts, Checkpoint(folder, read_facts_unchecked(folder)))


def test_global_generators_continue(tmp_path):
    before = parts(OursRunner)
    folder = tmp_path / "40"
    folder.mkdir()
    loop_state.save(before, LoopState(episode=4), folder)
    drawn = random.random(), np.random.rand(), torch.rand(3).tolist()
    assert drawn != (random.random(), np.random.rand(), torch.rand(3).tolist())
    assert restored(parts(OursRunner), folder) == LoopState(episode=4)
    assert drawn == (random.random(), np.random.rand(), torch.rand(3).tolist())


@pytest.mark.parametrize("common_reward", [True, False])
def test_unfinished_statistics_are_restored(tmp_path, common_reward):
    returns = [2.5, 1.0] if common_reward else [np.array([2.5, 1.0]), np.array([1.0, 0.0])]
    before = parts(OursRunner, common_reward)
    before.runner.stats.log_train_stats_t = 30
    infos = [{"battle_won": np.float32(1)}, {"battle_won": 0}]
    before.runner.stats.record(returns, [3, 4], infos, t_env=40, test_mode=False)
    folder = tmp_path / "40"
    folder.mkdir()
    loop_state.save(before, LoopState(), folder)
    after = parts(OursRunner, common_reward)
    restored(after, folder)
    for each in (before, after):
        assert each.runner.stats.record(returns[:1], [5], [{"battle_won": 1}], t_env=200, test_mode=False)
    assert after.logger.stats == before.logger.stats
    assert after.logger.stats["battle_won_mean"] == [(200, pytest.approx(2 / 3))]


def test_unfinished_statistics_of_the_hosts_own_runners_are_restored(tmp_path):
    before = parts(HostsRunner)
    before.runner.train_returns, before.runner.train_stats = [2.5, np.float32(1)], {"n_episodes": 2, "ep_length": 7}
    before.runner.log_train_stats_t = 30
    folder = tmp_path / "40"
    folder.mkdir()
    loop_state.save(before, LoopState(), folder)
    after = parts(HostsRunner)
    restored(after, folder)
    assert (after.runner.t_env, after.runner.log_train_stats_t) == (40, 30)
    assert after.runner.train_returns == [2.5, 1.0]
    assert after.runner.train_stats == {"n_episodes": 2, "ep_length": 7}


def test_series_are_logged_again_in_their_order(tmp_path):
    before = parts(OursRunner)
    for name, t_env, value in (("loss", 10, 0.5), ("return", 10, 1.0), ("loss", 20, 0.25)):
        before.logger.log_stat(name, value, t_env)
    folder = tmp_path / "40"
    folder.mkdir()
    loop_state.save(before, LoopState(), folder)
    after = parts(OursRunner)
    restored(after, folder)
    assert dict(after.logger.stats) == {"loss": [(10, 0.5), (20, 0.25)], "return": [(10, 1.0)]}


def test_nan_is_stored_as_null_and_restored(tmp_path):
    before = parts(OursRunner)
    before.runner.stats.record([1.0], [3], [{"odd": float("nan")}], t_env=40, test_mode=False)
    before.runner.stats.record([2.0], [3], [{"odd": float("nan")}], t_env=50, test_mode=False)
    folder = tmp_path / "40"
    folder.mkdir()
    loop_state.save(before, LoopState(episode=4), folder)
    for name in (MANIFEST, "metrics.json"):
        json.loads((folder / name).read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    after = parts(OursRunner)
    restored(after, folder)
    ((step, value),) = after.logger.stats["odd_mean"]
    assert step == 40
    assert np.isnan(value)
    assert np.isnan(after.runner.stats.state()["sums"]["odd"])
