"""Tests that settings of memory and speed change no result, with short trainings through the real command line."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from lolm_plugin.commands import train as training
from tests.slow import all_slow_but

SMALL = (
    # Short and with small steps: differences in the last digits grow until an action differs.
    *("env_args.map_name=duel", "t_max=200", "seed=1", "test_nepisode=32", "test_interval=100", "kl.anneal_steps=400"),
    *("lr=0.0001", "head_lr=0.0001"),
    "batch_size_run=32",
)
# Metrics that are not results.
TIMES = {"agent_steps_per_second", "llm_time_share", "prompt_tokens_mean"}
VARIANTS = {
    "the prefix in every prompt": ("llm.share_prefix=False",),
    "256 tokens at once": ("llm.token_budget=256",),
    "1024 tokens at once": ("llm.token_budget=1024",),
    "8192 tokens at once": ("llm.token_budget=8192",),
    "recomputed activations": ("llm.recompute=True",),
    "the last layer for all tokens": ("llm.read_positions=False",),
}
FROZEN_LAYERS = {
    "no rollout states stored": ("llm.keep_rollout_states=False",),
    "the last layer for all tokens": ("llm.read_positions=False",),
    "no frozen states stored": ("llm.frozen_cache_gb=0",),
    "some frozen states stored": ("llm.frozen_cache_gb=0.0001",),
    "the prefix in every prompt": ("llm.share_prefix=False",),
}


def train(folder, *updates):
    """Return the metric series and final weights of a short training of a tiny language model."""
    folder.mkdir()
    here = os.getcwd()
    os.chdir(folder)
    try:
        line = ["main.py", "--config=lolm_mappo_tiny", "--env-config=probe", "--epymarl=none", "with", *SMALL, *updates]
        assert training.main(line) == 0
    finally:
        os.chdir(here)
    (record,) = (folder / "results/sacred/lolm_mappo_tiny").glob("*/1/metrics.json")
    metrics = json.loads(record.read_text())
    (models,) = (folder / "results/models").iterdir()
    last = max(models.iterdir(), key=lambda path: int(path.name))
    weights = {f"{file.name}/{name}": t for file in last.rglob("*.safetensors") for name, t in load_file(file).items()}
    return {name: series for name, series in metrics.items() if name not in TIMES}, weights


ENTITY = ("head.attack_keys=entity", "env_args.map_name=target")
ENTITIES = {
    "the prefix in every prompt": ("llm.share_prefix=False",),
    "256 tokens at once, recomputed activations": ("llm.token_budget=256", "llm.recompute=True"),
    "the last layer for all tokens": ("llm.read_positions=False",),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    return train(tmp_path_factory.mktemp("frozen") / "run", "lora.layers=1")


@pytest.fixture(scope="module")
def entity(tmp_path_factory):
    return train(tmp_path_factory.mktemp("entity") / "run", *ENTITY)


def check_equal(found, expected):
    (metrics, weights), (expected_metrics, expected_weights) = found, expected
    assert metrics.keys() == expected_metrics.keys()
    for name, series in expected_metrics.items():
        assert metrics[name]["steps"] == series["steps"], name  # the same battles, step for step
        assert metrics[name]["values"] == pytest.approx(series["values"], abs=2e-3, rel=2e-3), name
    assert weights.keys() == expected_weights.keys()
    for name, tensor in expected_weights.items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-3, rtol=1e-2, msg=name)


@pytest.mark.parametrize("variant", all_slow_but(["the prefix in every prompt", "256 tokens at once"], VARIANTS))
def test_training_of_all_layers_is_the_same(variant, plain, tmp_path):
    check_equal(train(tmp_path / "run", *VARIANTS[variant]), plain)


@pytest.mark.parametrize("variant", all_slow_but(["no rollout states stored"], FROZEN_LAYERS))
def test_training_with_frozen_layers_is_the_same(variant, frozen, tmp_path):
    check_equal(train(tmp_path / "run", "lora.layers=1", *FROZEN_LAYERS[variant]), frozen)


@pytest.mark.parametrize("variant", all_slow_but(["the last layer for all tokens"], ENTITIES))
def test_training_with_entity_keys_is_the_same(variant, entity, tmp_path):
    check_equal(train(tmp_path / "run", *ENTITY, *ENTITIES[variant]), entity)


def test_training_with_mean_states_is_the_same_with_and_without_stored_states(tmp_path, entity):
    kept, computed = (
        train(tmp_path / name, *ENTITY, "lora.layers=1", "head.read=mean", f"llm.frozen_cache_gb={size}")
        for name, size in (("kept", 4.0), ("computed", 0.0))
    )
    check_equal(kept, computed)
    assert kept[0]["ratio_epoch0"]["values"] == pytest.approx([1.0] * len(kept[0]["ratio_epoch0"]["values"]), abs=1e-4)
    with pytest.raises(AssertionError):
        check_equal(kept, entity)


@pytest.mark.slow
def test_training_with_entity_keys_and_frozen_layers_is_the_same(tmp_path):
    kept, computed = (
        train(tmp_path / name, *ENTITY, "lora.layers=1", f"llm.frozen_cache_gb={size}")
        for name, size in (("kept", 4.0), ("computed", 0.0))
    )
    check_equal(kept, computed)
    assert kept[1]["head.safetensors/target"].any()


def test_frozen_layers_change_training(plain, frozen):
    assert frozen[1].keys() < plain[1].keys()
    with pytest.raises(AssertionError):
        check_equal(frozen, plain)
