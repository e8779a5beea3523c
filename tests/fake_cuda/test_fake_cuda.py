"""Layouts and trainings on a stand-in CUDA device, in a separate process: each tensor must be where CUDA needs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lolm_plugin.paths import locate
from tests.fake_cuda.runs import LAYOUTS, RUNS

ROOT = Path(__file__).parents[2]
QUICK = [
    "entity keys",
    "frozen layers",
    "quantised",
    "mean state",
    "dt2gs",
    "asn, recurrent",
    "rnn",
    "imitate",
    "resume",
]
ON_EPYMARL = [name for name in RUNS if name.startswith("EPyMARL")]
# Kernels of one of the tiny Llama's layers for one group of prompts. More are more work of the CPU before each layer.
MOST_LAUNCHES = {"forward": 75, "backward": 205}


def run(module, *words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return json.loads(run("tests.fake_cuda.runs", str(tmp_path_factory.mktemp("cuda")), LAYOUTS, *QUICK))


def check(results, name):
    result = results[name]
    assert result["code"] == 0, result["output"]
    assert result.get("tried", True), "the model's trial ran on the CPU"
    assert result.get("packed", True) == (name != "padded"), "the model failed its trial, so it runs slower"
    assert result.get("read_positions", True) == (name not in ("padded", "float32")), "all positions are computed"
    assert result.get("without_masks", True) == (name not in ("padded", "float32")), "attention needs masks"


def test_the_device_refuses_what_cuda_refuses():
    assert run("tests.fake_cuda.rules").strip() == "all rules hold"


@pytest.mark.parametrize("name", QUICK)
def test_training_on_the_device(quick, name):
    check(quick, name)


def test_all_norms_are_fused(quick):
    """Two in each of the tiny Llama's two layers, and the final one. The device counts a fused norm as its parts."""
    assert quick["entity keys"]["fused_norms"] == 5


def test_launches_per_layer(quick):
    launches = quick["entity keys"]["launches"]
    assert all(launches[pass_] <= most for pass_, most in MOST_LAUNCHES.items()), launches


def test_the_token_budget_fits_the_free_memory(quick):
    """24 MiB are free, of which the frozen layers' states may take half; a token needs about 9 kB."""
    assert quick["frozen layers"]["budget"] == ["768"]
    assert quick["entity keys"]["budget"] == [], "it is set"


@pytest.mark.slow
def test_further_runs_on_the_device(tmp_path):
    others = [name for name in RUNS if name not in (*QUICK, *ON_EPYMARL)]
    results = json.loads(run("tests.fake_cuda.runs", str(tmp_path), "entity keys", "rnn", *others))
    for name in others:
        check(results, name)


@pytest.mark.slow
@pytest.mark.skipif(locate(None) is None, reason="needs an EPyMARL checkout (EPYMARL_HOME)")
def test_runs_on_epymarl(tmp_path):
    results = json.loads(run("tests.fake_cuda.runs", str(tmp_path), *ON_EPYMARL))
    for name in ON_EPYMARL:
        check(results, name)
