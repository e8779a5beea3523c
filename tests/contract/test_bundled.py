"""Behaviour of the bundled host beyond the contract: clear errors, plain numbers for Sacred."""

import logging

import numpy as np
import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.host import open_host, register
from lolm_plugin.host.bundled.logger import Logger
from lolm_plugin.run import loop
from lolm_plugin.run.components import OneHot
from lolm_plugin.runners.supervised_parallel_runner import SupervisedParallelRunner

from .fakes import FakeEnv, FakeMAC, Scalars, settings


@pytest.fixture
def bundled():
    host = open_host(None)
    register(host)
    host.registries["env"]["fake"] = FakeEnv
    host.registries["mac"]["fake"] = FakeMAC
    return host


def test_runner_parallel_is_the_supervised_one(bundled):
    """As in EPyMARL, a configuration with runner=parallel starts batch_size_run processes."""
    args = loop.Namespace(**settings(bundled, runner="parallel", batch_size_run=2))
    runner = bundled.registries["runner"]["parallel"](args=args, logger=Scalars())
    assert isinstance(runner, SupervisedParallelRunner)
    assert len(runner.workers) == 2
    runner.close_env()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "sc2"}, "^env=sc2 is not known to the bundled host, which has .*fake.*EPYMARL_HOME"),
        ({"runner": "fast"}, "^runner=fast is not known to the bundled host, which has episode, parallel"),
        ({"mac": "basic_mac"}, "^mac=basic_mac is not known"),
        ({"learner": "q_learner"}, "^learner=q_learner is not known"),
        ({"use_wandb": True}, "^use_wandb=True has nowhere to log to; set wandb_team"),
        ({"batch_size_run": 2}, "^batch_size_run=2 cannot be run by runner=episode"),
        ({"checkpoint_path": "gone"}, "^checkpoint_path=gone is not a folder"),
        ({"checkpoint_path": "."}, "^checkpoint_path=. has no checkpoint"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(bundled, changes, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        loop.run(bundled, Scalars(), settings(bundled, **changes), logging.getLogger("contract"))


def test_sacred_gets_plain_floats_and_no_growing_info():
    logger, sacred = Logger(logging.getLogger("contract")), Scalars()
    logger.setup_sacred(sacred)
    values = [3, np.float32(0.5), np.int64(2), True, torch.tensor(1.5), np.array([4.0])[0]]
    for t, value in enumerate(values):
        logger.log_stat("score", value, t)
    logger.log_stat("secret", 1, 0, to_sacred=False)
    assert sacred.logged == {"score": [(0, 3), (1, 0.5), (2, 2), (3, 1), (4, 1.5), (5, 4)]}
    assert {type(value) for _, value in sacred.logged["score"]} == {float}
    assert sacred.info == {}
    assert logger.stats["secret"] == [(0, 1.0)]


def test_the_table_shows_recent_means(caplog):
    caplog.set_level(logging.INFO)
    logger = Logger(logging.getLogger("contract"))
    for t in range(1, 8):
        logger.log_stat("loss", t, t)
        logger.log_stat("epsilon", 1 / t, t)
    logger.log_stat("episode", 12, 7)
    logger.print_recent_stats()
    lines = caplog.records[-1].message.splitlines()
    assert lines[0] == f"Recent Stats | t_env: {7:>10} | Episode: {12:>8}"
    assert lines[1].split() == ["epsilon:", "0.1429", "loss:", "5.0000"]


def test_one_hot():
    one_hot = OneHot(3)
    assert one_hot.transform(torch.tensor([[[2], [0]]])).tolist() == [[[0, 0, 1], [1, 0, 0]]]
    assert one_hot.infer_output_info((1,), torch.long) == ((3,), torch.float32)
