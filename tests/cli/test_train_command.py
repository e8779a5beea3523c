"""The command line from start to summary, in a fresh process, as a user types it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lolm_plugin.paths import locate

ROOT = Path(__file__).parents[2]
CHECKOUT = locate(None)
HOSTS = {"bundled": "none"} | ({"EPyMARL": str(CHECKOUT)} if CHECKOUT else {})


def run(folder, *arguments, main=ROOT / "main.py"):
    done = subprocess.run([sys.executable, main, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module", params=HOSTS)
def trained(request, tmp_path_factory):
    """A short training on SMAX: (host name, its --epymarl value, folder it ran in, what it printed)."""
    folder = tmp_path_factory.mktemp(request.param)
    sizes = [f"{key}=4" for key in ("batch_size_run", "test_nepisode")]
    done = run(
        folder,
        "--config=lolm_mappo_tiny",
        "--env-config=smax",
        f"--epymarl={HOSTS[request.param]}",
        *("with", "env_args.map_name=2m_vs_1m", "t_max=300", "seed=1", "test_interval=100", "log_interval=100"),
        *("kl.anneal_steps=150", "save_model_interval=100", "test_sampled=True", *sizes),
    )
    return request.param, HOSTS[request.param], folder, done.stdout + done.stderr


def test_prints_which_host_runs(trained):
    name, _, _, printed = trained
    assert f"Host: {name}" in printed


def test_leaves_a_sacred_run_a_picture_and_a_summary(trained):
    _, _, folder, printed = trained
    run_dir = folder / "results/sacred/lolm_mappo_tiny/2m_vs_1m/1"
    assert (run_dir / "curve.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((run_dir / "config.json").read_text())
    # Keys that EPyMARL's plotting script reads.
    assert {"name", "env", "env_args", "common_reward", "reward_scalarisation", "seed"} <= config.keys()
    assert config["env_args"]["map_name"] == "2m_vs_1m"
    run = json.loads((run_dir / "run.json").read_text())
    assert (run["status"], run["complete"]) == ("COMPLETED", True)
    kept = (run_dir / "cout.txt").read_text()
    for words in ("Host: ", "Beginning training for 300 timesteps", "play it again"):
        assert words in kept
    for label in ("test win rate", "Sacred run", "curve", "checkpoints", "play it again"):
        assert label in printed


def test_logs_exactly_what_the_documentation_lists(trained):
    _, _, folder, _ = trained
    metrics = json.loads((folder / "results/sacred/lolm_mappo_tiny/2m_vs_1m/1/metrics.json").read_text())
    text = (ROOT / "docs/metrics.md").read_text()
    of_all = text[: text.index("### Metrics of some")] + text[text.index("## Speed") :]
    rows = [line for line in of_all.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    # Metrics of another runner; see tests/faults/test_command_line.py.
    assert set(metrics) == documented - {"env_restarts", "actor_grad_norm"}
    assert all(isinstance(value, float | int) for value in metrics["test_return_mean"]["values"])


def test_the_weight_of_the_kl_anneals_and_the_ratio_is_1(trained):
    _, _, folder, _ = trained
    metrics = json.loads((folder / "results/sacred/lolm_mappo_tiny/2m_vs_1m/1/metrics.json").read_text())
    weights = metrics["kl_coef"]["values"]
    assert weights[0] > weights[-1] == 0
    assert all(abs(ratio - 1) < 1e-3 for ratio in metrics["ratio_epoch0"]["values"])


@pytest.mark.slow
def test_a_checkpoint_plays_on_another_map_without_a_missing_tensor(trained):
    _, epymarl, folder, _ = trained
    (checkpoints,) = (folder / "results/models").iterdir()
    assert len(list(checkpoints.iterdir())) > 1
    done = run(
        folder,
        *("--config=lolm_mappo_tiny", "--env-config=smax", f"--epymarl={epymarl}"),
        *("with", "evaluate=True", f"checkpoint_path={checkpoints}", "env_args.map_name=3m", "seed=2"),
        *(f"{key}=2" for key in ("batch_size_run", "test_nepisode")),
    )
    printed = done.stdout + done.stderr
    assert "no tensor missing, none unexpected" in printed
    assert re.search(r"test win rate +\d", printed)


@pytest.mark.slow
def test_the_printed_command_plays_it_again(trained):
    _, _, folder, printed = trained
    command = re.search(r"play it again +(.+)", printed)[1]
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no tensor missing, none unexpected" in done.stdout + done.stderr


def test_the_resolved_configuration_can_be_printed(tmp_path):
    done = run(
        tmp_path,
        *("print_config", "--config=lolm_mappo", "--env-config=smax", "--epymarl=none"),
        *("with", "env_args.map_name=8m_vs_9m"),
    )
    assert "map_name = '8m_vs_9m'" in done.stdout + done.stderr
    assert not (tmp_path / "results").exists()
