"""A fixed seed of random command lines and damaged yaml files; ``python -m tests.fuzz`` tries others for longer."""

import random

import pytest

from lolm_plugin.commands import train
from tests.fuzz import cases, commands
from tests.fuzz.outcomes import problem

SEED = 20
COMMAND_LINES, YAML_FILES = 300, 100


@pytest.fixture(autouse=True)
def _nothing_is_started(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("EPYMARL_HOME", raising=False)
    monkeypatch.setattr(train, "launch", lambda config, host, asked: 0)
    monkeypatch.setattr(train, "check_game_and_prompts", lambda config, options: [])


def test_every_command_line_of_valid_keys_ends_in_a_sentence_or_starts():
    rng = random.Random(SEED)
    found = {}
    for _ in range(COMMAND_LINES):
        line = cases.command_line(rng)
        if wrong := problem(lambda line=line: commands.train(line)):
            found[" ".join(line)] = wrong
    assert not found, _listed(found)


def test_every_damaged_yaml_is_read_or_refused_in_a_sentence(tmp_path):
    rng = random.Random(SEED)
    found = {}
    for _ in range(YAML_FILES):
        content = cases.damaged_yaml(rng)
        file = cases.write(tmp_path, content)
        for name, command in commands.OF_YAML.items():
            if wrong := problem(lambda command=command, file=file: command(file)):
                found[f"{name} {content!r}"] = wrong
    assert not found, _listed(found)


def test_a_traceback_and_a_second_line_would_be_seen(capsys):
    def breaks():
        raise KeyError("x")

    def talks():
        print("error: one.\nerror: two.", file=__import__("sys").stderr)
        return 2

    assert "KeyError" in problem(breaks)
    assert "error: two" in problem(talks)
    assert problem(lambda: 3) == "exit code 3"
    assert problem(lambda: 0) == ""


def _listed(found):
    return "\n\n".join(f"{case[-600:]}\n{wrong[-1500:]}" for case, wrong in list(found.items())[:10])
