"""The critic of MAPPO with flat vectors: state, own observation and agent id -> V. Fits one map only."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from lolm_plugin.llm.sources import seeded
from lolm_plugin.modules.critics.critic import Critic
from lolm_plugin.modules.initialisation import RELU_GAIN, linear
from lolm_plugin.randomness import keyed_seeds


class MLPCritic(Critic):
    """Linear -> ReLU -> linear -> ReLU -> linear, inputs and hidden layers normalised as in MAPPO's released code."""

    reads = ("state", "obs")

    def __init__(self, scheme: Mapping[str, Mapping], args: SimpleNamespace) -> None:
        super().__init__()
        self.n_agents = args.n_agents
        width, inputs = args.critic["width"], scheme["state"]["vshape"] + scheme["obs"]["vshape"] + args.n_agents
        with seeded(int(keyed_seeds(args.seed, "critic", count=1)[0])):
            self.net = nn.Sequential(
                nn.LayerNorm(inputs),
                linear(inputs, width, RELU_GAIN),
                nn.ReLU(),
                nn.LayerNorm(width),
                linear(width, width, RELU_GAIN),
                nn.ReLU(),
                nn.LayerNorm(width),
                linear(width, 1, gain=1.0),
            )

    def forward(self, batch: Any, t: int | None = None) -> Tensor:
        """Values [batch, time, agents, 1]."""
        steps = slice(None) if t is None else slice(t, t + 1)
        state, obs = batch["state"][:, steps], batch["obs"][:, steps]
        state = state.unsqueeze(2).expand(-1, -1, self.n_agents, -1)
        agent = torch.eye(self.n_agents, device=obs.device).expand(*obs.shape[:2], -1, -1)
        return self.net(torch.cat([state, obs, agent], dim=-1))
