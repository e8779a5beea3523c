"""What fills the memory of a run, part by part, and what would make it less."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lolm_plugin.doctor import machine, memory, networks, words
from lolm_plugin.doctor.language_model import LanguageModel, Reading
from lolm_plugin.doctor.plan import Plan
from lolm_plugin.modules.agents.policy import Policy
from lolm_plugin.modules.critics import Critic

COPIES = 2  # of a batch of battles: the runner's and the learner's


class Share(NamedTuple):
    """A part of the memory: ``what`` it is for, its ``size`` in bytes, and ``how`` that comes about."""

    what: str
    size: float
    how: str


def of_language_model(
    config: Mapping[str, Any], run: Plan, reading: Reading, critic: Critic, device: str
) -> list[Share]:
    """The parts of a run with a language model."""
    llm, model = config["llm"], reading.model
    width, size = model.layer.hidden, model.dtype.itemsize
    short_last = model.once > 0
    kept = memory.activation_bytes(model.layer, model.adapted, reading.at_once, size, llm["recompute"], short_last)
    layers = words.several(model.adapted, "layer")
    shares = _weights(model, networks.count(critic), llm["quantization"])
    # Policy and critic learn one after the other, so that the larger of both counts.
    most = max(kept, _critic_activations(config, run, critic))
    shares.append(Share("activations", most, f"{reading.at_once:,} tokens at once through {layers}"))
    if device == "cpu":  # a GPU's memory is PyTorch's own to manage
        shares.append(Share("what was freed", most, "as much again, which the C library keeps"))
    if machine.takes_onednn(llm["product"], model.dtype, device):
        shares.append(
            Share("oneDNN", memory.ONEDNN, "at most, for products of many shapes; none with llm.product=torch")
        )
    if model.adapted < model.layers:
        below = memory.trunk_bytes(width, reading.batch, size, llm["trunk_cache_gb"])
        shares.append(Share("states below the adapter", below, f"llm.trunk_cache_gb={llm['trunk_cache_gb']:g} at most"))
    return [*shares, _battles(config, run)]


def of_network(config: Mapping[str, Any], run: Plan, policy: Policy, critic: Critic) -> list[Share]:
    """The parts of a run with a small network."""
    trained = memory.trained_bytes(networks.count(policy) + networks.count(critic))
    steps = agent_steps_at_once(config, run, recurrent=policy.hidden_width > 0)
    kept = networks.policy_bytes(policy, run.layouts.observation) * steps
    return [
        Share("policy and critic", trained, "with gradients and Adam's state"),
        Share("activations", max(kept, _critic_activations(config, run, critic)), f"{steps:,} agent-steps at once"),
        _battles(config, run),
    ]


def less_for_language_model(config: Mapping[str, Any], reading: Reading, device: str) -> list[str]:
    """What makes such a run need less, in the order in which it should be tried; what is done already is left out."""
    llm, model = config["llm"], reading.model
    ways = [f"lower llm.token_budget ({reading.budget} now)"]
    if not llm["recompute"]:
        ways.append("set llm.recompute=True")
    if model.adapter and model.adapted > 1:
        ways.append(f"lower lora.layers ({model.adapted} now)")
    if device == "cuda" and model.adapter and llm["quantization"] != "4bit":
        ways.append(f"set llm.quantization={'8bit' if llm['quantization'] == 'none' else '4bit'}")
    ways += _fewer_battles(config)
    if machine.takes_onednn(llm["product"], model.dtype, device):
        ways.append("set llm.product=torch, which may be slower")
    return ways


def less_for_network(config: Mapping[str, Any]) -> list[str]:
    """The same for a small network."""
    return [f"lower microbatch ({config['microbatch']} now)", *_fewer_battles(config)]


def agent_steps_at_once(config: Mapping[str, Any], run: Plan, recurrent: bool) -> int:
    """How many a small network reads at once, as ``NetworkMAC`` cuts a minibatch; with memory, in whole battles."""
    battle, battles = run.limit * run.n_agents, -(-run.battles // config["minibatches"])
    if recurrent:
        return battle * min(max(1, config["microbatch"] // battle), battles)
    return min(config["microbatch"], battle * battles)


def _weights(model: LanguageModel, critic: int, quantization: str) -> list[Share]:
    size, name = model.dtype.itemsize, str(model.dtype).removeprefix("torch.")
    if not model.adapter:
        trained = memory.trained_bytes(model.parameters, size) + memory.trained_bytes(model.head + critic)
        return [Share("weights", trained, f"{name}, with gradients and Adam's state")]
    how = name if quantization == "none" else f"{quantization} in linear layers, else {name}"
    others = model.parameters - model.linear
    frozen = memory.frozen_bytes(model.linear, others, size, quantization)
    trained = memory.trained_bytes(model.trained + critic)
    return [
        Share("frozen weights", frozen, how),
        Share("LoRA, head and critic", trained, "with gradients and Adam's state"),
    ]


def _critic_activations(config: Mapping[str, Any], run: Plan, critic: Critic) -> float:
    """Bytes, as ``MAPPOLearner`` cuts its batch for the critic: in whole battles."""
    steps = run.limit + 1
    episodes = max(1, config["microbatch"] // (steps * run.n_agents))
    episodes = min(episodes, -(-run.battles // config["critic_minibatches"]))
    return networks.critic_bytes(critic, run.layouts) * steps * episodes


def _battles(config: Mapping[str, Any], run: Plan) -> Share:
    layout, rewards = run.layouts.observation, 1 if config["common_reward"] else run.n_agents
    sizes = (run.n_agents, layout.n_actions, layout.size, run.layouts.state.size, rewards)
    size = memory.battles_bytes(run.battles, run.limit + 1, *sizes)
    return Share("stored battles", COPIES * size, f"{run.battles} for the runner and as many for the learner")


def _fewer_battles(config: Mapping[str, Any]) -> list[str]:
    battles = config["batch_size_run"]
    return [f"lower batch_size_run ({battles} now) with batch_size and buffer_size"] if battles > 1 else []
