"""Wrong input gives one sentence and exit code 2, before anything slow is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from lolm_plugin.commands import train

ROOT = Path(__file__).parents[2]
TINY = ["--config=lolm_mappo_tiny", "--env-config=probe", "--epymarl=none"]
SMAX = ["--config=lolm_mappo_tiny", "--env-config=smax", "--epymarl=none"]

CASES = {
    "unknown algorithm": (["--config=lolm_mapo", "--env-config=probe"], ["--config=lolm_mapo", "mean lolm_mappo"]),
    "unknown environment": (["--config=lolm_mappo", "--env-config=smac"], ["=smac", "known: gymma, probe, smax"]),
    "no algorithm": (["--env-config=probe"], ["--config is missing", "lolm_mappo"]),
    "unknown key": ([*TINY, "with", "lrr=0.1"], ["key lrr", "did you mean lr?"]),
    "unknown nested key": ([*TINY, "with", "env_args.map_nam=duel"], ["env_args.map_nam", "env_args.map_name?"]),
    "text for a number": ([*TINY, "with", "lr=abc"], ["lr=abc", "a number", "0.0005"]),
    "misspelt boolean": ([*TINY, "with", "use_cuda=Flase"], ["use_cuda=Flase", "True or False"]),
    "no equals sign": ([*TINY, "with", "lr"], ["lr after `with`", "KEY=VALUE"]),
    "update before with": ([*TINY, "lr=0.1"], ["lr=0.1", "with lr=0.1"]),
    "unknown probe": ([*TINY, "with", "env_args.map_name=chess"], ["chess", "retreat"]),
    "unknown map": ([*SMAX, "with", "env_args.map_name=9q"], ["9q", "env_args.map_name"]),
    "a medivac map": ([*SMAX, "with", "env_args.map_name=MMM2"], ["MMM2", "medivac", "sc2", "smaclite"]),
    "individual rewards": ([*SMAX, "with", "common_reward=False"], ["common_reward=False", "env=smax"]),
    "folder without a model": ([*TINY, "with", "llm.model=./tests"], ["llm.model=./tests", "config.json"]),
    "unfillable batch": ([*TINY, "with", "batch_size=32"], ["batch_size=32", "batch_size_run=256"]),
    "many environments for one": (
        [*TINY, "with", "runner=episode"],
        ["batch_size_run=256", "runner=episode", "one episode at a time"],
    ),
    "not a checkout": (["--config=lolm_mappo_tiny", "--env-config=probe", "--epymarl=./tests"], ["--epymarl=./tests"]),
    "no such checkpoint": ([*TINY, "with", "checkpoint_path=nowhere"], ["checkpoint_path=nowhere", "not a folder"]),
    "nothing to evaluate": ([*TINY, "with", "evaluate=True"], ["evaluate=True", "checkpoint_path"]),
    "the host's PPO learner": ([*TINY, "with", "learner=ppo_learner"], ["learner=ppo_learner", "mappo_learner"]),
    "chat without a template": (
        [*TINY, "with", "prompt.chat=True"],
        ["prompt.chat=True", "no chat template", "prompt.chat=False"],
    ),
    "chat that is not a boolean": ([*TINY, "with", "prompt.chat=user"], ["prompt.chat=user", "True or False"]),
    "unknown prompt style": ([*TINY, "with", "prompt.style=poem"], ["prompt.style=poem", "paper", "compact"]),
    "null for a number": ([*TINY, "with", "lr=None"], ["lr=None", "a number"]),
    "a negative rate": ([*TINY, "with", "lr=-1"], ["lr=-1", "greater than 0"]),
    "a seed too large": ([*TINY, "with", "seed=99999999999"], ["seed=99999999999", "4294967295"]),
    "a section for a key": ([*TINY, "with", "kl=False"], ["key kl", "section", "kl."]),
    "another action selector": ([*TINY, "with", "action_selector=soft_policies"], ["action_selector", "keyed"]),
    "an environment of EPyMARL alone": (["--config=lolm_mappo", "--env-config=sc2"], ["sc2", "EPyMARL checkout"]),
    "a stray word": ([*TINY, "fast"], ["fast", "print_config"]),
    "results that cannot be written": ([*TINY, "with", "local_results_path=README.md"], ["README.md", "local_results"]),
    "an unknown preset": (
        ["--config=updet_mappo", "--env-config=smax", "--epymarl=none", "with", "preset=published"],
        ["preset=published", "set preset to one of: reference"],
    ),
    "a queue": ([*TINY, "-q"], ["-q (--queue)", "leave it out"]),
    "a clean repository": ([*TINY, "-e"], ["-e (--enforce_clean)", "leave it out"]),
    "an id that is not a number": ([*TINY, "-i", "../x"], ["--id=../x", "7"]),
    "an unknown level": ([*TINY, "-l", "loud"], ["--loglevel=loud", "DEBUG"]),
    "an unknown way to capture": ([*TINY, "-C", "all"], ["--capture=all", "no, sys or fd"]),
    "a beat interval that is not a number": ([*TINY, "-b", "often"], ["--beat-interval=often", "a number"]),
    "decisions into a folder": ([*TINY, "with", "decisions_file=tests"], ["decisions_file=tests", "is a folder"]),
    "decisions that cannot be written": (
        [*TINY, "with", "decisions_file=README.md/decisions.jsonl"],
        ["decisions_file=README.md/decisions.jsonl", "cannot be written to"],
    ),
    "unknown Sacred flag": ([*TINY, "--no-such-flag"], ["--no-such-flag", "--help"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_in_one_sentence_and_code_2(case, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("LOLM_CACHE", str(tmp_path))
    monkeypatch.setenv("EPYMARL_HOME", "none")  # also ignores a checkout next to this one
    arguments, expected = CASES[case]
    code = train.main(["main.py", *arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1
    for words in expected:
        assert words in error


def test_a_prompt_longer_than_the_context_is_refused_before_the_model_is_loaded(capsys, monkeypatch, tmp_path):
    from lolm_plugin.llm import tiny

    monkeypatch.chdir(tmp_path)
    real = tiny.config
    monkeypatch.setattr(tiny, "config", lambda name, **sizes: real(name, **{"max_position_embeddings": 64, **sizes}))
    assert train.main(["main.py", *TINY]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "reads at most 64" in error
    assert "prompt.style=terse" in error


def test_nothing_slow_is_loaded_before_the_configuration_is_checked():
    script = (
        "import sys; from lolm_plugin.commands.train import main; code = main(sys.argv);"
        "slow = {'transformers', 'peft', 'jax', 'matplotlib'} & set(sys.modules); sys.exit(code if not slow else 3)"
    )
    arguments = [*SMAX, "with", "env_args.map_name=MMM2"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_teaches_with_examples(arguments, capsys, monkeypatch):
    monkeypatch.setenv("EPYMARL_HOME", "none")  # also ignores a checkout next to this one
    assert train.main(["main.py", *arguments]) == 0
    text = capsys.readouterr().out
    assert "python main.py --config=lolm_mappo --env-config=sc2 with env_args.map_name=MMM2" in text
    assert "lolm_mappo_tiny" in text
    assert "preset=reference" in text
    assert "learner_preset=dt2gs_ref" in text
