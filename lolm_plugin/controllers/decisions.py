"""The decisions in a batch, and what a policy returns for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lolm_plugin.protocols import Batch


@dataclass(frozen=True)
class Decisions:
    """Agent-steps of a batch with at least two available actions, in a fixed order.

    Dead agents (one action) and padding (none) are not among them: their action is forced, so their log-probability
    and entropy are 0 and they have no gradient.
    """

    index: tuple[Tensor, Tensor, Tensor]  # episode, timestep, agent; each int64 [decisions]
    available: Tensor  # bool [decisions, n_actions]

    def __len__(self) -> int:
        return len(self.available)

    @property
    def group_ids(self) -> Tensor | None:
        """Return int64 [decisions]: a minibatch holds whole groups; None: every decision is a group of its own.

        The groups of a policy with memory are episodes: each step needs those before it.
        """
        return None


class Evaluation(NamedTuple):
    """Output of the current policy for some decisions, with gradient."""

    logits: Tensor  # [decisions, n_actions], unavailable actions not yet masked
    losses: Mapping[str, Tensor] = {}  # name -> [decisions], weighted: auxiliary losses
    stats: Mapping[str, Tensor] = {}  # name -> [decisions], without gradient: logged as means


class Acting(NamedTuple):
    """Output of the policy for the current step of every episode, without gradient."""

    log_probs: Tensor  # [batch, agents, actions], -inf where unavailable
    noise: Tensor | None = None  # [batch, agents, noise_width], drawn in training
    attention: Tensor | None = None  # [batch, agents, entities]: self, other allies, enemies
    subtask: Tensor | None = None  # int64 [batch, agents]


def find_decisions(batch: Batch, valid: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Find the decisions of a batch within ``valid`` bool [batch, time]: ``Decisions.index`` and ``.available``."""
    available = batch["avail_actions"][:, : valid.shape[1]] > 0
    episode, step, agent = torch.nonzero((available.sum(-1) > 1) & valid.unsqueeze(-1), as_tuple=True)
    return (episode, step, agent), available[episode, step, agent]


def certain_log_probs(available: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Compute log-probabilities [..., actions] of forced actions, and the index of the agents with a choice.

    ``available`` is bool [..., actions]. The only available action is certain; where there is none (padding),
    action 0 is.
    """
    padding = ~available.any(-1)
    available = torch.cat([available[..., :1] | padding.unsqueeze(-1), available[..., 1:]], dim=-1)
    log_probs = torch.full(available.shape, -torch.inf, device=available.device)
    log_probs[available] = 0.0
    return log_probs, torch.nonzero(available.sum(-1) > 1, as_tuple=True)
