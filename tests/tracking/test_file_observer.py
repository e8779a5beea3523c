"""Sacred's files are complete at every moment and cost little; a failing disk is logged once and stops no run."""

import datetime
import errno
import json
import logging
import math
import os
from pathlib import Path

import pytest

from lolm_plugin.errors import ConfigError
from lolm_plugin.tracking import file_observer
from lolm_plugin.tracking.file_observer import FileObserver

NOW = datetime.datetime(2026, 1, 1)


def started(folder, number=None):
    observer = FileObserver(folder, copy_sources=False)
    start = {"ex_info": {"sources": [], "base_dir": str(folder)}, "command": "run", "host_info": {}}
    observer.started_event(**start, start_time=NOW, config={"seed": 1}, meta_info={}, _id=number)
    return observer


@pytest.fixture
def observer(tmp_path, monkeypatch):
    """Return an observer that writes at each heartbeat, without a pause."""
    monkeypatch.setattr(file_observer, "PAUSE", 0.0)
    return started(tmp_path)


def measure(observer, step):
    series = {"values": [step / 10], "steps": [step], "timestamps": [NOW]}
    observer.log_metrics({"return": series}, {})
    observer.heartbeat_event({}, f"printed until {step}\n" if step == 1 else f"printed until 1\n{step}\n", NOW, None)


def read(observer, name):
    return json.loads(Path(observer.dir, name).read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def fail_disk(patch, number):
    """Make every disk access fail, also clean-up, as on a file system that is gone."""

    def refuse(*given, **options):
        raise OSError(number, os.strerror(number))

    for name in ("open", "unlink", "replace", "stat", "exists"):
        patch.setattr(Path, name, refuse)
    patch.setattr(os, "fsync", refuse)


def test_a_folder_that_only_looks_like_a_number_is_no_record(tmp_path):
    for name in ("4", "²", "007x", "notes"):
        (tmp_path / name).mkdir()
    assert Path(started(tmp_path).dir).name == "5"


def test_series_grow_as_in_sacreds_own_observer(observer):
    measure(observer, 1)
    measure(observer, 2)
    expected = {"values": [0.1, 0.2], "steps": [1, 2], "timestamps": [NOW.isoformat()] * 2}
    assert read(observer, "metrics.json") == {"return": expected}
    assert Path(observer.dir, "cout.txt").read_text() == "printed until 1\n2\n"
    observer.completed_event(NOW, None)
    assert read(observer, "run.json")["status"] == "COMPLETED"


def test_a_full_disk_is_logged_once_and_no_data_are_lost(observer, monkeypatch, caplog):
    measure(observer, 1)
    with monkeypatch.context() as full:

        def refuse(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        full.setattr(os, "fsync", refuse)
        caplog.set_level(logging.WARNING)
        measure(observer, 2)
        (message,) = [record.getMessage() for record in caplog.records if "metrics.json" in record.getMessage()]
        assert "No space left" in message
        measure(observer, 3)
        assert len([record for record in caplog.records if "metrics.json" in record.getMessage()]) == 1
        assert read(observer, "metrics.json")["return"]["steps"] == [1]
    measure(observer, 4)
    assert read(observer, "metrics.json")["return"]["steps"] == [1, 2, 3, 4]
    assert not list(Path(observer.dir).glob(".*"))


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EROFS, errno.EIO])
def test_the_record_is_complete_after_a_temporary_disk_failure(observer, monkeypatch, number):
    measure(observer, 1)
    with monkeypatch.context() as away:
        fail_disk(away, number)
        measure(observer, 2)
        measure(observer, 3)
        observer.completed_event(NOW, None)
    assert read(observer, "run.json")["status"] == "RUNNING"
    observer.close("printed until 1\n3\nthe end\n")
    assert read(observer, "metrics.json")["return"]["steps"] == [1, 2, 3]
    assert (read(observer, "run.json")["status"], read(observer, "run.json")["complete"]) == ("COMPLETED", True)
    assert read(observer, "config.json") == {"seed": 1}
    assert Path(observer.dir, "cout.txt").read_text().endswith("the end\n")


def test_the_end_is_written_once_the_disk_works_again(observer, monkeypatch):
    away = pytest.MonkeyPatch()
    monkeypatch.setattr(file_observer.time, "sleep", lambda seconds: away.undo())
    fail_disk(away, errno.EROFS)
    measure(observer, 1)
    observer.completed_event(NOW, None)
    observer.close("")
    assert read(observer, "metrics.json")["return"]["steps"] == [1]
    assert read(observer, "run.json")["complete"]


def test_a_record_without_its_end_is_not_whole(observer, monkeypatch, caplog):
    measure(observer, 1)
    assert read(observer, "run.json")["complete"] is False, "the run is not over"
    replace = Path.replace

    def refuse(path, target):
        if Path(target).name == "metrics.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    measure(observer, 2)
    observer.completed_event(NOW, None)
    observer.close("", seconds=0)
    run = read(observer, "run.json")
    assert (run["status"], run["complete"]) == ("COMPLETED", False)
    assert "lacks its end: metrics.json could not be written" in caplog.text


def test_the_cost_of_heartbeats_does_not_grow_with_the_run(tmp_path, monkeypatch):
    """A fake clock counts points written and heartbeats: 25 series, 400 heartbeats, 10,000 points."""
    clock, spent, text, each = [0.0], [0.0], FileObserver._metrics_text, 5e-4

    def costly(observer):
        seconds = each * sum(len(series["steps"]) for series in observer._metrics.values())
        clock[0] += seconds
        spent[0] += seconds
        return text(observer)

    monkeypatch.setattr(file_observer.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(FileObserver, "_metrics_text", costly)
    observer = started(tmp_path)
    lost = []
    for beat in range(400):
        new = {f"series {i}": {"values": [0.5], "steps": [beat], "timestamps": [NOW]} for i in range(25)}
        observer.log_metrics(new, {})
        observer.heartbeat_event({}, "", NOW, None)
        clock[0] += 10.0
        if beat % 20 == 19:
            lost.append(beat - read(observer, "metrics.json")["series 0"]["steps"][-1])
    assert spent[0] < clock[0] / file_observer.PAUSE
    assert max(lost) <= file_observer.PAUSE * each * 25 * 400 / 10 + 1, "beats that a killed run would lose"
    assert max(lost) > 0, "the pause was never needed"
    observer.close("")
    assert len(read(observer, "metrics.json")["series 24"]["steps"]) == 400


def test_nan_is_stored_as_null_and_logged_once(observer, caplog):
    for step, value in enumerate((0.5, math.nan, -math.inf)):
        observer.log_metrics({"odd_mean": {"values": [value], "steps": [step], "timestamps": [NOW]}}, {})
        observer.heartbeat_event({"nested": [math.nan, {"x": math.inf}]}, "", NOW, math.nan)
    assert read(observer, "metrics.json")["odd_mean"]["values"] == [0.5, None, None]
    assert read(observer, "info.json") == {"nested": [None, {"x": None}]}
    assert read(observer, "run.json")["result"] is None
    assert caplog.text.count("odd_mean is nan: the record stores null") == 1
    assert "-inf" not in caplog.text


def test_an_existing_record_number_is_refused(tmp_path):
    started(tmp_path, "7").completed_event(NOW, None)
    again = FileObserver(tmp_path, copy_sources=False)
    with pytest.raises(ConfigError, match="--id=7 is the number of an existing record"):
        again.started_event(
            ex_info={"sources": [], "base_dir": "."},
            command="run",
            host_info={},
            start_time=NOW,
            config={},
            meta_info={},
            _id="7",
        )
    again.failed_event(NOW, [])
    again.close("")
    assert json.loads((tmp_path / "7/run.json").read_text())["status"] == "COMPLETED", (
        "the other run's record was touched"
    )
