"""The attention action head (paper, section 4.4): the hidden state asks, action embeddings answer."""

import torch
from torch import Tensor, nn

from lolm_plugin.observations.layout import N_BASE_ACTIONS


class AttentionActionHead(nn.Module):
    """Logits by dot product of a hidden state with 6 base-action embeddings and one attack embedding.

    The attack embedding is repeated once per target, so the same weights serve any number of enemies and,
    as published, every attack has the same logit: the policy chooses to attack, not whom.
    """

    def __init__(self, hidden_size: int, init_std: float) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.randn(N_BASE_ACTIONS, hidden_size) * init_std)
        self.attack = nn.Parameter(torch.randn(1, hidden_size) * init_std)

    def forward(self, hidden: Tensor, n_targets: int) -> Tensor:
        """Hidden states [rows, hidden] -> logits [rows, 6 + n_targets]."""
        keys = torch.cat([self.base, self.attack.expand(n_targets, -1)])
        return hidden @ keys.T
