import json

import pytest
import torch

from lolm_plugin import tuning


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "busy", lambda: False)
    return tmp_path / "cache"


def clock(monkeypatch, seconds):
    """Replace the clock; return callables that take ``seconds`` each. No other time passes."""
    now = [0.0]
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: now[0])

    def taking(duration):
        def call():
            now[0] += duration

        return call

    return [taking(duration) for duration in seconds]


def test_the_other_choice_must_be_clearly_faster(monkeypatch):
    plain, little, much = clock(monkeypatch, [1.0, 0.95, 0.5])
    assert not tuning.faster("little", plain, little)
    assert tuning.faster("much", plain, much)
    assert tuning.known()["speedup by much"] == 2.0


def test_a_choice_is_measured_once_and_cached_until_forgotten(monkeypatch, cache):
    plain, other = clock(monkeypatch, [1.0, 0.5])
    assert tuning.faster("this", plain, other)
    assert tuning.faster("this", other, plain)  # not measured again: it would be slower now
    assert tuning.known() == {"speedup by this": 2.0}
    (machine,) = json.loads((cache / tuning.FILE).read_text())
    assert f"{tuning.cores()} cores, torch {torch.__version__}" in machine
    (cache / tuning.FILE).write_text(
        json.dumps({machine: {"speedup by this": 2.0}, "another": {"speedup by this": 3.0}})
    )
    tuning.forget()
    assert tuning.known() == {}
    assert json.loads((cache / tuning.FILE).read_text()) == {"another": {"speedup by this": 3.0}}
    assert not tuning.faster("this", other, plain)
    tuning.forget()
    tuning.forget()


def test_a_measurement_on_a_busy_machine_is_used_and_not_cached(monkeypatch):
    plain, other = clock(monkeypatch, [1.0, 0.5])
    monkeypatch.setattr(tuning, "busy", lambda: True)
    assert tuning.faster("this", plain, other)
    assert tuning.known() == {}
    monkeypatch.setattr(tuning, "busy", lambda: False)
    assert not tuning.faster("this", other, plain)
    assert tuning.known() == {"speedup by this": 0.5}


@pytest.mark.parametrize(("load", "busy"), [(0.9, False), (1.1, True)])
def test_a_machine_is_busy_if_its_load_is_high(monkeypatch, load, busy):
    monkeypatch.undo()
    monkeypatch.setattr(tuning, "cores", lambda: 2)
    monkeypatch.setattr(tuning.os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert tuning.busy() == busy


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_an_unreadable_cache_is_replaced(monkeypatch, cache, content):
    cache.mkdir()
    (cache / tuning.FILE).write_text(content)
    plain, other = clock(monkeypatch, [1.0, 0.5])
    assert tuning.faster("products", plain, other)
    assert json.loads((cache / tuning.FILE).read_text())


def test_an_unwritable_cache_is_ignored(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOLM_CACHE", str(tmp_path / "file"))
    plain, other = clock(monkeypatch, [1.0, 0.5])
    assert tuning.faster("products", plain, other)


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
