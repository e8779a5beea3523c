"""Sacred's files are whole at every moment, and a full disk is told once and ends nothing."""

import datetime
import errno
import json
import logging
import os
from pathlib import Path

import pytest

from lolm_plugin.tracking.file_observer import FileObserver

NOW = datetime.datetime(2026, 1, 1)


@pytest.fixture
def observer(tmp_path):
    observer = FileObserver(tmp_path, copy_sources=False)
    start = {"ex_info": {"sources": [], "base_dir": str(tmp_path)}, "command": "run", "host_info": {}}
    observer.started_event(**start, start_time=NOW, config={"seed": 1}, meta_info={}, _id=None)
    return observer


def measure(observer, step):
    series = {"values": [step / 10], "steps": [step], "timestamps": [NOW]}
    observer.log_metrics({"return": series}, {})
    observer.heartbeat_event({}, f"printed until {step}\n" if step == 1 else f"printed until 1\n{step}\n", NOW, None)


def read(observer, name):
    return json.loads(Path(observer.dir, name).read_text())


def test_series_grow_as_sacreds_own_do(observer):
    measure(observer, 1)
    measure(observer, 2)
    expected = {"values": [0.1, 0.2], "steps": [1, 2], "timestamps": [NOW.isoformat()] * 2}
    assert read(observer, "metrics.json") == {"return": expected}
    assert Path(observer.dir, "cout.txt").read_text() == "printed until 1\n2\n"
    observer.completed_event(NOW, None)
    assert read(observer, "run.json")["status"] == "COMPLETED"


def test_a_full_disk_is_told_once_and_nothing_is_lost(observer, monkeypatch, caplog):
    measure(observer, 1)
    with monkeypatch.context() as full:

        def refuse(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        full.setattr(os, "fsync", refuse)
        caplog.set_level(logging.WARNING)
        measure(observer, 2)
        (told,) = [record.getMessage() for record in caplog.records if "metrics.json" in record.getMessage()]
        assert "No space left" in told
        measure(observer, 3)
        assert len([record for record in caplog.records if "metrics.json" in record.getMessage()]) == 1
        assert read(observer, "metrics.json")["return"]["steps"] == [1]
    measure(observer, 4)
    assert read(observer, "metrics.json")["return"]["steps"] == [1, 2, 3, 4]
    assert not list(Path(observer.dir).glob(".*"))
