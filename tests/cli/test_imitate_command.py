"""``lolm imitate``: it reaches a probe's optimum in seconds; its records and its errors."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from lolm_plugin import checkpoints
from lolm_plugin.commands import lolm
from lolm_plugin.commands import train as train_command
from tests.probe_bounds import optimal_return
from tests.resume.runs import line, models, record, steps, train

ROOT = Path(__file__).parents[2]
PROBE = ("--config=lolm_mappo_tiny", "--env-config=probe", "--epymarl=none")
QUICK = ("imitate.epochs=10", "imitate.minibatch=64", "imitate.lr=0.003", "imitate.head_lr=0.003", "seed=1")


def imitate(folder, *arguments):
    """Run the command in ``folder``; return the exit code."""
    folder.mkdir(exist_ok=True)
    here = os.getcwd()
    os.chdir(folder)
    try:
        return lolm.main(["lolm", "imitate", *arguments])
    finally:
        os.chdir(here)


def metrics(folder, number=1):
    """Return {name: values} of a run's metrics."""
    series = json.loads((record(folder, number) / "metrics.json").read_text())
    return {name: of_name["values"] for name, of_name in series.items()}


@pytest.fixture(scope="module")
def imitated(tmp_path_factory):
    """The folder of an imitation of the optimum of the probe ``target``."""
    folder = tmp_path_factory.mktemp("imitated") / "run"
    updates = ("with", "env_args.map_name=target", "head.attack_keys=entity", *QUICK)
    assert imitate(folder, *PROBE, "--teacher=heuristic", *updates) == 0
    return folder


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """The folder of a small network's run on the probe ``duel``."""
    folder = tmp_path_factory.mktemp("taught") / "run"
    assert train(folder, *line("updet_mappo", "probe", "duel", "t_max=50")) == 0
    return folder


def test_reaches_the_optimum(imitated):
    found = metrics(imitated)
    assert found["test_return_mean"][-1] == optimal_return("target")
    assert found["test_return_mean"][0] < 0.9 * optimal_return("target")
    assert found["teacher_test_return_mean"] == [optimal_return("target")]
    assert found["imitate_agreement"][-1] == 1
    assert len(found["imitate_loss"]) == 10
    assert found["imitate_value_loss"][-1] < found["imitate_value_loss"][0]


def test_every_metric_is_documented(imitated):
    documented = re.findall(r"`(\w+)`", (ROOT / "docs/metrics.md").read_text())
    assert set(metrics(imitated)) <= set(documented)


def test_the_record_is_separate_and_names_the_teacher(imitated):
    assert record(imitated, 1).parts[-3:-1] == ("lolm_mappo_tiny-imitated", "target")
    info = json.loads((record(imitated, 1) / "info.json").read_text())["imitation"]
    assert (info["teacher"], info["battles"], info["held_out_battles"]) == ("heuristic", 1024, 256)
    assert {"test", "teacher", "prepare", "learn"} == info["seconds"].keys()


def test_its_checkpoint_plays(imitated, tmp_path):
    updates = ("env_args.map_name=target", "head.attack_keys=entity", "seed=1", "evaluate=True")
    assert train(tmp_path, *PROBE, "with", *updates, f"checkpoint_path={models(imitated)}") == 0
    assert metrics(tmp_path)["test_return_mean"] == [optimal_return("target")]


def test_the_printed_command_continues_by_ppo(tmp_path, capsys, monkeypatch):
    updates = ("imitate.battles=64", "imitate.epochs=1", "imitate.held_out=8", "seed=1", "t_max=300")
    assert imitate(tmp_path, *PROBE, "--teacher", "heuristic", "with", *updates) == 0
    (command,) = re.findall(r"next, PPO +(.+)", capsys.readouterr().out)
    words = shlex.split(command)
    assert not [word for word in words if "teacher" in word or word.startswith("imitate.")]
    monkeypatch.chdir(tmp_path)
    assert train_command.main(["main.py", *words[words.index("train") + 1 :]]) == 0
    (folder,) = (path for path in (tmp_path / "results/sacred/lolm_mappo_tiny/retreat").iterdir() if path.name == "1")
    info = json.loads((folder / "info.json").read_text())
    assert info["transfer"]["source_map"] == "retreat"
    assert [part["fate"] for part in info["transfer"]["parts"]][:2] == ["moved", "moved"]


def test_an_imitation_is_not_resumed(imitated, tmp_path, capsys):
    assert train(tmp_path, "--resume", str(models(imitated)), "--epymarl=none") == 2
    error = capsys.readouterr().err
    assert "is an imitation, which cannot be resumed" in error
    assert "transfer_from=" in error


@pytest.mark.parametrize("student", ["lolm_mappo_tiny", "updet_mappo", "rnn_mappo"])
def test_a_run_teaches_in_later_rounds_too(student, taught, tmp_path, capsys):
    options = (f"--config={student}", "--env-config=probe", "--epymarl=none", f"--teacher={models(taught)}")
    small = [f"{key}=16" for key in ("batch_size_run", "test_nepisode")]
    updates = ("env_args.map_name=duel", "imitate.rounds=2", "imitate.battles=32", "imitate.epochs=2", "seed=1")
    assert imitate(tmp_path, *options, "with", *updates, *small, "imitate.loss=ce", "imitate.held_out=16") == 0
    found = metrics(tmp_path)
    assert len(found["imitate_agreement"]) == 4
    assert len(found["test_return_mean"]) == 3
    assert len(found["return_mean"]) == len(found["teacher_return_mean"]) == 1
    assert "of 16 greedy battles won" in capsys.readouterr().out


@pytest.mark.parametrize("teacher", ["dt2gs_mappo", "rnn_mappo", "lolm_mappo_tiny"])
def test_every_kind_of_policy_teaches(teacher, tmp_path):
    model = ("seed=5",) if teacher == "lolm_mappo_tiny" else ()  # a random language model comes from its seed
    assert train(tmp_path / "taught", *line(teacher, "probe", "duel", "t_max=30", *model)) == 0
    updates = ("env_args.map_name=duel", "imitate.battles=16", "imitate.epochs=1", "seed=1", "imitate.held_out=16")
    small = [f"{key}=16" for key in ("batch_size_run", "test_nepisode")]
    teaching = f"--teacher={models(tmp_path / 'taught')}"
    assert imitate(tmp_path / "run", *PROBE, teaching, "with", *updates, *small) == 0


CASES = {
    "no teacher": ([*PROBE], ["--teacher is missing", "heuristic"]),
    "no such teacher": ([*PROBE, "--teacher=nowhere"], ["--teacher=nowhere", "not a folder", "heuristic"]),
    "no checkpoint": ([*PROBE, "--teacher=docs"], ["--teacher=docs", "no checkpoint"]),
    "no script": (
        [
            "--config=lolm_mappo_tiny",
            "--env-config=gymma",
            "--epymarl=none",
            "--teacher=heuristic",
            "with",
            "env_args.key=lbforaging:Foraging-8x8-2p-3f-v3",
        ],
        ["--teacher=heuristic", "env=gymma", "probe or smax"],
    ),
    "unknown loss": ([*PROBE, "--teacher=heuristic", "with", "imitate.loss=mse"], ["imitate.loss=mse", "kl, ce"]),
    "no battles": ([*PROBE, "--teacher=heuristic", "with", "imitate.battles=0"], ["imitate.battles=0", "greater"]),
    "a resumed imitation": ([*PROBE, "--resume=run", "--teacher=heuristic"], ["--resume", "lolm imitate"]),
    "an evaluation": ([*PROBE, "--teacher=heuristic", "with", "evaluate=True"], ["evaluate=True", "lolm train"]),
    "a teacher after with": ([*PROBE, "--teacher=heuristic", "with", "imitate.teacher=x"], ["imitate.teacher"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_in_one_sentence_and_code_2(case, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    arguments, expected = CASES[case]
    assert lolm.main(["lolm", "imitate", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1
    for words in expected:
        assert words in error


def test_a_training_has_no_teacher(tmp_path, capsys):
    assert train(tmp_path, *PROBE, "with", "imitate.teacher=heuristic") == 2
    assert "lolm imitate --teacher=heuristic" in capsys.readouterr().err


def test_a_teacher_tied_to_another_map_is_refused_before_anything_is_built(tmp_path, capsys):
    assert train(tmp_path / "taught", *line("rnn_mappo", "probe", "duel", "t_max=30")) == 0
    capsys.readouterr()
    updates = ("with", "env_args.map_name=target")
    assert imitate(tmp_path / "run", *PROBE, f"--teacher={models(tmp_path / 'taught')}", *updates) == 2
    error = capsys.readouterr().err
    assert "was trained on probe duel (1 agents, 7 actions) and cannot play probe target (1 agents, 9 actions)" in error
    assert not (tmp_path / "run/results").exists()


def test_help_teaches_with_examples(capsys):
    assert lolm.main(["lolm", "imitate", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.count("lolm imitate --config=") >= 3
    assert "transfer_from=" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"llm": {"model": "stranger/model"}}, ["llm.model=stranger/model", "may not make lolm download a model"]),
        ({"mac": "basic_mac"}, ["mac=basic_mac"]),
        ({"agent": ["llm"]}, ["agent", "in the teacher's checkpoint"]),
    ],
)
def test_what_a_teachers_folder_names_is_not_loaded(changes, words, tmp_path, capsys):
    """Only the shape of the teacher's network is read from its configuration."""
    assert train(tmp_path / "taught", *line("lolm_mappo_tiny", "probe", "duel", "t_max=30")) == 0
    checkpoint = models(tmp_path / "taught") / str(steps(tmp_path / "taught")[-1])
    facts = checkpoints.read_facts(checkpoint)
    config = dict(facts["config"])
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    hostile = {"local_results_path": "/elsewhere", "env": "gymma", "layout": {"description": "os:abort"}}
    (checkpoint / checkpoints.MANIFEST).unlink()
    checkpoints.seal(checkpoint, {**facts, "config": {**config, **hostile}})
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    capsys.readouterr()
    updates = ("with", "env_args.map_name=duel")
    assert imitate(tmp_path / "run", *PROBE, f"--teacher={models(tmp_path / 'taught')}", *updates) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
