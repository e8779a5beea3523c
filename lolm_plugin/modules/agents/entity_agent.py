"""The policy of the entity networks: observation -> tokens -> trunk -> action head."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from torch import Tensor

from lolm_plugin.llm.sources import seeded
from lolm_plugin.modules.agents.policy import Policy, PolicyOutput
from lolm_plugin.modules.trunks.trunk import Features, build_trunk
from lolm_plugin.observations.battle import BattleLayout
from lolm_plugin.observations.entity_tokens import NO_TOKEN, ActorTokenizer, EntityTokens
from lolm_plugin.observations.layout import N_BASE_ACTIONS
from lolm_plugin.randomness import keyed_seeds


class EntityAgent(Policy):
    """The trunk that ``args.agent`` names, under its action head. The same weights play every map."""

    def __init__(self, layout: BattleLayout, args: SimpleNamespace) -> None:
        super().__init__()
        self.input_size = layout.size
        self.n_agents = layout.n_agents
        self.tokenizer = ActorTokenizer(layout, args.entity)
        with seeded(int(keyed_seeds(args.seed, "actor", count=1)[0])):
            self.trunk = build_trunk(args.agent, self.tokenizer.width, args)
            self.head = self.trunk.make_head()
        self.trunk.every_unit = False
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
        tokens = self.tokenizer(inputs, agents)
        if available is not None:
            tokens = replace(tokens, targets=tokens.targets.where(available[..., N_BASE_ACTIONS:], NO_TOKEN))
        return self._output(tokens, self.trunk(tokens, hidden, noise))

    def unroll(self, inputs: Tensor, hidden: Tensor, agents: Tensor, noise: Tensor | None = None) -> PolicyOutput:
        tokens = self.tokenizer(inputs, agents)
        return self._output(tokens, self.trunk.unroll(tokens, hidden, noise))

    def noise(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        return self.trunk.noise(shape, generator)

    def _output(self, tokens: EntityTokens, features: Features) -> PolicyOutput:
        logits = self.head(features.own, features.targets, tokens.targets)
        stats = {}
        if features.attention is not None:
            teams = (1, self.n_agents - 1, features.attention.shape[-1] - self.n_agents)
            own, allies, enemies = features.attention.split(teams, dim=-1)
            shares = {"own": own, "allies": allies, "enemies": enemies}
            stats |= {f"attention_{name}": share.sum(-1) for name, share in shares.items()}
        if features.subtask is not None:
            stats |= {f"subtask_{k}": chosen for k, chosen in enumerate(features.subtask.unbind(-1))}
        return PolicyOutput(logits, features.memory, features.losses, stats, features.attention, features.subtask)
