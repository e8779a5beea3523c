"""``python -m benchmarks``: its output, files and errors."""

import json
import re

import pytest
import torch

from benchmarks import entries
from benchmarks.__main__ import main
from benchmarks.entries import ENTRIES
from benchmarks.setting import Entry

SMALL = ["--map=3m", "--episodes=2", "--steps=2", "--learner-steps=2", "--repeats=1", "--epochs=1", "--threads=1"]
SMALL += ["--model=tiny-llama", "--num-layers=2", "--env-seconds=1"]
COMPARED = ("prompts", "rollout", "learner_full_lora", "learner_cached_trunk")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def _report(tmp_path, *arguments):
    file = tmp_path / "numbers.json"
    assert main([*SMALL, f"--json={file}", *arguments]) == 0
    report = json.loads(file.read_text())
    assert list(report) == ["setting", "checks", "entries"]
    return report, {entry["name"]: entry for entry in report["entries"]}


def test_compared_entries_have_all_numbers(tmp_path, capsys, no_gpu):
    report, by_name = _report(tmp_path, *(f"--only={name}" for name in COMPARED))
    assert {"cpu", "cores", "gpu", "torch"} <= report["setting"]["machine"].keys()
    assert (report["setting"]["model"], report["setting"]["threads"]) == ("tiny-llama", 1)
    assert tuple(by_name) == COMPARED
    for name, entry in by_name.items():
        assert set(entry) == {"name", "baseline", "engine", "ratio", "max_abs_diff", "gemm_fraction"}
        assert entry["ratio"] == entry["baseline"] / entry["engine"] > 0
        assert (entry["gemm_fraction"] is not None) == (name != "prompts")
        assert 0 <= entry["max_abs_diff"] < 1e-4
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMPARED)
    assert "cuda leg skipped: torch sees no GPU here" in printed


@pytest.mark.slow
def test_memory_env_and_smol_have_all_numbers(tmp_path, no_gpu):
    report, by_name = _report(
        tmp_path, "--only=memory", "--only=env", "--only=smol", "--only=keep_battles", "--with=lora.layers=1"
    )
    assert by_name["memory"]["baseline"] > by_name["memory"]["engine"] > 0
    assert (by_name["env_rollout"]["baseline"], by_name["env_rollout"]["ratio"]) == (None, None)
    assert 0 < by_name["env_rollout"]["engine"] < by_name["env_training"]["engine"]
    smol = {name: entry for name, entry in by_name.items() if name.startswith("smol_")}
    assert len({entry["engine"] for name, entry in smol.items() if name.endswith("both")}) == 1  # the same engine
    assert {"smol_all_off_rollout", "smol_all_off_learner", "smol_read_positions_both"} <= smol.keys()
    assert report["setting"]["updates"] == ["lora.layers=1"]
    assert by_name["keep_battles"]["engine"] > 0
    assert "keep_battles_added_share_of_a_test" in report["checks"]
    assert report["checks"]["smol_both_decisions_per_second"] > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps=0"], r"--steps=0 is too small or too large"),
        (["--model=nowhere"], r"llm\.model=nowhere is neither an existing folder"),
        (["--map=MMM2"], r"map_name=MMM2 cannot be played"),
        (["--style=poem"], r"prompt\.style=poem is not a prompt style"),
        (["--json=no/such/folder/x.json"], r"--json=no/such/folder/x\.json cannot be written"),
        (["--seed=-1"], r"--seed=-1 is too small or too large"),
        (["--minutes=0"], r"--minutes=0 leaves no time; set it to more than 0"),
        (["--dry", "--output=setup.py"], r"--output=setup\.py cannot be written"),
        (["--with=lora.layers"], r"--with=lora\.layers has no value; write --with=KEY=VALUE"),
        (["--with=lora.layerz=1"], r"The key lora\.layerz on the command line is unknown"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, sentence, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.__main__.ENTRIES", {})  # nothing is measured
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert re.search(sentence, line)


@pytest.mark.parametrize("arguments", [["--only=rolout"], ["--leg=gpu"], ["--sped"]])
def test_an_unknown_option_or_entry_is_exit_code_2(arguments, capsys):
    assert main(arguments) == 2


def test_each_entry_is_written_as_soon_as_it_is_measured(monkeypatch, no_gpu, tmp_path):
    def interrupted(bench):
        raise KeyboardInterrupt

    monkeypatch.setitem(ENTRIES, "memory", lambda bench: [Entry("memory", 2.0, 1.0)])
    monkeypatch.setitem(ENTRIES, "env", interrupted)
    file = tmp_path / "numbers.json"
    assert main([*SMALL, "--only=memory", "--only=env", f"--json={file}"]) == 130
    assert [entry["name"] for entry in json.loads(file.read_text())["entries"]] == ["memory"]


def test_help_names_every_entry(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ENTRIES)


def test_a_mismatch_of_the_sides_is_exit_code_1(capsys, monkeypatch, no_gpu):
    monkeypatch.setattr(entries, "ABSOLUTE", -1.0)
    assert main([*SMALL, "--only=rollout"]) == 1
    assert "WRONG: rollout: engine and plain port do not compute the same" in capsys.readouterr().err
