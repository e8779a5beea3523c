"""Cost of a run by arithmetic, at a stated rate of a GPU. It is an estimate for runs that no machine has finished yet.

    seconds = environment steps / env_steps_per_second
            + decisions * passes * tokens of a decision * FLOP of a layer per token / rate of matrix products

docs/performance.md ("What a decision costs") derives the passes. Attention is not counted, and the states of frozen
layers are assumed to fit ``llm.frozen_cache_gb``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lolm_plugin import maps, registry
from lolm_plugin.configuration.config_check import LLM_MAC
from lolm_plugin.wording import duration

TEST_STEPS = 50  # assumed environment steps of a test episode
# Assumed share of agent-steps with a choice. Random play on SMAX: .47 to .75, with the padding after a battle's end
# (docs/performance.md). A policy that wins keeps more agents alive, so the largest of these values.
DECIDING = 0.75
# Tokens of a decision: (constant, per unit of both teams). Fitted to the table "How cost grows" of docs/performance.md
# (SmolLM2's tokenizer, random play); its six maps differ from the fit by at most a quarter.
TOKENS = {"paper": (80.0, 27.5), "compact": (18.0, 13.5), "terse": (14.0, 3.9)}
N_BASE_ACTIONS = 6  # of StarCraft's environments: no-op, stop and four moves


@dataclass(frozen=True)
class Architecture:
    """Sizes of a language model.

    Attributes:
        layers: number of layers.
        flop: operations of one layer's matrix products per token.
        keys_and_values: share of keys and values in them.
    """

    layers: int
    flop: float
    keys_and_values: float


ARCHITECTURES = {
    "Qwen/Qwen3-0.6B": Architecture(28, 31.5e6, 0.13),
    "smollm2-135m": Architecture(30, 7.1e6, 0.06),
}


@dataclass(frozen=True)
class Rates:
    """Assumed speed of a machine.

    Attributes:
        tflops: 10^12 operations per second that a run reaches in matrix products, everything else included.
        env_steps_per_second: environment steps of all parallel battles, with everything but the language model.
    """

    tflops: float
    env_steps_per_second: float

    def __str__(self) -> str:
        """Return the inputs of an estimate."""
        return (
            f"{self.tflops:g} TFLOP/s in matrix products, {self.env_steps_per_second:g} environment steps per second, "
            f"{DECIDING:.0%} of agent-steps are decisions, {TEST_STEPS} steps in a test battle"
        )


def seconds(config: Mapping[str, Any], rates: Rates, evaluates: bool = False) -> float | None:
    """Estimate the time of a run on all its maps, tests included. ``evaluates``: it only plays one test.

    Returns None for an environment without two teams, or a language model or prompt style of unknown size.
    """
    env = registry.ENVS.get(config["env"])
    if env is None or not env.battles:
        return None
    time = 0.0
    for env_args, trained, tested in steps_of_maps(config, evaluates):
        time += (trained + tested) / rates.env_steps_per_second
        if config["mac"] != LLM_MAC:
            continue
        n_agents, n_actions = registry.load(env.sizes)(env_args)
        flop = decision_flop(config, n_agents + n_actions - N_BASE_ACTIONS)
        if flop is None:
            return None
        rollout, learner = flop
        work = (trained + tested) * rollout + trained * learner
        time += n_agents * DECIDING * work / (rates.tflops * 1e12)
    return time


def steps_of_maps(config: Mapping[str, Any], evaluates: bool) -> Iterator[tuple[Mapping[str, Any], float, int]]:
    """Yield ``env_args`` and the environment steps of training and of tests, for each map that a run plays.

    The training steps are divided equally between the maps, whatever their weights.
    """
    trained, tested = steps(config, evaluates)
    training = list(maps.each(config, with_test_maps=False))
    for of_map in training:
        yield of_map["env_args"], trained / len(training), tested
    last = config["test_maps_nepisode"] or config["test_nepisode"]
    earlier = last if config["test_maps_between"] is None else config["test_maps_between"]
    held_out = (last + (0 if evaluates else n_tests(config) - 1) * earlier) * TEST_STEPS
    for of_map in list(maps.each(config))[len(training) :]:
        yield of_map["env_args"], 0, held_out


def steps(config: Mapping[str, Any], evaluates: bool = False) -> tuple[int, int]:
    """Return the environment steps of training on all maps, and of the tests on one of them."""
    battles = config["test_nepisode"] * (2 if config.get("test_sampled") else 1)
    return 0 if evaluates else config["t_max"], (1 if evaluates else n_tests(config)) * battles * TEST_STEPS


def n_tests(config: Mapping[str, Any]) -> int:
    """Return the number of tests of a training, with those before and after it."""
    return config["t_max"] // config["test_interval"] + 2


def decision_flop(config: Mapping[str, Any], units: int) -> tuple[float, float] | None:
    """Estimate the operations of a decision: (rollout, learner). Returns None for a model or style of unknown size.

    ``units`` is the number of units of both teams.
    """
    llm, style = config["llm"], config["prompt"]["style"]
    if llm["model"] not in ARCHITECTURES or style not in TOKENS:
        return None
    model = ARCHITECTURES[llm["model"]]
    constant, per_unit = TOKENS[style]
    rollout, learner = passes(config, min(llm["num_layers"] or model.layers, model.layers), model.keys_and_values)
    each = (constant + per_unit * units) * model.flop
    return rollout * each, learner * each


def passes(config: Mapping[str, Any], layers: int, keys_and_values: float) -> tuple[float, float]:
    """Count the passes of one layer over a decision's tokens: (rollout, learner).

    The top ``lora.layers`` layers are trained. States of the layers below are kept from the rollout. The last layer
    computes only keys and values for all tokens (``llm.read_positions``).
    """
    top = keys_and_values if config["llm"]["read_positions"] else 1.0
    full = config["llm"]["train"] == "full"
    trained = (layers if full else min(config["lora"]["layers"] or layers, layers)) - 1 + top
    kl = config["kl"]
    with_kl = min(1.0, kl["anneal_steps"] / config["t_max"]) if kl["enabled"] and not full else 0.0
    recorded = 1 if config["minibatches"] > 1 else 0  # log-probabilities of the policy before its first step
    # A backward pass costs a forward pass, or two if the weights themselves have gradients.
    epochs = (3 if full else 2) * config["epochs"]
    return layers - 1 + top, (with_kl + recorded + epochs) * trained


def verdict(total: float, unknown: int, days: float | None, rates: Rates) -> str:
    """Describe how long all runs take, one after another, and whether this fits into a budget of ``days``."""
    limit = ""
    if days is not None:
        limit = (
            f", which {'fits' if total <= days * 86400 and not unknown else 'does not fit'} the budget of {days:g} days"
        )
    rest = f" and {unknown} runs of unknown length" if unknown else ""
    return f"Estimate by arithmetic, not measured: {duration(total)} of one GPU{rest}{limit}. Inputs: {rates}."
