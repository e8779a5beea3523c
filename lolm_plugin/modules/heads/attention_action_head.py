"""The attention action head (paper, section 4.4): the hidden state asks, action embeddings answer."""

import torch
from torch import Tensor, nn

from lolm_plugin.observations.layout import N_BASE_ACTIONS

ATTACK_KEYS = ("shared", "entity")


class AttentionActionHead(nn.Module):
    """Logits by dot product of a hidden state with ``n_base`` base-action embeddings and one attack embedding.

    The attack embedding is repeated once per target, so the same weights serve any number of enemies. As published
    (``shared``) every attack therefore has the same logit: the policy chooses to attack, not whom. With ``entity`` the
    key of a target is the attack embedding plus a projection of what the language model makes of the sentence about
    that target; the projection starts at zero, where both are the same policy.
    """

    def __init__(
        self, hidden_size: int, init_std: float, attack_keys: str = "shared", n_base: int = N_BASE_ACTIONS
    ) -> None:
        super().__init__()
        assert attack_keys in ATTACK_KEYS, attack_keys
        self.base = nn.Parameter(torch.randn(n_base, hidden_size) * init_std)
        self.attack = nn.Parameter(torch.randn(1, hidden_size) * init_std)
        self.target = nn.Parameter(torch.zeros(hidden_size, hidden_size)) if attack_keys == "entity" else None

    def forward(
        self, hidden: Tensor, n_targets: int, sentences: Tensor | None = None, place: Tensor | None = None
    ) -> Tensor:
        """Hidden states [rows, hidden] -> logits [rows, n_base + n_targets].

        ``place`` int64 [rows, n_targets] says which of the states ``sentences`` [sentences, hidden] is of the sentence
        about each target, -1 where there is none; ``shared`` looks at neither.
        """
        scores = hidden @ torch.cat([self.base, self.attack]).T
        # One column, copied: a product with repeated keys may round equal logits differently, depending on the number
        # of rows (measured: in 43 of 60 random heads with one row).
        attack = scores[:, -1:].expand(-1, n_targets)
        logits = torch.cat([scores[:, :-1], attack], dim=1)
        if self.target is None or sentences is None or place is None:
            return logits
        # Two large vectors meet in the projection: divided by their width, its steps are as large as an embedding's.
        projected = sentences @ self.target.T / hidden.shape[1]
        row, target = torch.nonzero(place >= 0, as_tuple=True)
        own = (hidden.index_select(0, row) * projected.index_select(0, place[row, target])).sum(-1)
        return logits.index_put((row, len(self.base) + target), own, accumulate=True)
