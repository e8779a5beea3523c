"""NaN rewards, full disks and failing environments do not spoil what is saved."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lolm_plugin.envs.probe import ProbeVectorEnv
from lolm_plugin.host.bundled.logger import Logger
from lolm_plugin.learners.mappo import MAPPOLearner
from lolm_plugin.runners.vector_runner import VectorRunner
from lolm_plugin.tracking import console
from tests.resume.runs import line, models, record, steps, train

ARGUMENTS = line("updet_mappo", "probe", "duel", "t_max=900")


def assert_finite(folder):
    """Assert that no tensor of any checkpoint has a NaN or infinity."""
    for file in (folder / "results/models").rglob("[0-9]*/*.safetensors"):
        for name, tensor in load_file(file).items():
            assert not tensor.is_floating_point() or torch.isfinite(tensor).all(), (file, name)


@pytest.fixture
def nan_reward(monkeypatch):
    """Make the reward of one environment NaN from the 40th call of ``step`` on."""
    step, calls = ProbeVectorEnv.step, []

    def broken(env, actions):
        calls.append(actions)
        transition = step(env, actions)
        if len(calls) < 40:
            return transition
        reward = transition.reward.copy()
        reward[3] = np.nan
        return transition._replace(reward=reward)

    monkeypatch.setattr(ProbeVectorEnv, "step", broken)


def test_a_nan_reward_fails_the_run_and_its_batch_is_saved(nan_reward, tmp_path, capfd, monkeypatch):
    folder = tmp_path / "run"
    assert train(folder, *ARGUMENTS) == 1
    printed = capfd.readouterr().err
    assert "error: reward is nan at environment step" in printed
    assert "episode 3" in printed
    (dump,) = models(folder).glob("not-finite-*")
    assert str(dump.relative_to(folder)) in printed
    batch = load_file(dump / "batch.safetensors")
    assert batch["reward"][3].isnan().any()
    assert batch["obs"].isfinite().all()
    run = json.loads((record(folder, 1) / "run.json").read_text())
    assert (run["status"], run["complete"]) == ("FAILED", True)
    assert "error: reward is nan at environment step" in (record(folder, 1) / "cout.txt").read_text()
    assert steps(folder), "nothing was saved before"
    assert_finite(folder)
    monkeypatch.undo()
    assert train(folder, "--resume", str(models(folder)), "--epymarl=none") == 0
    assert steps(folder)[-1] > 900


def full_disk(monkeypatch, when):
    """Let the n-th save fail with a full disk if ``when(n)``; return the list of tried saves."""
    save, tried = MAPPOLearner.save_models, []

    def refusing(learner, path):
        save(learner, path)
        tried.append(path)
        if when(len(tried)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(MAPPOLearner, "save_models", refusing)
    return tried


def test_a_full_disk_is_logged_and_training_continues(tmp_path, monkeypatch, capfd):
    tried = full_disk(monkeypatch, lambda count: count in (2, 3))
    assert train(tmp_path / "run", *ARGUMENTS) == 0
    printed = capfd.readouterr().err
    assert printed.count("could not be written (No space left on device); earlier checkpoints are intact") == 2
    assert len(steps(tmp_path / "run")) == len(tried) - 2
    assert steps(tmp_path / "run")[-1] > 900
    assert json.loads((record(tmp_path / "run", 1) / "run.json").read_text())["status"] == "COMPLETED"


def test_a_full_disk_stops_a_run_with_on_save_error_stop(tmp_path, monkeypatch, capfd):
    full_disk(monkeypatch, lambda count: count > 1)
    assert train(tmp_path / "run", *ARGUMENTS, "on_save_error=stop") == 1
    assert "error: The checkpoint" in capfd.readouterr().err
    assert len(steps(tmp_path / "run")) == 1
    assert json.loads((record(tmp_path / "run", 1) / "run.json").read_text())["status"] == "FAILED"


def test_a_run_on_a_full_disk_still_reports_its_results(tmp_path, monkeypatch, capfd):
    full_disk(monkeypatch, lambda count: True)
    assert train(tmp_path / "run", *ARGUMENTS) == 0
    assert "test win rate" in capfd.readouterr().out
    assert steps(tmp_path / "run") == []


def test_a_failing_environment_leaves_a_checkpoint_of_that_step(tmp_path, monkeypatch):
    step, calls = ProbeVectorEnv.step, []

    def broken(env, actions):
        calls.append(actions)
        if len(calls) == 60:
            raise RuntimeError("the game is gone")
        return step(env, actions)

    monkeypatch.setattr(ProbeVectorEnv, "step", broken)
    with pytest.raises(RuntimeError, match="the game is gone"):
        train(tmp_path / "run", *ARGUMENTS, "save_model_interval=100000", "test_interval=100000")
    first, last = steps(tmp_path / "run")
    assert first < last, "only the first checkpoint was saved"
    assert json.loads((record(tmp_path / "run", 1) / "run.json").read_text())["status"] == "FAILED"


def test_a_failed_update_is_not_saved(tmp_path, monkeypatch):
    update, calls = MAPPOLearner._update_critic, []

    def broken(learner, *given):
        calls.append(given)
        if len(calls) == 30:
            raise RuntimeError("half way")
        return update(learner, *given)

    monkeypatch.setattr(MAPPOLearner, "_update_critic", broken)
    with pytest.raises(RuntimeError, match="half way"):
        train(tmp_path / "run", *ARGUMENTS, "save_model_interval=100000", "test_interval=100000")
    assert len(steps(tmp_path / "run")) == 1


def test_failures_after_training_only_log_warnings(tmp_path, monkeypatch, capfd):
    """The example of a prompt, closing the environment, the trackers and the summary fail."""

    def fail(*given, **options):
        raise RuntimeError("no such luck")

    write_text, close = Path.write_text, VectorRunner.close_env

    def full(path, *text, **options):
        if path.name == "prompt.txt":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(path, *text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(VectorRunner, "close_env", lambda runner: (close(runner), fail()))
    monkeypatch.setattr(Logger, "finish", fail)
    monkeypatch.setattr(console, "_results", fail)
    assert train(tmp_path, *line("lolm_mappo_tiny", "probe", "duel", "t_max=30")) == 0
    run = json.loads((record(tmp_path, 1) / "run.json").read_text())
    assert (run["status"], run["complete"]) == ("COMPLETED", True)
    printed = capfd.readouterr().err
    for what in ("The example of a prompt", "The environment", "The trackers", "The summary"):
        assert printed.count(f"{what} could not be") == 1
