"""``python -m benchmarks``: what it prints, writes and refuses."""

import json
import re

import pytest

from benchmarks import cuda_leg, env_speed
from benchmarks.__main__ import main, run
from benchmarks.entries import NAMES, ON_CUDA, functions
from benchmarks.setting import Setting
from tests.benchmarks.small import SIZES

SMALL = ["--map=3m", "--episodes=2", "--steps=2", "--learner-steps=2", "--repeats=1", "--epochs=1", "--threads=1"]
KEYS = ["name", "baseline", "engine", "ratio", "max_abs_diff", "gemm_fraction"]
LM = ("memory", "prompts", "rollout", "learner_full_lora", "learner_cached_trunk", "load")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(cuda_leg.torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("model", "names"), [("tiny-llama", LM), ("tiny-gemma3", tuple(name for name in LM if name != "memory"))]
)
def test_every_entry_of_a_language_model_has_its_numbers(model, names, tmp_path, capsys, no_gpu):
    file = tmp_path / "numbers.json"
    asked = [f"--only={name}" for name in names]
    assert main([f"--model={model}", f"--json={file}", *SMALL, *asked]) == 0
    report = json.loads(file.read_text())
    assert list(report) == ["setting", "checks", "entries"]
    assert {"cpu", "cores", "gpu", "torch"} <= report["setting"]["machine"].keys()
    assert (report["setting"]["model"], report["setting"]["threads"]) == (model, 1)
    entries = {entry["name"]: entry for entry in report["entries"]}
    assert tuple(entries) == names
    for name, entry in entries.items():
        assert list(entry) == KEYS
        assert entry["ratio"] == entry["baseline"] / entry["engine"] > 0
        assert (entry["gemm_fraction"] is not None) == (name == "rollout" or name.startswith("learner"))
        assert name == "memory" or 0 <= entry["max_abs_diff"] < 1e-4
    printed = capsys.readouterr()
    assert all(name in printed.out for name in names)
    assert "prompts are" in printed.out
    assert "left" in printed.err  # the bar
    assert printed.out.splitlines()[0] == cuda_leg.SKIPPED


def test_several_numbers_of_layers_are_several_entries(tmp_path, no_gpu):
    file = tmp_path / "numbers.json"
    asked = ["--only=learner_cached_trunk", "--layers=2", "--layers=1", "--model=tiny-llama", f"--json={file}"]
    assert main([*asked, *SMALL]) == 0
    entries = json.loads(file.read_text())["entries"]
    assert [entry["name"] for entry in entries] == ["learner_cached_trunk_2", "learner_cached_trunk_1"]
    assert all(entry["gemm_fraction"] > 0 for entry in entries)
    assert entries[0]["baseline"] == entries[1]["baseline"]  # one run of the plain port beside both


def test_without_a_gpu_the_cuda_leg_is_one_line(capsys, no_gpu):
    assert main(["--leg=cuda"]) == 0
    assert capsys.readouterr().out.splitlines() == [cuda_leg.SKIPPED]


def test_the_cuda_leg_runs_a_random_model_of_a_given_shape():
    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    small = Setting(model="tiny-qwen3", **SIZES | {"steps": 1, "learner_steps": 1})
    with cuda_leg.setting(small, device="cpu", **sizes, **heads) as setting:
        entries = run(setting, [name for name in ON_CUDA if name != "memory"])
    assert not setting.pretrained
    assert [entry.name for entry in entries] == [name for name in ON_CUDA if name != "memory"]
    assert all(entry.max_abs_diff < 1e-4 for entry in entries)


def test_the_cuda_leg_is_bfloat16():
    with cuda_leg.setting(Setting(model="tiny-qwen3")) as setting:
        assert (setting.device, setting.dtype) == ("cuda", "bfloat16")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only=rolout"], r"--only=rolout is unknown \(did you mean rollout\?\); use memory, prompts, "),
        (["--leg=gpu"], r"--leg=gpu is unknown.*; use cpu, cuda\."),
        (["--steps=0"], r"argument --steps: 0 is not 1 or more; see python -m benchmarks --help\."),
        (["--model=nowhere"], r"llm\.model=nowhere is neither an existing folder"),
        (["--map=MMM2"], r"map_name=MMM2 cannot be played"),
        (["--style=poem"], r"prompt\.style=poem is not a prompt style"),
        (["--model=tiny-llama", "--layers=3"], r"--layers=3 is more than the 2 layers of tiny-llama"),
        (["--json=no/such/folder/x.json"], r"--json=no/such/folder/x\.json cannot be written"),
        (["--seed=-1"], r"--seed=-1 is no seed"),
        (["--sped"], r"unrecognized arguments: --sped"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, sentence, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert re.search(sentence, line)


def test_what_the_environments_speed_is_comes_from_its_own_module(monkeypatch, no_gpu, tmp_path):
    asked = {}

    def measure(**options):
        asked.update(options)
        return {"rollout_steps_per_second": 500.0, "outside": 0.1}

    monkeypatch.setattr(env_speed, "measure", measure)
    file = tmp_path / "numbers.json"
    assert main(["--only=env", "--map=2s3z", "--env-seconds=3", "--model=tiny-llama", f"--json={file}"]) == 0
    report = json.loads(file.read_text())
    assert report["entries"] == [dict(zip(KEYS, ("env", None, 0.002, None, None, None), strict=True))]
    assert report["checks"]["env_outside"] == 0.1
    assert asked == {"seconds": 3}  # always the same battles, whatever --map


def test_numbers_are_written_as_they_come(monkeypatch, no_gpu, tmp_path):
    """Here the last entry never ends well."""

    def measure(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr(env_speed, "measure", measure)
    file = tmp_path / "numbers.json"
    assert main(["--only=prompts", "--only=env", "--model=tiny-llama", f"--json={file}", *SMALL]) == 130
    assert [entry["name"] for entry in json.loads(file.read_text())["entries"]] == ["prompts"]


def test_help_names_every_entry(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in NAMES)


def test_the_names_are_the_functions():
    assert tuple(functions()) == NAMES
    assert set(ON_CUDA) <= set(NAMES)


def test_sides_that_differ_end_with_code_1(capsys, monkeypatch, no_gpu):
    from benchmarks import compare

    monkeypatch.setattr(compare, "LOGITS", -1.0)
    assert main(["--model=tiny-llama", "--only=rollout", *SMALL]) == 1
    assert "WRONG: rollout: engine and plain port do not compute the same" in capsys.readouterr().err
