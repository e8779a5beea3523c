"""The leg of a GPU. Its dry form runs every step with tiny shapes on the CPU."""

import json
import os
import threading
import time

import pytest
import torch

from benchmarks import cuda_leg, cuda_steps, gpu, kernels
from benchmarks.__main__ import main
from benchmarks.entries import Bench, Mismatch
from benchmarks.setting import Setting
from benchmarks.timed_steps import Leg, Step, dry, run

NAMES = ["kernels", "battles", "agreement", "rates_3", "rates_2", "rates_1", "tricks", "learning"]


def test_a_dry_leg_runs_every_step(tmp_path, capsys, monkeypatch):
    """The engine is compared with the plain port, in float32, before it is timed."""
    events = []
    check, measure = Bench.check, cuda_steps._measure
    monkeypatch.setattr(
        Bench, "check", lambda bench, *found: (events.append((bench.setting.dtype, found)), check(bench, *found))
    )
    monkeypatch.setattr(
        cuda_steps, "_measure", lambda *asked: (events.append(("timed", asked[1:])), measure(*asked))[1]
    )
    assert main(["--leg=cuda", "--dry", "--minutes=60", f"--output={tmp_path}"]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out.splitlines()[-1])
    saved = json.loads((tmp_path / cuda_leg.REPORT).read_text())
    assert report["steps"] == saved["steps"]
    steps = {step["name"]: step for step in report["steps"]}
    assert list(steps) == NAMES
    assert not [step for step in report["steps"] if "failed" in step or "skipped" in step]
    assert all(f"{name}: done" in printed.err for name in NAMES)

    compared = [(dtype, found[0]) for dtype, found in events if dtype != "timed"]
    assert compared[:2] == [("float32", "rollout in float32"), ("float32", "learner in float32")]
    assert [dtype for dtype, _ in events].index("timed") >= 4  # after both comparisons in both dtypes
    exact, coarse = steps["agreement"]["float32"], steps["agreement"]["bfloat16"]
    assert exact["log_probs_max_abs_diff"] < 1e-5 < coarse["log_probs_max_abs_diff"] < 0.1
    assert exact["gradients_max_abs_diff"] < 1e-5 < coarse["gradients_max_abs_diff"]

    for name, layers in (("rates_3", 3), ("rates_2", 2), ("rates_1", 1)):
        step = steps[name]
        assert (step["lora_layers"], step["packed"]) == (layers, True)
        assert step["both"]["seconds"] == pytest.approx(step["rollout"]["seconds"] + step["learner"]["seconds"])
        for part in ("rollout", "learner", "both"):
            assert step[part]["agent_steps_per_second"] == pytest.approx(step["decisions"] / step[part]["seconds"])
            assert step[part]["tokens_per_second"] > step[part]["agent_steps_per_second"]
            assert (step[part]["mfu"], step[part]["of_measured_product_rate"] > 0) == (None, True)
    asked = [found[1] for kind, found in events if kind == "timed"]
    assert asked == [{}] * 4 + list(cuda_steps.TRICKS.values())
    changes = steps["tricks"]["changes"]
    assert changes.keys() == cuda_steps.TRICKS.keys()
    assert all(changed["both_ratio"] > 0 for changed in changes.values())
    tokens = {name: changed["tokens_per_decision"] for name, changed in changes.items()}
    assert tokens["with terse prompts"] < tokens["with recompute"] == steps["tricks"]["base"]["tokens_per_decision"]
    curve = steps["learning"]["curve"]
    assert [point["env_steps"] for point in curve] == [0, steps["learning"]["env_steps"]]
    assert all({"test_battle_won_mean", "test_sampled_battle_won_mean", "seconds"} <= point.keys() for point in curve)
    aligned = steps["kernels"]["kernels"]
    assert (aligned["masked"]["alignment"], aligned["is_causal"]["alignment"]) == ("lower right", "upper left")
    assert aligned["varlen"].keys() == {"absent"}  # no such kernel on a CPU


def _fake(needs, work=lambda leg: {}, **options):
    return Step(f"needs {needs}", needs, work, **options)


def test_a_step_without_enough_time_is_skipped_by_name_and_a_failed_one_does_not_end_the_leg():
    def broken(leg):
        raise RuntimeError("no kernel\nlong trace")

    def wrong(leg):
        raise Mismatch("rollout in float32: engine and plain port do not compute the same")

    leg, report, written = Leg(dry(Setting()), time.monotonic() + 1000), {"steps": []}, []
    steps = [_fake(1, broken), _fake(5000), _fake(2, wrong), _fake(3, times_engine=True), _fake(4)]
    assert run(leg, steps, report, lambda: written.append(len(report["steps"]))) == 1
    states = {step["name"]: step.get("failed") or step.get("skipped") or "done" for step in report["steps"]}
    assert states["needs 1"] == "RuntimeError: no kernel"
    assert states["needs 5000"].startswith("needs about 5000 s, and ")
    assert states["needs 2"].startswith("WRONG: rollout in float32")
    assert "not found equal in float32" in states["needs 3"]  # the engine is not timed
    assert states["needs 4"] == "done"
    assert written == [1, 2, 3, 4, 5]
    leg.agreed = True
    assert run(leg, [_fake(3, times_engine=True)], {"steps": []}, lambda: None) == 0


def test_a_leg_that_hangs_ends_by_force_with_its_report(capsys, monkeypatch):
    """The report is the last line of stdout, however the leg ends."""
    ended, codes = threading.Event(), []
    monkeypatch.setattr(os, "_exit", lambda code: (codes.append(code), ended.set()))
    monkeypatch.setattr(cuda_leg, "GRACE", -1e9)
    monkeypatch.setattr(cuda_leg, "steps", lambda sizes: [Step("hangs", -1e9, lambda leg: {"ended": ended.wait(60)})])
    assert main(["--dry", "--minutes=0.001"]) == 0  # here the process does not end
    assert codes == [1]
    forced, whole = map(json.loads, capsys.readouterr().out.splitlines())
    assert forced["stopped"].startswith("after 0.001 minutes")
    assert whole["steps"][0]["ended"] is True


def test_the_leg_without_a_gpu_is_one_sentence(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--leg=cuda"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "--leg=cuda needs an NVIDIA GPU" in printed.err


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("Tesla T4", None),
        (None, None),
    ],
)
def test_the_peak_of_an_unknown_gpu_is_unknown(name, peak):
    assert gpu.peak_tflops(name) == peak


def test_the_share_of_the_peak_is_that_of_the_counted_products():
    assert cuda_steps._share(3e12, 2.0, 5.0) == pytest.approx(0.3)
    assert cuda_steps._share(3e12, 2.0, None) is None


def test_kernels_of_other_alignment_or_wrong_numbers_are_told_apart(monkeypatch):
    upper = {"name": lambda inputs: kernels.reference(inputs, upper_left=True)}
    wrong = {"wrong": lambda inputs: 1.1 * kernels.reference(inputs) + 1}
    monkeypatch.setattr(kernels, "KERNELS", {**upper, **wrong, "right": kernels.reference})
    found = kernels.compare(kernels.SMALL, "cpu")
    assert [found[name]["alignment"] for name in found] == ["upper left", None, "lower right"]
    assert found["right"]["max_abs_diff"] == found["right"]["gradient_diff_relative"] == 0
    assert found["name"]["gradient_diff_relative"] > 0.1
