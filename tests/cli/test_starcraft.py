"""The paper's command on real EPyMARL, real SMAC and a fake game; also SMAClite and EPyMARL's own algorithms."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lolm_plugin.commands import lolm
from lolm_plugin.paths import locate
from tests.fake_sc2.install import install, requirements_missing

ROOT = Path(__file__).parents[2]
# A tiny language model and one short update, because the tests are about everything else.
SMALL = ("llm.model=tiny-llama", "epochs=1", "batch_size_run=2", "torch_threads=1")
SHORT = ("t_max=30", "test_nepisode=2", "test_interval=10", "runner_log_interval=1", "learner_log_interval=1")
SAVE = ("save_model=True", "save_model_interval=10")


@pytest.fixture
def checkout():
    """An EPyMARL checkout, or the test is skipped."""
    if locate(None) is None:
        pytest.skip("needs an EPyMARL checkout (EPYMARL_HOME)")
    return locate(None)


@pytest.fixture
def starcraft(checkout, tmp_path, monkeypatch):
    """SMAC with a fake game behind it, or the test is skipped."""
    if reason := requirements_missing():
        pytest.skip(reason)
    monkeypatch.setenv("SC2PATH", str(install(tmp_path / "sc2")))


@pytest.fixture
def starcraft_v2(checkout, tmp_path, monkeypatch):
    """SMACv2 with a fake game behind it, or the test is skipped."""
    if reason := requirements_missing("smacv2"):
        pytest.skip(reason)
    monkeypatch.setenv("SC2PATH", str(install(tmp_path / "sc2")))


@pytest.fixture
def smaclite(checkout):
    if importlib.util.find_spec("smaclite") is None:
        pytest.skip("needs smaclite")


@pytest.fixture
def train(tmp_path):
    """Return a function that runs ``main.py`` in an empty folder and returns what it printed."""

    def run(*arguments, code=0, **environment):
        done = subprocess.run(
            [sys.executable, str(ROOT / "main.py"), *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == code, done.stdout[-4000:]
        return done.stdout

    return run


def metrics(tmp_path, algorithm, map_name, run=1):
    """Return ``{name: values}`` of a run's Sacred record."""
    record = json.loads((tmp_path / f"results/sacred/{algorithm}/{map_name}/{run}/metrics.json").read_text())
    return {name: series["values"] for name, series in record.items()}


def checkpoint(printed):
    return re.search(r"checkpoints\s+(results/models/.*)", printed)[1]


@pytest.mark.parametrize("crash", [False, True], ids=["healthy", "one game crashes"])
def test_the_papers_command_trains_and_plays_another_map(starcraft, train, tmp_path, crash):
    faults = {"FAKE_SC2_FAULT": "crash:60", "FAKE_SC2_FAULT_ONCE": str(tmp_path / "crashed")} if crash else {}
    line = ("--config=lolm_mappo", "--env-config=sc2", "with", "env_args.map_name=MMM2")
    printed = train(*line, *SMALL, *SHORT, *SAVE, **faults)
    assert "Host: EPyMARL at" in printed
    assert "From config/maps/lolm_mappo.yaml for MMM2: kl.anneal_steps=5000000; keys after" in printed
    assert "kl.anneal_steps=5000000 is beyond t_max=30" in printed
    found = metrics(tmp_path, "lolm_mappo", "MMM2")
    assert set(found["test_battle_won_mean"]) <= {0.0, 0.5, 1.0}
    assert found["env_restarts"][-1] == crash
    assert all(ratio == pytest.approx(1, abs=1e-4) for ratio in found["ratio_epoch0"])

    zero_shot = ("evaluate=True", f"checkpoint_path={checkpoint(printed)}")
    printed = train(*line[:3], "env_args.map_name=3s5z_vs_3s6z", *SMALL, *SHORT, *zero_shot)
    assert "lolm_mappo on sc2 3s5z_vs_3s6z" in printed
    assert "test_battle_won_mean" in metrics(tmp_path, "lolm_mappo", "3s5z_vs_3s6z")


def test_a_fork_with_other_type_bits_stops_before_anything_is_learned(starcraft, train, tmp_path):
    """Here the option is wrong, not the environment. The mismatch is the same as for a fork without the option."""
    line = ("--config=lolm_mappo", "--env-config=sc2", "with", "env_args.map_name=3s5z_vs_3s6z")
    printed = train(*line, *SMALL, *SHORT, "layout.aligned_enemy_types=True", code=2)
    error = printed.strip().splitlines()[-1]
    assert error.startswith("error: The vectors of env=sc2 map_name=3s5z_vs_3s6z do not fit their layout (enemy team")
    assert "(set layout.aligned_enemy_types=False)" in error


def test_a_missing_game_or_map_is_reported_before_anything_is_started(starcraft, train, tmp_path):
    line = ("--config=qmix", "--env-config=sc2", "with", "env_args.map_name=MMM2")
    (tmp_path / "sc2/Maps/SMAC_Maps/MMM2.SC2Map").unlink()
    error = train(*line, code=2).strip().splitlines()[-1]
    assert error.startswith("error: env=sc2 cannot be played on this machine: SMAC's map: MMM2 missing in ")
    error = train(*line, code=2, SC2PATH=str(tmp_path / "nowhere")).strip().splitlines()[-1]
    assert "game folder: SC2PATH=" in error
    assert "`lolm doctor` lists everything" in error


def test_smaclite_trains_and_plays_another_map(smaclite, train, tmp_path):
    line = ("--config=lolm_mappo", "--env-config=smaclite", "with")
    printed = train(*line, "env_args.map_name=MMM2", *SMALL, *SHORT, *SAVE)
    assert metrics(tmp_path, "lolm_mappo", "MMM2")["ratio_epoch0"]
    zero_shot = ("evaluate=True", f"checkpoint_path={checkpoint(printed)}")
    train(*line, "env_args.map_name=3s5z", *SMALL, *SHORT, *zero_shot)
    assert "test_battle_won_mean" in metrics(tmp_path, "lolm_mappo", "3s5z")


@pytest.mark.parametrize("algorithm", ["mappo", "qmix"])
def test_epymarls_own_algorithms_run_through_our_command_line(smaclite, train, tmp_path, algorithm):
    short = ("t_max=60", "test_nepisode=2", "test_interval=50", "env_args.time_limit=20", "use_cuda=False")
    line = (f"--config={algorithm}", "--env-config=smaclite", "with", "env_args.map_name=2s3z")
    sizes = ("batch_size_run=2", "batch_size=2", "buffer_size=2") if algorithm == "mappo" else ("batch_size=2",)
    train(*line, *short, *sizes)
    assert "test_battle_won_mean" in metrics(tmp_path, algorithm, "2s3z")


def test_prompts_of_a_host_environment_can_be_printed(smaclite, capsys):
    arguments = ("--config=lolm_mappo_tiny", "--env-config=smaclite", "--steps=2")
    assert lolm.main(["lolm", "prompt", *arguments, "with", "env_args.map_name=MMM2"]) == 0
    printed = capsys.readouterr().out
    assert "You: medivac hp 1.00" in printed
    assert "heal" in printed
    assert printed.count("# agent") == 10


def test_smacv2_trains_and_plays_another_scenario(starcraft_v2, train, tmp_path):
    line = ("--config=lolm_mappo", "--env-config=sc2v2", "with")
    printed = train(*line, "env_args.map_name=terran_5_vs_5", *SMALL, *SHORT, *SAVE)
    assert "lolm_mappo on sc2v2 terran_5_vs_5" in printed
    found = metrics(tmp_path, "lolm_mappo", "terran_5_vs_5")
    assert set(found["test_battle_won_mean"]) <= {0.0, 0.5, 1.0}
    assert found["ratio_epoch0"] == pytest.approx([1] * len(found["ratio_epoch0"]), abs=1e-4)

    zero_shot = ("evaluate=True", f"checkpoint_path={checkpoint(printed)}")
    printed = train(*line, "env_args.map_name=protoss_5_vs_5", *SMALL, *SHORT, *zero_shot)
    assert "lolm_mappo on sc2v2 protoss_5_vs_5" in printed
    assert "test_battle_won_mean" in metrics(tmp_path, "lolm_mappo", "protoss_5_vs_5")
