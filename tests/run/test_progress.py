"""Progress of long work without a terminal."""

import logging

from lolm_plugin.run import progress as module
from lolm_plugin.run.progress import progress


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
