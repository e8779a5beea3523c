"""``lolm prompt`` and ``lolm doctor``."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lolm_plugin import streams
from lolm_plugin.commands import lolm

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("env", [("probe", "duel"), ("smax", "3s5z_vs_3s6z")])
@pytest.mark.parametrize("style", ["paper", "compact", "terse"])
def test_prompt_prints_one_per_agent_with_tokens_per_part(env, style, capsys):
    name, map_name = env
    arguments = ["--config=lolm_mappo_tiny", f"--env-config={name}", "--epymarl=none"]
    assert (
        lolm.main(["lolm", "prompt", *arguments, "with", f"env_args.map_name={map_name}", f"prompt.style={style}"]) == 0
    )
    text = capsys.readouterr().out
    agents = re.findall(r"# agent \d+: (\d+) tokens \(me (\d+), allies (\d+), enemies (\d+), actions (\d+), cue", text)
    assert len(agents) == (8 if name == "smax" else 1)
    assert all(int(total) > int(me) > 0 for total, me, *_ in agents)
    assert "tokens" in text.splitlines()[1]


def test_doctor_names_what_is_missing_and_how_to_get_it(capsys, monkeypatch):
    monkeypatch.delenv("EPYMARL_HOME", raising=False)
    assert lolm.main(["lolm", "doctor"]) == 0
    text = capsys.readouterr().out
    assert "[ok] probe" in text
    assert "[ok] smax" in text
    assert "smollm2-135m" in text
    assert "SC2PATH" in text or "pysc2" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["dance"],
            [
                "dance",
                "use train, prompt, watch, imitate, compare, report, dashboard, import-runs, export-run or doctor",
            ],
        ),
        (["doctor", "--cure"], ["--cure"]),
        (["prompt", "--env-config=probe", "--steps=many"], ["--steps=many"]),
        (["prompt"], ["--env-config is missing"]),
        (["prompt", "--env-config=probe", "--foo"], ["--foo"]),
        (["prompt", "--env-config=probe", "--config=updet_mappo"], ["--config=updet_mappo", "mac=prompt_mac"]),
        (["prompt", "--env-config=sc2", "--epymarl=none"], ["--env-config=sc2 needs an EPyMARL checkout"]),
    ],
)
def test_misuse_ends_in_one_sentence_and_code_2(arguments, words, capsys):
    assert lolm.main(["lolm", *arguments]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words)


def test_train_is_the_same_as_main(capsys):
    assert lolm.main(["lolm", "train", "--config=nothing", "--env-config=probe", "--epymarl=none"]) == 2
    assert "--config=nothing" in capsys.readouterr().err


def test_an_environment_that_cannot_start_gives_one_sentence(capsys, monkeypatch):
    def broken(**env_args):
        raise OSError("no game here")

    monkeypatch.setattr("lolm_plugin.envs.probe.make_env", broken)
    assert lolm.main(["lolm", "prompt", "--config=lolm_mappo_tiny", "--env-config=probe", "--epymarl=none"]) == 2
    assert "env=probe could not start a battle (OSError: no game here); `lolm doctor` shows" in capsys.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_not_an_error(unbuffered):
    """Test ``lolm --help | head -1``. Python's buffer decides when the pipe breaks."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "lolm_plugin", "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == (streams.SIGPIPE_CODE if unbuffered else 0)


def test_any_other_broken_pipe_raises():
    def broken():
        raise BrokenPipeError("an environment's")

    with pytest.raises(BrokenPipeError, match="an environment's"):
        streams.end_on_broken_pipe(broken)
