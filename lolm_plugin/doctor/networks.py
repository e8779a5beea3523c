"""How large the critic and the small policies are: they are built, as that takes a moment."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lolm_plugin import registry
from lolm_plugin.modules.agents.policy import Policy
from lolm_plugin.modules.critics.critic import Critic
from lolm_plugin.observations.battle import Layouts
from lolm_plugin.observations.description import Description

STEPS = 16  # made-up steps that activations are counted on


def build_policy(layouts: Layouts, config: Mapping[str, Any]) -> Policy:
    """The small network that ``agent`` names."""
    layout = layouts.observation
    return registry.load(registry.ENTRIES["agent"][config["agent"]])(layout, _arguments(layout, config))


def build_critic(layouts: Layouts, config: Mapping[str, Any]) -> Critic:
    """The critic that ``critic_type`` names."""
    scheme = {"obs": {"vshape": layouts.observation.size}, "state": {"vshape": layouts.state.size}}
    arguments = _arguments(layouts.observation, config)
    return registry.load(registry.ENTRIES["critic"][config["critic_type"]])(scheme, arguments)


def count(module: nn.Module) -> int:
    """Its parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def policy_bytes(policy: Policy, layout: Description) -> float:
    """Bytes an agent-step that a small network keeps for its backward pass, on made-up observations."""
    obs, available, agents = layout.sample(STEPS * layout.n_agents)
    inputs = functional.pad(obs, (0, policy.input_size - layout.size))
    hidden = policy.init_hidden()
    if policy.hidden_width:
        together = inputs.unflatten(0, (STEPS, 1, layout.n_agents))
        noise = policy.noise(together.shape[:3], np.random.default_rng(0)) if policy.noise_width else None
        empty, everyone = hidden.expand(1, layout.n_agents, -1), torch.arange(layout.n_agents)
        kept = kept_bytes(policy, lambda: policy.unroll(together, empty, everyone, noise))
    else:
        empty = hidden.expand(len(inputs), -1)
        kept = kept_bytes(policy, lambda: policy.evaluate(inputs, empty, agents, available=available))
    return kept / len(inputs)


def critic_bytes(critic: Critic, layouts: Layouts) -> float:
    """Bytes an environment step that a critic keeps for its backward pass, on made-up observations."""
    layout = layouts.observation
    obs, available, _ = layout.sample(STEPS * layout.n_agents)
    shape = (1, STEPS, layout.n_agents)
    batch = {
        "obs": obs.unflatten(0, shape),
        "avail_actions": available.int().unflatten(0, shape),
        "state": torch.rand(1, STEPS, layouts.state.size, generator=torch.Generator().manual_seed(0)),
    }
    return kept_bytes(critic, lambda: critic.evaluate(batch, 0, torch.tensor([0]))) / STEPS


def kept_bytes(module: nn.Module, call: Callable[[], Any]) -> int:
    """Bytes that ``call`` keeps for a backward pass, each piece of memory once, parameters of ``module`` not at all."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # held, so that no other piece can come to the same place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call()
    return sum(storage.nbytes() for place, storage in kept.items() if place not in parameters)


def _arguments(layout: Description, config: Mapping[str, Any]) -> SimpleNamespace:
    sizes = {"n_agents": layout.n_agents, "n_actions": layout.n_actions, "seed": config.get("seed") or 0}
    return SimpleNamespace(**{**config, **sizes})
