"""``lolm doctor --config ... --env-config ...``: measurement, estimate, limits and errors."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict

import psutil
import pytest

from lolm_plugin.commands import lolm
from lolm_plugin.configuration import config_check
from lolm_plugin.doctor import preflight
from lolm_plugin.doctor.preflight import Measured
from lolm_plugin.errors import ConfigError

TINY = ("--config=lolm_mappo_tiny", "--env-config=probe")
SMALL = ("with", "batch_size_run=8")


@pytest.fixture
def doctor(capsys, tmp_path, monkeypatch):
    """Return a function that runs ``lolm doctor`` and returns exit code and output. No file may be left behind."""
    for name in ("temporary", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "work")

    before = set(psutil.Process().children())  # a tracker of multiprocessing that another test started

    def run(*arguments, host="--epymarl=none"):
        code = lolm.main(["lolm", "doctor", *([host] if host else []), *arguments])
        assert [*(tmp_path / "work").iterdir(), *(tmp_path / "temporary").glob("lolm*")] == []
        assert set(psutil.Process().children()) <= before
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


@pytest.fixture
def child(monkeypatch):
    """Return a function that replaces the child process with another program."""

    def put(program):
        started = psutil.Popen
        monkeypatch.setattr(psutil, "Popen", lambda words, **how: started([sys.executable, "-c", program], **how))

    return put


def rows(text):
    return dict(re.findall(r"^  (\w[\w ]*?)  +(.+)$", text, flags=re.MULTILINE))


# The measurement


def test_a_language_model_is_measured_in_its_own_run(doctor):
    code, text = doctor(
        "--time-limit=1800",
        *TINY,
        *SMALL,
        "t_max=800",
        "test_interval=80",
        "test_nepisode=16",
        "decisions_file=d.jsonl",
    )
    assert code == 0, text
    assert text.startswith(
        "lolm_mappo_tiny on probe retreat: one batch and one update in a child process, at most 1800 s"
    )
    found = rows(text)
    assert re.fullmatch(r"[\d.]+ s: 8 episodes, 8 steps, 8 decisions", found["one batch"])
    assert re.fullmatch(r"[\d.]+ s", found["one update"])
    assert re.fullmatch(r"[\d.]+ MB, environments included", found["peak memory"])
    assert "Estimate for t_max=800" in text
    assert found["time"].endswith("101 updates, 12 tests of 16 episodes")
    assert re.fullmatch(r"[\d.]+ MB: 4 checkpoints of [\d.]+ kB", found["disk"])
    assert "a decision, tests included" in found["tokens"]


# The estimate


def estimate(measured, **changes):
    config = {
        **{"t_max": 1000, "test_interval": 250, "test_nepisode": 20, "test_sampled": False, "test_greedy": True},
        **{"save_model": True, "save_model_interval": 500, "keep_checkpoints": 3, **changes},
    }
    played = {"episodes": 10, "env_steps": 100, "decisions": 200, "batch_seconds": 2.0, "update_seconds": 3.0}
    found = preflight.extrapolate(
        config, Measured(**{"start_seconds": 10, "checkpoint_bytes": 10**6, **played, **measured})
    )
    return {what.strip(): value for what, value in found.items()}


def test_the_estimate_by_hand():
    # 11 updates until t_max is passed; tests at the start, after every third update, and at the end. A test takes as
    # long as 2 batches: 10 + 11 * (2 + 3) + 5 * 4 = 85 s.
    found = estimate({"tokens_per_decision": 50})
    assert found["time"] == "85 s: start 12%, play 26%, learn 39%, test 24%; 11 updates, 5 tests of 20 episodes"
    assert found["disk"] == "4.0 MB: 4 checkpoints of 1.0 MB"  # at the start, twice, at the end
    assert "tokens" not in estimate({})
    assert found["tokens"] == "210.0 thousand: 50 a decision, tests included"  # (11 + 5 * 2) * 200 * 50


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"test_sampled": True}, "time", "5 tests of 40 episodes"),
        ({"test_sampled": True, "test_greedy": False}, "time", "5 tests of 20 episodes"),
        ({"t_max": 1}, "time", "1 update, 2 tests"),
        ({"test_interval": 10}, "time", "12 tests"),
        ({"keep_checkpoints": 1}, "disk", "2.0 MB: 2 checkpoints"),
        ({"keep_checkpoints": None, "save_model_interval": 1}, "disk", "12.0 MB: 12 checkpoints"),
        ({"save_model": False}, "disk", "no checkpoints (save_model=False)"),
    ],
    ids=str,
)
def test_the_estimate_depends_on_the_settings(changes, key, value):
    assert value in estimate({}, **changes)[key]


# Limits


def test_a_child_over_its_memory_limit_is_killed_and_keys_to_lower_are_named(doctor, child):
    child("import time; kept = bytearray(400_000_000); time.sleep(60)")
    began = time.monotonic()
    code, text = doctor(*TINY, "--memory-limit=0.2")
    assert (code, time.monotonic() - began < 30) == (2, True)
    assert "needs more memory than the limit of 200.0 MB, reached while starting; lower llm.token_budget" in text
    assert "or raise --memory-limit." in text


def test_a_child_over_its_time_limit_is_killed(doctor, child):
    child("import time; time.sleep(60)")
    code, text = doctor("--config=updet_mappo", "--env-config=probe", "--time-limit=0.5")
    assert code == 2
    assert "did not end one batch and one update within --time-limit=0.5 (it was starting); raise --time-limit" in text


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "does not fit into memory: the child process died"),
        ("raise ValueError('what broke')", "failed while starting (exit code 1): ValueError: what broke"),
    ],
)
def test_a_child_that_dies_is_explained(program, sentence, doctor, child):
    child(program)
    code, text = doctor("--config=updet_mappo", "--env-config=probe")
    assert code == 2
    assert sentence in text
    assert ("lower microbatch, then batch_size_run" in text) == ("memory" in sentence)


def write(measured):
    """Return the program of a child that writes ``measured``."""
    return f"open(__import__('os').environ['TMPDIR'] + '/measured.json', 'w').write({json.dumps(asdict(measured))!r});"


def test_out_of_memory_is_explained(doctor, child):
    child(write(Measured("making an update", out_of_memory=True, peak_bytes=1.5e9)) + "raise SystemExit(1)")
    code, text = doctor(*TINY)
    assert code == 2
    assert "died while making an update, at 1.5 GB; lower llm.token_budget" in text


def test_the_time_limit_may_come_after_the_first_of_several_rounds(doctor, child):
    one_round = {"batch_seconds": 1, "update_seconds": 1, "episodes": 1, "env_steps": 1, "checkpoint_bytes": 1}
    child(write(Measured("playing a batch", **one_round)) + "__import__('time').sleep(60)")
    code, text = doctor("--config=updet_mappo", "--env-config=probe", "--time-limit=1")
    assert (code, "Estimate" in text) == (0, True)


def test_an_error_of_the_run_itself_is_shown(doctor):
    code, text = doctor(*TINY, "with", "transfer_from=nowhere")
    assert code == 2
    assert text.count("error: ") == 1
    assert "transfer_from=nowhere" in text


def test_a_terminated_doctor_leaves_nothing_behind(tmp_path):
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    arguments = ["doctor", "--epymarl=none", "--config=updet_mappo", "--env-config=probe"]
    with subprocess.Popen(
        [sys.executable, "-m", "lolm_plugin", *arguments],
        env=environ,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as process:
        assert b"starting" in process.stderr.readline()
        children = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert children
    assert not any(child.is_running() for child in children)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("limit", "free"), [("max", 1000), ("300", 200), ("50", 0), (None, 1000)])
def test_the_free_memory_respects_a_containers_limit(limit, free, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "CGROUP", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"available": 1000}))
    if limit:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("100\n")
    assert preflight.available_memory() == free


# Errors before anything is started


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config=lolm_mappo_tiny"], "--env-config is missing; set it to one of: gymma, probe, smax."),
        (["--env-config=probe"], "--config is missing; set it to one of: "),
        (["--config=nothing", "--env-config=probe"], "--config=nothing is neither a yaml file nor a known name"),
        ([*TINY, "with", "llm.layers=2"], "The key llm.layers"),
        (["--config=updet_mappo", "--env-config=smax", "with", "kl.enabled=True"], "kl.enabled=True cannot be used"),
        ([*TINY, "t_max=5"], "t_max=5 comes before the word `with`"),
        ([*TINY, "--cure"], "lolm doctor does not know --cure"),
        (["--config=lolm_mappo_tiny", "--env-config=smax", "with", "env_args.map_name=MMM"], "SMAX has no medivac"),
        (["with", "t_max=5"], "lolm doctor does not know with; it takes"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_code_2(arguments, sentence, doctor, child):
    child("raise SystemExit('started')")
    code, text = doctor(*arguments)
    assert code == 2
    assert text.startswith("error: ")
    assert sentence in text
    assert text.count("\n") == 1


def test_missing_starcraft_is_reported_with_what_to_do(doctor, monkeypatch, tmp_path):
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    env = tmp_path / "sc2.yaml"
    env.write_text("env: sc2\nrunner: parallel\nenv_args: {map_name: 3m}\n")
    code, text = doctor("--config=updet_mappo", f"--env-config={env}")
    assert code == 2
    assert (
        "Time, memory and disk of updet_mappo on sc2 3m are unknown: StarCraft II is not installed (game folder:"
        in text
    )
    assert "measure a battle of about that size with --env-config=smax instead." in text


def test_a_model_of_the_hub_is_not_downloaded(doctor, child, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    child("raise SystemExit('started')")
    arguments = [*TINY, "with", "llm.model=owner/name"]
    sentence = "error: llm.model=owner/name is not in the Hugging Face cache, and lolm doctor downloads nothing"
    assert doctor(*arguments)[1].startswith(sentence)
    folder = tmp_path / "models--owner--name"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("a" * 40)
    (snapshot / "config.json").write_text("{}")
    assert doctor(*arguments)[1].startswith(sentence)
    (snapshot / "model.safetensors").touch()
    assert not doctor(*arguments)[1].startswith(sentence)


def test_smollm2_is_not_downloaded(doctor, tmp_path, monkeypatch):
    monkeypatch.setenv("LOLM_CACHE", str(tmp_path / "cache"))
    code, text = doctor("--config=lolm_mappo_smol", "--env-config=probe")
    assert code == 2
    assert text.startswith("error: llm.model=smollm2-135m is not in the cache yet")
    assert not (tmp_path / "cache").exists()


def test_an_evaluation_is_not_measured():
    with pytest.raises(ConfigError, match=r"^evaluate=True only plays"):
        preflight.require({"mac": config_check.LLM_MAC, "evaluate": True})


def test_the_hosts_own_algorithms_are_not_measured(doctor, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text('name: "own"\nmac: "their_mac"\nlearner: "q_learner"\n')
    code, text = doctor(f"--config={own}", "--env-config=probe")
    assert code == 2
    assert "is the host's own algorithm" in text
