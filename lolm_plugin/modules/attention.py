"""Multi-head attention over entity tokens, and where the first of them looks."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lolm_plugin.modules.initialisation import linear


class Attention(nn.Module):
    """softmax(QK'/sqrt(head_width)) V in ``heads`` heads of ``head_width``, concatenated to ``out_width`` numbers.

    ``project``: a linear layer brings them back to ``width``.
    """

    def __init__(self, width: int, heads: int, head_width: int, gain: float, bias: bool, project: bool) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.query = linear(width, inner, gain, bias)
        self.key = linear(width, inner, gain, bias)
        self.value = linear(width, inner, gain, bias)
        self.project = linear(inner, width, gain) if project else nn.Identity()
        self.out_width = width if project else inner

    def forward(self, asking: Tensor, asked: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens [..., m, width] look at tokens [..., n, width], those ``allowed`` bool [..., n]; None: all.

        Returns what they see [..., m, out_width] and, without gradient, the weights of the first of them
        [..., n], the mean over heads.
        """
        leading = asking.shape[:-2]
        query, key, value = (
            layer(tokens.reshape(-1, *tokens.shape[-2:])).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, tokens in ((self.query, asking), (self.key, asked), (self.value, asked))
        )
        mask = None if allowed is None else allowed.reshape(-1, 1, 1, allowed.shape[-1])
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        # The kernel keeps its weights to itself; those of one token are cheap to compute again.
        weights = _weights(query[:, :, :1].detach(), key.detach(), mask)
        out = self.project(seen.transpose(1, 2).flatten(2))
        return out.view(*leading, *out.shape[1:]), weights.view(*leading, weights.shape[-1])


def _weights(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Attention weights of one token: query [rows, heads, 1, d], key [rows, heads, n, d] -> [rows, n]."""
    scores = (query @ key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).mean(1).squeeze(1)
