"""Learning tests: battles with known optimal returns, run by the real command line."""

import itertools
import json
import os

import pytest

from lolm_plugin.commands import train as training
from tests.algorithms import NETWORKS
from tests.probe_bounds import best_return_without_target_choice, blind_return, optimal_return
from tests.slow import all_slow_but

# Environment steps: about 24 updates of 256 episodes each. An episode of the duel has up to 8 steps.
T_MAX = {"retreat": 6_000, "approach": 6_000, "duel": 25_000, "target": 5_000}


# Settings of lolm_mappo_tiny for algorithms whose yaml is meant for real battles.
SMALL_BATTLES = (
    "batch_size_run=256",
    *("entropy_coef=0.03", "critic_lr=0.003", "torch_threads=1", "use_cuda=False"),
)
TINY_MODEL = (
    *("llm.model=tiny-llama", "llm.token_budget=16384", "prompt.style=compact", "runner_log_interval=1"),
    *("lr=0.001", "head_lr=0.001"),
)


# The suite smol_probes with a quarter of its battles per update, and with fewer updates.
SMOL = (
    *(f"{key}=64" for key in ("batch_size_run", "test_nepisode")),
    *("lr=0.001", "head_lr=0.001", "test_sampled=False", "test_interval=640", "torch_threads=1"),
    *("minibatches=4", "kl.coef_max=0.1", "kl.anneal_steps=20000"),
)


def train(tmp_path, map_name, *updates, algorithm="lolm_mappo_tiny"):
    """Train on a probe and return its Sacred metrics."""
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        arguments = [f"--config={algorithm}", "--env-config=probe", "--epymarl=none"]
        settings = [f"env_args.map_name={map_name}", f"t_max={T_MAX[map_name]}", "save_model=False", *updates]
        assert training.main(["main.py", *arguments, "with", *settings]) == 0
    finally:
        os.chdir(here)
    return json.loads((tmp_path / "results/sacred" / algorithm / map_name / "1/metrics.json").read_text())


# Three seeds on one battle only, to keep the tests short.
@pytest.mark.parametrize(
    ("map_name", "kl", "seed"),
    all_slow_but(
        [("retreat", True, 1)],
        [
            *(("retreat", True, seed) for seed in (1, 2, 3)),
            *(("retreat", False, 1), ("approach", True, 1), ("duel", True, 1)),
        ],
    ),
)
def test_reaches_90_percent_of_the_optimal_return(map_name, kl, seed, tmp_path):
    metrics = train(tmp_path, map_name, f"kl.enabled={kl}", f"seed={seed}")
    assert metrics["test_return_mean"]["values"][-1] >= 0.9 * optimal_return(map_name)
    assert all(abs(ratio - 1) < 1e-3 for ratio in metrics["ratio_epoch0"]["values"])
    weights = metrics["kl_coef"]["values"]
    assert weights[-1] == 0
    assert (weights[0] > 0) == kl


@pytest.mark.parametrize(
    ("map_name", "seed", "t_max"),
    all_slow_but([("target", 1, 640)], [*(("retreat", seed, 1280) for seed in (1, 2, 3)), ("target", 1, 640)]),
)
def test_a_pretrained_model_reaches_90_percent_of_the_optimal_return(map_name, seed, t_max, tmp_path):
    """Runs of the suite smol_probes: SmolLM2's first 4 layers. With head.features=raw, retreat stays near .5."""
    metrics = train(tmp_path, map_name, *SMOL, f"seed={seed}", f"t_max={t_max}", algorithm="lolm_mappo_smol")
    assert metrics["test_return_mean"]["values"][-1] >= 0.9 * optimal_return(map_name)
    assert all(abs(ratio - 1) < 1e-3 for ratio in metrics["ratio_epoch0"]["values"])


@pytest.mark.parametrize(
    ("algorithm", "map_name"),
    all_slow_but(
        [("rnn_mappo", "target"), ("updet_mappo", "retreat")],
        [
            *itertools.product(NETWORKS, ("approach", "target")),
            # One network each on the longer battles; docs/baselines.md has the results of all.
            *(("updet_mappo", "retreat"), ("asn_attention_mappo", "retreat"), ("updet_mappo", "duel")),
            ("transformer_mappo", "target"),
        ],
    ),
)
def test_every_baseline_reaches_90_percent_of_the_optimal_return(algorithm, map_name, tmp_path):
    """One of the three seeds in docs/baselines.md, to keep the tests short."""
    model = TINY_MODEL if algorithm == "transformer_mappo" else ()
    metrics = train(tmp_path, map_name, *SMALL_BATTLES, *model, "seed=1", algorithm=algorithm)
    assert metrics["test_return_mean"]["values"][-1] >= 0.9 * optimal_return(map_name)
    assert all(abs(ratio - 1) < 1e-3 for ratio in metrics["ratio_epoch0"]["values"])


@pytest.mark.parametrize("map_name", all_slow_but(["retreat"], ["retreat", "approach"]))
def test_learns_nothing_from_shuffled_observations(map_name, tmp_path):
    metrics = train(tmp_path, map_name, "env_args.shuffle_obs=True", "seed=1")
    assert max(metrics["test_return_mean"]["values"]) < blind_return(map_name) + 0.15


@pytest.mark.parametrize("seed", all_slow_but([1], [1, 2, 3]))
def test_attack_keys_of_entities_can_choose_a_target(seed, tmp_path):
    """The sentence about an enemy contains its health."""
    metrics = train(tmp_path, "target", f"seed={seed}", "head.attack_keys=entity")
    assert metrics["test_return_mean"]["values"][-1] >= 0.95 * optimal_return("target")
    assert all(abs(ratio - 1) < 1e-3 for ratio in metrics["ratio_epoch0"]["values"])


@pytest.mark.slow
def test_automatic_prompts_reach_95_percent_of_the_optimal_return(tmp_path):
    """One of the tasks and seeds in docs/prompts.md, to keep the tests short."""
    metrics = train(tmp_path, "target", "seed=1", "prompt.source=auto", "head.attack_keys=entity")
    assert metrics["test_return_mean"]["values"][-1] >= 0.95 * optimal_return("target")


@pytest.mark.slow
def test_the_published_head_cannot_choose_a_target(tmp_path):
    """All its attack logits are equal, so it attacks a random target."""
    metrics = train(tmp_path, "target", "seed=1", "test_greedy=False")
    last = metrics["return_mean"]["values"][-8:]  # 2048 episodes: standard error 0.01
    assert sum(last) / len(last) == pytest.approx(best_return_without_target_choice("target"), abs=0.06)
