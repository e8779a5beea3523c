"""Trainings on a stand-in CUDA device, in a separate process: each tensor must be where CUDA needs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_cuda.runs import RUNS

ROOT = Path(__file__).parents[2]
QUICK = ["entity keys", "frozen layers", "dt2gs", "asn, recurrent", "rnn", "resume"]


def run(module, *words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return json.loads(run("tests.fake_cuda.runs", str(tmp_path_factory.mktemp("cuda")), *QUICK))


def check(result):
    assert result["code"] == 0, result["output"]
    assert result.get("fast", True), "the language model failed its trial, so it runs several times slower"


def test_the_device_refuses_what_cuda_refuses():
    assert run("tests.fake_cuda.rules").strip() == "all rules hold"


@pytest.mark.parametrize("name", QUICK)
def test_training_on_the_device(quick, name):
    check(quick[name])


@pytest.mark.slow
def test_further_runs_on_the_device(tmp_path):
    others = [name for name in RUNS if name not in QUICK]
    results = json.loads(run("tests.fake_cuda.runs", str(tmp_path), "entity keys", *others))
    for name in others:
        check(results[name])
