"""Tests of the workers on this machine: which GPU each run gets."""

import subprocess

import pytest
import torch

from lolm_plugin.suites import workers


@pytest.fixture
def spawned(monkeypatch):
    """Replace the runs by processes that wait; yields (process, CUDA_VISIBLE_DEVICES) of each."""
    started = []

    def popen(command, env, **others):
        process = real(["sleep", "60"])
        started.append((process, env.get("CUDA_VISIBLE_DEVICES")))
        return process

    real = subprocess.Popen
    monkeypatch.setattr(workers.subprocess, "Popen", popen)
    yield started
    for process, _ in started:
        process.kill()
        process.wait()


def start(local, tmp_path, count):
    for number in range(count):
        folder = tmp_path / str(number)
        folder.mkdir(exist_ok=True)
        local.start(folder)


def test_runs_are_spread_over_all_gpus(spawned, monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    local = workers.LocalWorkers(4, 1)
    assert local.where == "4 workers on this machine, 1 thread each, 2 GPUs"
    start(local, tmp_path, 4)
    assert [gpu for _, gpu in spawned] == ["0", "1", "0", "1"]
    for process, gpu in spawned[1:]:
        if gpu == "1":
            process.kill()
            process.wait()
    start(local, tmp_path, 2)
    assert [gpu for _, gpu in spawned[4:]] == ["1", "1"]


def test_only_gpus_that_the_user_allows_are_used(spawned, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8f2")
    start(workers.LocalWorkers(2, 1), tmp_path, 2)
    assert [gpu for _, gpu in spawned] == ["3", "GPU-8f2"]


@pytest.mark.parametrize("allowed", [None, "", "-1"])
def test_without_a_gpu_the_variable_is_left_alone(spawned, monkeypatch, tmp_path, allowed):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    if allowed is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    start(workers.LocalWorkers(1, 1), tmp_path, 1)
    assert [gpu for _, gpu in spawned] == [allowed]
