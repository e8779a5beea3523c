"""Fuzz test with a fixed seed: random command lines and damaged yaml files. ``python -m tests.fuzz`` runs more."""

import random

import pytest

from lolm_plugin.commands import train
from tests.fuzz import cases, commands
from tests.fuzz.outcomes import problem

SEED = 20
COMMAND_LINES, YAML_FILES = 300, 100


@pytest.fixture(autouse=True)
def _start_nothing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("EPYMARL_HOME", raising=False)
    monkeypatch.setattr(train, "launch", lambda config, host, asked: 0)
    monkeypatch.setattr(train, "check_game_and_prompts", lambda config, options: [])


def test_every_command_line_of_valid_keys_starts_or_is_refused_in_one_sentence():
    rng = random.Random(SEED)
    failures = {}
    for _ in range(COMMAND_LINES):
        line = cases.command_line(rng)
        if wrong := problem(lambda line=line: commands.train(line)):
            failures[" ".join(line)] = wrong
    assert not failures, _listed(failures)


def test_every_damaged_yaml_is_read_or_refused_in_one_sentence(tmp_path):
    rng = random.Random(SEED)
    failures = {}
    for _ in range(YAML_FILES):
        content = cases.damaged_yaml(rng)
        file = cases.write(tmp_path, content)
        for name, command in commands.OF_YAML.items():
            if wrong := problem(lambda command=command, file=file: command(file)):
                failures[f"{name} {content!r}"] = wrong
    assert not failures, _listed(failures)


def test_the_check_detects_a_traceback_and_a_second_line(capsys):
    def breaks():
        raise KeyError("x")

    def talks():
        print("error: one.\nerror: two.", file=__import__("sys").stderr)
        return 2

    assert "KeyError" in problem(breaks)
    assert "error: two" in problem(talks)
    assert problem(lambda: 3) == "exit code 3"
    assert problem(lambda: 0) == ""


def _listed(failures):
    return "\n\n".join(f"{case[-600:]}\n{wrong[-1500:]}" for case, wrong in list(failures.items())[:10])
