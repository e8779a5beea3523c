"""The action head of UPDeT: one linear layer for the agent's own token and for its targets."""

import torch
from torch import Tensor, nn

from lolm_plugin.modules.initialisation import linear
from lolm_plugin.observations.layout import N_BASE_ACTIONS


class MeanActionHead(nn.Module):
    """The six outputs of the own token are the base actions, their mean on a target's token the target action.

    No size depends on the number of targets.
    """

    def __init__(self, width: int, gain: float) -> None:
        super().__init__()
        self.actions = linear(width, N_BASE_ACTIONS, gain)

    def forward(self, own: Tensor, targets: Tensor, tokens: Tensor) -> Tensor:
        """``own`` [..., width] and ``targets`` [..., n_targets, width] -> logits [..., 6 + n_targets].

        ``tokens`` int64 [..., n_targets] is -1 for a target that has no token; its logit is 0.
        """
        # The mean of six linear outputs is one linear output with the mean weight.
        attack = targets @ self.actions.weight.mean(0) + self.actions.bias.mean()
        return torch.cat([self.actions(own), attack.masked_fill(tokens < 0, 0.0)], dim=-1)
