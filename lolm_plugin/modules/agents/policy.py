"""What the small policies have in common: the host's contract and the two ways a learner asks."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class PolicyOutput(NamedTuple):
    """What a policy says about observations with leading dimensions ``[...]``."""

    logits: Tensor  # [..., n_actions], unavailable actions not masked
    hidden: Tensor  # [..., hidden_width]
    losses: Mapping[str, Tensor] = {}  # name -> [...], weighted: what is learned beside the policy's objective
    stats: Mapping[str, Tensor] = {}  # name -> [...], without gradient
    attention: Tensor | None = None  # [..., entities]: self, other allies, enemies
    subtask: Tensor | None = None  # [..., subtasks]: one-hot


class Policy(nn.Module):
    """One network for all agents. Memory is a vector ``hidden``, zeros when an episode begins."""

    input_size: int
    n_agents: int
    hidden_width: int = 0  # 0: the policy has no memory
    noise_width: int = 0  # 0: the policy draws nothing
    noise_mode: str = "stored"  # learn with the draws that were played; frozen: new ones each update; redraw: each time

    def init_hidden(self) -> Tensor:
        """The memory of an agent when an episode begins: [1, hidden_width]."""
        return next(self.parameters()).new_zeros(1, self.hidden_width)

    def forward(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The host's contract, deciding greedily what is not an action: inputs [batch * agents, input_size].

        ``hidden`` is [batch * agents, hidden_width] or [batch, agents, hidden_width]. Returns logits
        [batch * agents, n_actions] and hidden [batch * agents, hidden_width].
        """
        together = inputs.unflatten(0, (-1, self.n_agents))
        hidden = hidden.reshape(*together.shape[:2], self.hidden_width)
        output = self.evaluate(together, hidden, torch.arange(self.n_agents, device=inputs.device))
        return output.logits.flatten(0, 1), output.hidden.flatten(0, 1)

    def evaluate(
        self,
        inputs: Tensor,
        hidden: Tensor,
        agents: Tensor,
        noise: Tensor | None = None,
        available: Tensor | None = None,
    ) -> PolicyOutput:
        """One step: inputs [..., input_size] of the ``agents`` int64 [...] (ids, broadcastable).

        A policy with memory is asked for all agents of a step at once: [..., agents, input_size]. ``noise``
        [..., noise_width] is what ``noise`` drew; None: decide greedily. ``available`` bool [..., n_actions] spares it
        the logits of the other actions, which then are any finite number.
        """
        raise NotImplementedError

    def unroll(self, inputs: Tensor, hidden: Tensor, agents: Tensor, noise: Tensor | None = None) -> PolicyOutput:
        """Many steps: inputs [time, ..., agents, input_size] and noise likewise, hidden before the first.

        All results have the leading time dimension, ``hidden`` as it is after each step.
        """
        raise NotImplementedError

    def noise(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        """Draws [*shape, noise_width] for as many decisions."""
        return torch.zeros(*shape, 0)
