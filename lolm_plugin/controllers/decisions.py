"""Decisions of a batch, and a policy's outputs for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lolm_plugin.protocols import Batch


@dataclass(frozen=True)
class Decisions:
    """Agent-steps of a batch with at least two available actions, in a fixed order.

    Dead agents (one available action) and padding (none) are excluded. Their action is forced, so their log-probability
    and entropy are 0 and they have no gradient.
    """

    index: tuple[Tensor, Tensor, Tensor]  # episode, timestep, agent; each int64 [decisions]
    available: Tensor  # bool [decisions, n_actions]

    def __len__(self) -> int:
        return len(self.available)

    @property
    def group_ids(self) -> Tensor | None:
        """Return each decision's group, int64 [decisions]; None: every decision is a separate group.

        A minibatch consists of whole groups. For a policy with memory a group is an episode, because each step needs
        the steps before it.
        """
        return None


class Evaluation(NamedTuple):
    """Output of the current policy for some decisions, with gradient."""

    logits: Tensor  # [decisions, n_actions], unavailable actions not yet masked
    losses: Mapping[str, Tensor] = {}  # auxiliary losses by name, already weighted: [decisions] each
    stats: Mapping[str, Tensor] = {}  # statistics by name, without gradient, logged as means: [decisions] each


class Acting(NamedTuple):
    """Output of the policy for the current step of every episode, without gradient."""

    log_probs: Tensor  # [batch, agents, actions], -inf where unavailable
    noise: Tensor | None = None  # [batch, agents, noise_width]
    attention: Tensor | None = None  # [batch, agents, entities]: self, other allies, enemies
    subtask: Tensor | None = None  # int64 [batch, agents]


def find_decisions(batch: Batch, valid: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Return ``Decisions.index`` and ``Decisions.available`` of a batch, within ``valid`` bool [batch, time]."""
    available = batch["avail_actions"][:, : valid.shape[1]] > 0
    episode, step, agent = torch.nonzero((available.sum(-1) > 1) & valid.unsqueeze(-1), as_tuple=True)
    return (episode, step, agent), available[episode, step, agent]


def certain_log_probs(available: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return log-probabilities [..., actions] for forced actions, and the indices of the agents with a choice.

    ``available`` is bool [..., actions]. Every available action has log-probability 0, all others -inf; the caller
    overwrites agents with a choice. Without an available action (padding), action 0 is certain.
    """
    padding = ~available.any(-1)
    available = torch.cat([available[..., :1] | padding.unsqueeze(-1), available[..., 1:]], dim=-1)
    log_probs = torch.full(available.shape, -torch.inf, device=available.device)
    log_probs[available] = 0.0
    return log_probs, torch.nonzero(available.sum(-1) > 1, as_tuple=True)
