from argparse import Namespace

import numpy as np
import pytest

from lolm_plugin.runners.episode_stats import EpisodeStats

from .fakes import Scalars


def stats(**changes):
    args = Namespace(**{"common_reward": True, "test_nepisode": 4, "runner_log_interval": 100, **changes})
    logger = Scalars()
    return EpisodeStats(args, logger), logger.logged


def test_the_first_episodes_are_logged_then_one_batch_every_interval():
    episodes, logged = stats()
    due = [episodes.record([t, t], [5, 5], [{}, {}], t_env=t, test_mode=False) for t in (10, 60, 109, 110, 120)]
    assert due == [True, False, False, True, False]
    assert episodes.log_train_stats_t == 110
    assert logged["return_mean"] == [(10, 10), (110, (60 + 109 + 110) / 3)]
    assert logged["ep_length_mean"] == [(10, 5), (110, 5)]


def test_missing_info_counts_as_zero():
    episodes, logged = stats()
    infos = [{"battle_won": True, "rare": 3}, {"battle_won": False}, {"battle_won": np.True_}]
    episodes.record([1.0, 2.0, 6.0], [1, 2, 6], infos, t_env=9, test_mode=False)
    assert logged["battle_won_mean"] == [(9, pytest.approx(2 / 3))]
    assert logged["rare_mean"] == [(9, 1)]
    assert logged["ep_length_mean"] == [(9, 3)]
    assert logged["return_std"] == [(9, pytest.approx(np.std([1, 2, 6])))]
    assert {type(value) for values in logged.values() for _, value in values} == {float}


def test_tests_are_logged_when_complete_and_never_mixed_with_training():
    episodes, logged = stats()
    assert not episodes.record([8, 8], [1, 1], [{"won": 1}] * 2, t_env=0, test_mode=True)
    assert logged == {}
    episodes.record([1, 1], [1, 1], [{"won": 0}] * 2, t_env=2, test_mode=False)
    assert not episodes.record([4, 4], [1, 1], [{"won": 1}] * 2, t_env=2, test_mode=True)
    assert logged["test_return_mean"] == [(2, 6)]
    assert logged["test_won_mean"] == [(2, 1)]
    assert logged["return_mean"] == [(2, 1)]
    assert logged["won_mean"] == [(2, 0)]
    for _ in range(2):
        episodes.record([1, 1], [1, 1], [{}] * 2, t_env=3, test_mode=True)
    assert logged["test_return_mean"] == [(2, 6), (3, 1)]
    assert len(logged["test_won_mean"]) == 1


def test_a_test_is_logged_once_test_nepisode_episodes_are_complete():
    episodes, logged = stats(test_nepisode=5)
    for size, before in ((2, 0), (2, 2), (1, 4)):
        assert "test_return_mean" not in logged
        assert episodes.tested == before
        episodes.record(list(range(size)), [1] * size, [{}] * size, t_env=0, test_mode=True)
    assert logged["test_return_mean"] == [(0, (0 + 1 + 0 + 1 + 0) / 5)]
    assert episodes.tested == 0


def test_an_interrupted_test_is_discarded():
    episodes, logged = stats(test_nepisode=2)
    episodes.record([9], [1], [{}], t_env=0, test_mode=True)
    episodes.begin_test()
    episodes.record([1, 3], [1, 1], [{}, {}], t_env=0, test_mode=True)
    assert logged["test_return_mean"] == [(0, 2)]


def test_returns_of_each_agent():
    episodes, logged = stats(common_reward=False, n_agents=2)
    episodes.record([np.array([1.0, 2]), np.array([3.0, 8])], [1, 1], [{}, {}], t_env=5, test_mode=False)
    values = {name: value for name, [(_, value)] in logged.items()}
    assert values == {
        **{"agent_0_return_mean": 2, "agent_0_return_std": 1},
        **{"agent_1_return_mean": 5, "agent_1_return_std": 3},
        **{"total_return_mean": 7, "total_return_std": 4, "ep_length_mean": 1},
    }


TAKEN = ("ep_length", "return", "total_return", "episode", "agent_1_return", "test_battle_won", "sampled_return")


def test_info_keys_never_mix_with_the_runners_series(caplog):
    episodes, logged = stats()
    info = dict.fromkeys(TAKEN, -7.0) | {"battle_won": 1.0, "env_return": 3.0}
    for _ in range(2):
        episodes.record([5.0, 5.0], [4, 4], [info] * 2, t_env=100, test_mode=False)
    assert logged["return_mean"] == [(100, 5)]
    assert logged["ep_length_mean"] == [(100, 4)]
    assert logged["env_env_return_mean"] == [(100, 3)]
    for name in TAKEN:
        assert logged[f"env_{name}_mean"] == [(100, -7)]
        assert caplog.text.count(f"{name} in the environment's info is logged as env_{name}_mean") == 1
    assert not [name for name in logged if name.startswith(("test_", "agent_", "total_", "sampled_"))]


def test_info_values_that_are_not_numbers_are_left_out_with_one_warning(caplog):
    episodes, logged = stats()
    episodes.record([1.0, 1.0], [1, 1], [{"episode": {"r": 1}, "name": "x", "score": 2}] * 2, t_env=9, test_mode=False)
    assert logged["score_mean"] == [(9, 2)]
    assert not [name for name in logged if "episode" in name or "name" in name]
    assert caplog.text.count("name in the environment's info is not logged: its value is not a number (str)") == 1
