"""Small policies: the interface for controller and learner, and the policy of the entity networks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lolm_plugin.llm.sources import seeded
from lolm_plugin.modules.trunks.trunk import Features, build_trunk
from lolm_plugin.observations.battle import BattleLayout
from lolm_plugin.observations.entity_features import NO_TOKEN, ActorFeatures, EntityFeatures
from lolm_plugin.observations.layout import N_BASE_ACTIONS
from lolm_plugin.randomness import keyed_seeds


class PolicyOutput(NamedTuple):
    """Output of a policy for observations with leading dimensions ``[...]``."""

    logits: Tensor  # [..., n_actions], unavailable actions not masked
    hidden: Tensor  # [..., hidden_width]
    losses: Mapping[str, Tensor] = {}  # name -> [...], weighted: auxiliary losses in addition to the policy's
    stats: Mapping[str, Tensor] = {}  # name -> [...], without gradient
    attention: Tensor | None = None  # [..., entities]: self, other allies, enemies
    subtask: Tensor | None = None  # [..., subtasks]: one-hot


class Policy(nn.Module):
    """Base class of small policies: one network for all agents.

    Memory is a vector ``hidden``, zeros when an episode begins.
    """

    input_size: int
    hidden_width: int = 0  # 0: the policy has no memory
    noise_width: int = 0  # 0: the policy draws no noise
    # Noise in an update. stored: that of the rollout; frozen: new noise for the update; redraw: for each evaluation.
    noise_mode: str = "stored"

    def evaluate(
        self,
        inputs: Tensor,
        hidden: Tensor,
        agents: Tensor,
        noise: Tensor | None = None,
        available: Tensor | None = None,
    ) -> PolicyOutput:
        """Compute one step.

        Args:
            inputs: [..., input_size]. With memory, all agents of a step together: [..., agents, input_size].
            hidden: [..., hidden_width].
            agents: int64 [...], ids of the agents, broadcastable.
            noise: [..., noise_width], drawn by ``noise``; None: decide greedily.
            available: bool [..., n_actions]. The logits of unavailable actions may then be any finite number.
        """
        raise NotImplementedError

    def unroll(self, inputs: Tensor, hidden: Tensor, agents: Tensor, noise: Tensor | None = None) -> PolicyOutput:
        """Compute many steps: inputs [time, ..., agents, input_size], noise likewise, ``hidden`` before the first.

        All results have the leading time dimension; ``hidden`` is the memory after each step.
        """
        raise NotImplementedError

    def noise(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        """Draw noise [*shape, noise_width]."""
        return torch.zeros(*shape, 0)


class EntityAgent(Policy):
    """Policy for every map: observation -> entity features -> the trunk that ``args.agent`` names -> action head."""

    def __init__(self, layout: BattleLayout, args: SimpleNamespace) -> None:
        super().__init__()
        self.input_size = layout.size
        self.n_agents = layout.n_agents
        self.entity_features = ActorFeatures(layout, args.entity)
        with seeded(int(keyed_seeds(args.seed, "actor", count=1)[0])):
            self.trunk = build_trunk(args.agent, self.entity_features.width, args)
            self.head = self.trunk.make_head()
        self.trunk.computes_all_units = False
        self.hidden_width = self.trunk.memory_width
        self.noise_width = self.trunk.noise_width
        self.noise_mode = self.trunk.noise_mode

    def evaluate(
        self,
        inputs: Tensor,
        hidden: Tensor,
        agents: Tensor,
        noise: Tensor | None = None,
        available: Tensor | None = None,
    ) -> PolicyOutput:
        entities = self.entity_features(inputs, agents)
        if available is not None:
            entities = replace(entities, targets=entities.targets.where(available[..., N_BASE_ACTIONS:], NO_TOKEN))
        return self._output(entities, self.trunk(entities, hidden, noise))

    def unroll(self, inputs: Tensor, hidden: Tensor, agents: Tensor, noise: Tensor | None = None) -> PolicyOutput:
        entities = self.entity_features(inputs, agents)
        return self._output(entities, self.trunk.unroll(entities, hidden, noise))

    def noise(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        return self.trunk.noise(shape, generator)

    def _output(self, entities: EntityFeatures, features: Features) -> PolicyOutput:
        logits = self.head(features.own, features.targets, entities.targets)
        stats: dict[str, Tensor] = {}
        if features.attention is not None:
            teams = (1, self.n_agents - 1, features.attention.shape[-1] - self.n_agents)
            own, allies, enemies = features.attention.split(teams, dim=-1)
            shares = {"own": own, "allies": allies, "enemies": enemies}
            stats |= {f"attention_{name}": share.sum(-1) for name, share in shares.items()}
        if features.subtask is not None:
            stats |= {f"subtask_{k}": chosen for k, chosen in enumerate(features.subtask.unbind(-1))}
        return PolicyOutput(logits, features.memory, features.losses, stats, features.attention, features.subtask)
