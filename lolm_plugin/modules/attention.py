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
        weights = _weights(query[:, :, :1].detach(), key.detach(), mask).mean(1).squeeze(1)
        out = self.project(seen.transpose(1, 2).flatten(2))
        return out.view(*leading, *out.shape[1:]), weights.view(*leading, weights.shape[-1])

    def over_raw(
        self, embed: nn.Linear, asking: Tensor, asked: Tensor, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``forward(embed(asking), embed(asked), allowed)`` of raw tokens [..., m, raw] and [..., n, raw].

        Raw tokens are far narrower than a head, so nothing wide is made of those asked: the products of weights are
        taken first, (x Wq)(y Wk)' = x (Wq Wk') y' and softmax (y Wv) = (softmax y) Wv.
        """
        leading = asking.shape[:-2]
        asking, asked = (_with_one(tokens.reshape(-1, *tokens.shape[-2:])) for tokens in (asking, asked))
        query, key, value = (
            folded(embed, layer).unflatten(0, (self.heads, -1)) for layer in (self.query, self.key, self.value)
        )  # [heads, head_width, raw + 1]
        directions = asking @ (query.transpose(1, 2) @ key).transpose(0, 1).flatten(1)  # [rows, m, heads * (raw + 1)]
        directions = directions.unflatten(-1, (self.heads, -1)) / math.sqrt(query.shape[1])
        mask = None if allowed is None else allowed.reshape(-1, 1, allowed.shape[-1])
        weights = _softmax(directions.flatten(1, 2) @ asked.transpose(1, 2), mask)  # [rows, m * heads, n]
        mixed = (weights @ asked).view(-1, self.heads, asked.shape[-1]).transpose(0, 1)
        seen = (mixed @ value.transpose(1, 2)).transpose(0, 1)  # [rows * m, heads, head_width]
        out = self.project(seen.reshape(*leading, asking.shape[1], self.heads * query.shape[1]))
        return out, weights[:, : self.heads].detach().mean(1).view(*leading, asked.shape[1])


def folded(first: nn.Linear, second: nn.Linear) -> Tensor:
    """``second(first(x))`` as one matrix [out, in + 1], whose last column is the bias."""
    both = second.weight @ torch.cat([first.weight, first.bias.unsqueeze(-1)], dim=-1)
    return both if second.bias is None else both + functional.pad(second.bias.unsqueeze(-1), (first.in_features, 0))


def _with_one(tokens: Tensor) -> Tensor:
    """Tokens [..., width] -> [..., width + 1]: the one that a bias is multiplied by."""
    return functional.pad(tokens, (0, 1), value=1.0)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Attention weights [..., m, n] of queries [..., m, d] on keys [..., n, d]."""
    return _softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), mask)


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)
