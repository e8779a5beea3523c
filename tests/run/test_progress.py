"""Progress of long work without a terminal."""

import logging
from types import SimpleNamespace

from lolm_plugin.run import progress as module
from lolm_plugin.run.progress import progress
from lolm_plugin.run.testing import play_battles


def test_a_line_every_20_seconds_with_the_time_left(monkeypatch, caplog):
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    caplog.set_level(logging.INFO)
    for _ in progress(range(8), "test", 16, logging.getLogger("test"), "battle"):
        clock[0] += 15
    assert [record.message for record in caplog.records] == [
        "test: 32/128 battles | 01:30 left",
        "test: 64/128 battles | 01:00 left",
        "test: 96/128 battles | 00:30 left",
        "test: 128/128 battles | 00:00 left",
    ]


def test_a_test_of_many_battles_shows_its_progress(monkeypatch, caplog):
    monkeypatch.setattr(module, "LOG_EVERY_SECONDS", -1)
    caplog.set_level(logging.INFO)
    logger = SimpleNamespace(console_logger=logging.getLogger("test"))
    runner = SimpleNamespace(batch_size=16, logger=logger, run=lambda test_mode: None, t_env=0, log_train_stats_t=0)
    components = SimpleNamespace(runner=runner, args=SimpleNamespace(test_nepisode=20))
    assert play_battles(components, mac=None, sampled=True)
    assert [record.message.partition(" |")[0] for record in caplog.records] == [
        "test with sampled actions: 16/32 battles",
        "test with sampled actions: 32/32 battles",
    ]
