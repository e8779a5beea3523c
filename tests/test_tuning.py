import json

import pytest
import torch

from lolm_plugin import tuning


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "busy", lambda: False)
    return tmp_path / "cache"


@pytest.fixture
def measured(monkeypatch):
    """Replace the measurement: each one finds another number of threads. Returns the numbers found."""
    found = []

    def measure(rows, width):
        found.append(len(found) + 1)
        return found[-1]

    monkeypatch.setattr(tuning, "_fastest_threads", measure)
    return found


def test_threads_are_measured_once_and_cached_until_forgotten(measured, cache):
    assert [tuning.threads("small networks") for _ in range(2)] == [1, 1]
    assert tuning.known() == {"threads for small networks": 1}
    (machine,) = json.loads((cache / tuning.FILE).read_text())
    assert f"{tuning.cores()} cores, torch {torch.__version__}" in machine
    other = {"another": {"threads for small networks": 3}}
    (cache / tuning.FILE).write_text(json.dumps({machine: {"threads for small networks": 1}, **other}))
    tuning.forget()
    assert tuning.known() == {}
    assert json.loads((cache / tuning.FILE).read_text()) == other
    assert tuning.threads("small networks") == 2
    tuning.forget()
    tuning.forget()


def test_a_measurement_on_a_busy_machine_is_used_and_not_cached(measured, monkeypatch):
    monkeypatch.setattr(tuning, "busy", lambda: True)
    assert tuning.threads("small networks") == 1
    assert tuning.known() == {}
    monkeypatch.setattr(tuning, "busy", lambda: False)
    assert tuning.threads("small networks") == 2
    assert tuning.known() == {"threads for small networks": 2}


@pytest.mark.parametrize(("load", "busy"), [(0.9, False), (1.1, True)])
def test_a_machine_is_busy_if_its_load_is_high(monkeypatch, load, busy):
    monkeypatch.undo()
    monkeypatch.setattr(tuning, "cores", lambda: 2)
    monkeypatch.setattr(tuning.os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert tuning.busy() == busy


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_an_unreadable_cache_is_replaced(measured, cache, content):
    cache.mkdir()
    (cache / tuning.FILE).write_text(content)
    assert tuning.threads("small networks") == 1
    assert json.loads((cache / tuning.FILE).read_text())


def test_an_unwritable_cache_is_ignored(measured, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOLM_CACHE", str(tmp_path / "file"))
    assert tuning.threads("small networks") == 1


@pytest.mark.parametrize(("scaling", "expected"), [(1.0, 4), (0.0, 1), (0.05, 1)])
def test_more_threads_are_used_only_if_clearly_faster(monkeypatch, scaling, expected):
    now, used = [0.0], [torch.get_num_threads()]
    before = used[0]
    monkeypatch.setattr(tuning, "cores", lambda: 4)
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: used.__setitem__(0, count))

    def multiply(x, weight):
        now[0] += 1.0 / used[0] ** scaling
        return x

    monkeypatch.setattr(torch.nn.functional, "linear", multiply)
    assert tuning.threads("small networks") == expected
    assert used[0] == before


def test_the_number_of_threads_is_within_the_cores():
    assert 1 <= tuning.threads("small networks") <= tuning.cores()
