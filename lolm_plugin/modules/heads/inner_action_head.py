"""The action head of the original ASN: a target action is how well the target fits the environment."""

import math

import torch
from torch import Tensor, nn

from lolm_plugin.modules.initialisation import linear
from lolm_plugin.observations.layout import N_BASE_ACTIONS


class InnerActionHead(nn.Module):
    """Base actions from a linear layer, target actions from the inner product <own, target> / sqrt(width)."""

    def __init__(self, width: int, gain: float) -> None:
        super().__init__()
        self.actions = linear(width, N_BASE_ACTIONS, gain)

    def forward(self, own: Tensor, targets: Tensor, tokens: Tensor) -> Tensor:
        """``own`` [..., width] and ``targets`` [..., n_targets, width] -> logits [..., 6 + n_targets].

        ``tokens`` int64 [..., n_targets] is -1 for a target that has no token; its logit is 0.
        """
        attack = (targets @ own.unsqueeze(-1)).squeeze(-1) / math.sqrt(own.shape[-1])
        return torch.cat([self.actions(own), attack.masked_fill(tokens < 0, 0.0)], dim=-1)
