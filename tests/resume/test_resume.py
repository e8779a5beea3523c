"""A killed and resumed run is bitwise equal to an uninterrupted one: weights, optimisers, counters, series."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from lolm_plugin.paths import locate
from tests.resume.runs import (
    ROOT,
    last_checkpoint,
    line,
    models,
    record,
    series,
    start,
    steps,
    train,
    wait_for_checkpoints,
)
from tests.slow import all_slow_but

CHECKOUT = locate(None)
HOSTS = {"bundled": "none"} | ({"EPyMARL": str(CHECKOUT)} if CHECKOUT else {})
RUNS = {
    "lolm_mappo_tiny": (
        *("probe", "duel", "t_max=900", "kl.anneal_steps=800", "minibatches=2"),
        "lora.layers=1",  # the frozen layer's states are kept only from the rollout to its update
    ),
    "updet_mappo": ("smax", "2m_vs_1m", "t_max=1200", "lr_decay=True"),
    "dt2gs_mappo": ("probe", "duel", "t_max=900", "minibatches=2"),
    "rnn_mappo": ("smax", "2m_vs_1m", "t_max=1200", "critic_minibatches=2"),
}


def check_equal(found, expected):
    """Assert that two runs are equal. A run is (folder, number of the Sacred record)."""
    assert series(*found) == series(*expected)
    for _, measured in series(*found).items():
        assert measured[0] == sorted(set(measured[0])), "a step was logged twice"
    (step, tensors, facts), (expected_step, expected_tensors, expected_facts) = map(
        last_checkpoint, (found[0], expected[0])
    )
    assert step == expected_step
    assert tensors.keys() == expected_tensors.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], expected_tensors[name])] == []
    assert facts == expected_facts


@pytest.fixture(scope="module", params=HOSTS)
def host(request):
    return HOSTS[request.param]


@pytest.mark.parametrize("algorithm", all_slow_but(["lolm_mappo_tiny"], RUNS))
def test_killed_and_resumed(algorithm, host, tmp_path):
    env, map_name, *updates = RUNS[algorithm]
    arguments = line(algorithm, env, map_name, *updates, host=host)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    process = start(killed, *arguments)
    wait_for_checkpoints(killed, process, 2)
    process.kill()
    process.communicate()
    at = steps(killed)[-1]
    assert train(straight, *arguments) == 0
    assert at < steps(straight)[-1], "it was not killed in time"

    assert train(killed, "--resume", str(models(killed)), f"--epymarl={host}") == 0
    check_equal((killed, 2), (straight, 1))
    assert steps(killed) == steps(straight)
    resumed = json.loads((record(killed, 2) / "info.json").read_text())["resumed_from"]
    assert resumed["checkpoint"].endswith(f"/{at}")
    assert resumed["sacred_run"].endswith(f"{algorithm}/{map_name}/1")
    assert json.loads((record(killed, 1) / "run.json").read_text())["status"] == "RUNNING"


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Return (folder, arguments) of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    arguments = line("updet_mappo", "probe", "duel", "t_max=900", "lr_decay=False")
    assert train(folder, *arguments) == 0
    return folder, arguments


def until(folder, source, step):
    """Copy a run without its checkpoints after ``step``; return the copy's folder."""
    shutil.copytree(source, folder)
    for later in steps(folder):
        if later > step:
            shutil.rmtree(models(folder) / str(later))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["updet_mappo", "lolm_mappo_tiny"])
def test_resumed_from_every_checkpoint_by_its_sacred_record(algorithm, tmp_path):
    source = tmp_path / "straight"
    assert train(source, *line(algorithm, "probe", "duel", "t_max=500", "save_model_interval=1")) == 0
    for step in steps(source)[:-1:2]:  # steps with and without a test before them
        folder = until(tmp_path / str(step), source, step)
        assert train(folder, "--resume", f"results/sacred/{algorithm}/duel/1", "--epymarl=none") == 0
        check_equal((folder, 2), (source, 1))


def test_resumed_twice(straight, tmp_path):
    source, _ = straight
    first, *_, _ = steps(source)
    folder = until(tmp_path / "run", source, first)
    assert train(folder, "--resume", str(models(folder)), "--epymarl=none", "with", f"t_max={first + 100}") == 0
    assert train(folder, "--resume", str(models(folder)), "--epymarl=none", "with", "t_max=900") == 0
    check_equal((folder, 3), (source, 1))


def test_a_damaged_checkpoint_costs_only_its_own_steps(straight, tmp_path, capfd):
    source, _ = straight
    folder = until(tmp_path / "run", source, steps(source)[-2])
    newest = models(folder) / str(steps(folder)[-1])
    (newest / "critic.safetensors").write_bytes(b"")
    assert train(folder, "--resume", str(models(folder)), "--strict", "--epymarl=none") == 2
    assert "critic.safetensors has 0 bytes" in capfd.readouterr().err
    assert train(folder, "--resume", str(models(folder)), "--epymarl=none") == 0
    assert newest.with_name(f"{newest.name}.damaged").is_dir()
    assert f"Going back to step {steps(source)[-3]}" in capfd.readouterr().err
    check_equal((folder, 2), (source, 1))


def test_checkpoint_path_continues_in_a_new_run(straight, tmp_path):
    source, arguments = straight
    folder, step = tmp_path / "run", steps(source)[1]
    assert train(folder, *arguments, f"checkpoint_path={models(source)}", f"load_step={step}") == 0
    check_equal((folder, 1), (source, 1))
    assert steps(folder) == [later for later in steps(source) if later > step]


def test_a_checkpoint_of_another_map_starts_new_series(straight, tmp_path):
    source, _ = straight
    arguments = line("updet_mappo", "probe", "retreat", "t_max=1000")
    assert train(tmp_path / "run", *arguments, f"checkpoint_path={models(source)}") == 0
    first = min(steps[0] for steps, _ in series(tmp_path / "run", 1).values())
    assert first == steps(source)[-1], "series of the other map were kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "nowhere"], "--resume=nowhere is not a folder"),
        (["--resume", "results"], "has no checkpoint"),
        (["--resume", "results/sacred/updet_mappo/duel/1", "--config=updet_mappo"], "leave out --config"),
        (["--resume", "results/sacred/updet_mappo/duel/1", "with", "t_maxx=1"], "did you mean t_max"),
        (["--resume", "results/sacred/updet_mappo/duel/1", "with", "gamma=5"], "gamma=5"),
        (
            ["--resume", "results/sacred/updet_mappo/duel/1", "with", "updet.heads=2"],
            "continues an experiment with updet.heads=3",
        ),
    ],
)
def test_wrong_resume_options_are_refused(straight, tmp_path, capfd, arguments, message):
    source, _ = straight
    folder = shutil.copytree(source, tmp_path / "run")
    assert train(folder, *arguments, *(["--epymarl=none"] if "with" not in arguments else [])) == 2
    assert message in capfd.readouterr().err


@pytest.mark.slow
def test_only_the_newest_and_the_best_checkpoints_are_kept(tmp_path):
    arguments = line("updet_mappo", "probe", "retreat", "t_max=600", "keep_checkpoints=2", "save_model_interval=50")
    assert train(tmp_path / "run", *arguments) == 0
    kept = steps(tmp_path / "run")
    scores = {}
    for step in kept:
        facts = json.loads((models(tmp_path / "run") / str(step) / "manifest.json").read_text())["body"]["facts"]
        scores[step] = facts["score"]
    assert kept[-1] > 600, "there is no checkpoint at the end"
    assert 2 <= len(kept) <= 3
    assert any(scores.values()), "the best was not kept"


@pytest.mark.slow
def test_a_longer_run_drops_the_test_at_the_former_end(tmp_path):
    arguments = line("updet_mappo", "probe", "duel", "lr_decay=False", "test_interval=550")
    assert train(tmp_path / "run", *arguments, "t_max=300") == 0
    end = steps(tmp_path / "run")[-1]
    assert series(tmp_path / "run", 1)["test_return_mean"][0] == [0, end]
    facts = json.loads((models(tmp_path / "run") / str(end) / "manifest.json").read_text())["body"]["facts"]
    assert facts["score"], "the final checkpoint may be the best"

    assert train(tmp_path / "run", "--resume", str(models(tmp_path / "run")), "--epymarl=none") == 0
    assert series(tmp_path / "run", 2)["test_return_mean"][0] == [0, end], "it was tested again"
    resumed = ("--resume", str(models(tmp_path / "run")), "--epymarl=none")
    assert train(tmp_path / "run", *resumed, "with", "t_max=900") == 0
    assert train(tmp_path / "straight", *arguments, "t_max=900") == 0
    check_equal((tmp_path / "run", 3), (tmp_path / "straight", 1))


def test_resuming_a_finished_run_changes_nothing(straight, tmp_path):
    source, _ = straight
    folder = shutil.copytree(source, tmp_path / "run")
    assert train(folder, "--resume", str(models(folder)), "--epymarl=none") == 0
    check_equal((folder, 2), (source, 1))


def test_an_interrupted_save_does_not_hide_the_checkpoint_before_it(straight, tmp_path):
    source, _ = straight
    folder = until(tmp_path / "run", source, steps(source)[1])
    (models(folder) / ".writing-9999").mkdir()
    assert train(folder, "--resume", str(models(folder)), "--epymarl=none") == 0
    check_equal((folder, 2), (source, 1))
    assert not list(models(folder).glob(".*"))


def wait_for_line(process, text):
    """Return the output up to the first line with ``text``."""
    printed = ""
    for each in process.stdout:
        printed += each
        if text in each:
            return printed
    raise AssertionError(printed)


STOPS = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.mark.parametrize("number", all_slow_but([signal.SIGTERM], STOPS))
def test_stopped_by_a_signal_and_resumed(number, tmp_path):
    arguments = line("updet_mappo", "probe", "duel", "lr_decay=False", "save_model_interval=100000000")
    process = start(tmp_path / "run", *arguments, "t_max=100000000")
    printed = wait_for_line(process, "Recent Stats") + wait_for_line(process, "Recent Stats")
    between = steps(tmp_path / "run")
    process.send_signal(number)
    printed += process.communicate()[0]
    assert steps(tmp_path / "run")[-1] > between[-1], "it did not save"
    assert process.returncode == STOPS[number], printed
    assert f"{number.name}: this batch is finished and saved" in printed
    assert "Traceback" not in printed
    saved = models(tmp_path / "run") / str(steps(tmp_path / "run")[-1])
    assert f"main.py --epymarl=none --resume '{saved.parent.relative_to(tmp_path / 'run')}'" in printed
    assert json.loads((record(tmp_path / "run", 1) / "run.json").read_text())["status"] == "INTERRUPTED"

    end = f"t_max={int(saved.name) + 300}"
    assert train(tmp_path / "run", "--resume", str(saved.parent), "--epymarl=none", "with", end) == 0
    assert train(tmp_path / "straight", *arguments, end) == 0
    check_equal((tmp_path / "run", 2), (tmp_path / "straight", 1))


ENDLESS = """
import sys, time
from lolm_plugin.commands import train
from lolm_plugin.envs.probe import ProbeVectorEnv

step, calls = ProbeVectorEnv.step, []

def stuck(env, actions):
    calls.append(actions)
    if len(calls) == 60:
        print("stuck", flush=True)
        time.sleep(1000)
    return step(env, actions)

ProbeVectorEnv.step = stuck
sys.exit(train.main(sys.argv))
"""


def test_a_second_signal_stops_at_once(tmp_path):
    """The first signal waits for the end of a batch that never ends."""
    arguments = line("updet_mappo", "probe", "duel", "t_max=9000")
    (tmp_path / "run").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, *arguments],
        cwd=tmp_path / "run",
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_line(process, "stuck")
    process.send_signal(signal.SIGINT)
    wait_for_line(process, "SIGINT: this batch is finished")
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "continue with" in printed, "the last checkpoint is not named"
    assert json.loads((record(tmp_path / "run", 1) / "run.json").read_text())["status"] == "INTERRUPTED"
