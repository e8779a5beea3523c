"""Building blocks of the small networks: initial weights, attention over entity tokens, a Transformer block."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

_Module = TypeVar("_Module", bound=nn.Module)

RELU_GAIN = math.sqrt(2)  # keeps the variance through a ReLU
HEAD_GAIN = 0.01  # a near-uniform policy at the start


@dataclass(frozen=True)
class Gains:
    """Gains of linear layers: before a ReLU, without a nonlinearity, and of the action head."""

    relu: float = RELU_GAIN
    plain: float = 1.0
    head: float = HEAD_GAIN

    @classmethod
    def of(cls, entity: Mapping[str, Any]) -> Self:
        """Return the gains of the config section ``entity``: ``init_gain`` everywhere, as published; null: defaults."""
        gain = entity["init_gain"]
        return cls() if gain is None else cls(gain, gain, gain)


def linear(inputs: int, outputs: int, gain: float, bias: bool = True) -> nn.Linear:
    """Build a linear layer with orthogonal weights of this gain and zero bias."""
    return orthogonal(nn.Linear(inputs, outputs, bias=bias), gain)


def orthogonal(module: _Module, gain: float = 1.0) -> _Module:
    """Make all weight matrices of ``module`` orthogonal and its biases 0. Return ``module``."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.orthogonal_(parameter, gain)
        else:
            nn.init.zeros_(parameter)
    return module


class Attention(nn.Module):
    """Multi-head attention: softmax(QK'/sqrt(head_width)) V, with heads * head_width output numbers per token.

    With ``project``, a linear layer maps the output to ``width``.
    """

    def __init__(self, width: int, heads: int, head_width: int, gain: float, bias: bool, project: bool) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.query = linear(width, inner, gain, bias)
        self.key = linear(width, inner, gain, bias)
        self.value = linear(width, inner, gain, bias)
        self.project = linear(inner, width, gain) if project else nn.Identity()

    def forward(self, queries: Tensor, keys: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute attention from ``queries`` to ``keys``.

        Args:
            queries: tokens [..., m, width].
            keys: tokens [..., n, width], also the source of the values.
            allowed: bool [..., n], the keys that can be attended to; None: all.

        Returns:
            The attended values [..., m, out_width], and the first query's weights [..., n], averaged over heads and
            without gradient.
        """
        leading = queries.shape[:-2]
        query, key, value = (
            layer(tokens.reshape(-1, *tokens.shape[-2:])).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, tokens in ((self.query, queries), (self.key, keys), (self.value, keys))
        )
        mask = None if allowed is None else allowed.reshape(-1, 1, 1, allowed.shape[-1])
        values = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        # The kernel does not return its weights; those of one token are cheap to recompute.
        scores = query[:, :, :1].detach() @ key.detach().transpose(-1, -2) / math.sqrt(query.shape[-1])
        weights = _softmax(scores, mask).mean(1).squeeze(1)
        out = self.project(values.transpose(1, 2).flatten(2))
        return out.view(*leading, *out.shape[1:]), weights.view(*leading, weights.shape[-1])

    def attend_raw(
        self, embed: nn.Linear, queries: Tensor, keys: Tensor, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute ``forward(embed(queries), embed(keys), allowed)`` for raw tokens [..., m, raw] and [..., n, raw].

        Raw tokens are much narrower than a head. So the keys are not embedded, but the weights are multiplied first:
        (x Wq)(y Wk)' = x (Wq Wk') y' and softmax (y Wv) = (softmax y) Wv.
        """
        leading = queries.shape[:-2]
        # The 1 at the end of each token is multiplied by the biases.
        queries, keys = (
            functional.pad(tokens.reshape(-1, *tokens.shape[-2:]), (0, 1), value=1.0) for tokens in (queries, keys)
        )
        query, key, value = (
            folded(embed, layer).unflatten(0, (self.heads, -1)) for layer in (self.query, self.key, self.value)
        )  # [heads, head_width, raw + 1]
        directions = queries @ (query.transpose(1, 2) @ key).transpose(0, 1).flatten(1)  # [batch, m, heads * (raw + 1)]
        directions = directions.unflatten(-1, (self.heads, -1)) / math.sqrt(query.shape[1])
        mask = None if allowed is None else allowed.reshape(-1, 1, allowed.shape[-1])
        weights = _softmax(directions.flatten(1, 2) @ keys.transpose(1, 2), mask)  # [batch, m * heads, n]
        mixed = (weights @ keys).view(-1, self.heads, keys.shape[-1]).transpose(0, 1)
        values = (mixed @ value.transpose(1, 2)).transpose(0, 1)  # [batch * m, heads, head_width]
        out = self.project(values.reshape(*leading, queries.shape[1], self.heads * query.shape[1]))
        return out, weights[:, : self.heads].detach().mean(1).view(*leading, keys.shape[1])


def folded(first: nn.Linear, second: nn.Linear) -> Tensor:
    """Fold ``second(first(x))`` into one matrix [out, in + 1]. Its last column is the bias."""
    both = second.weight @ torch.cat([first.weight, first.bias.unsqueeze(-1)], dim=-1)
    return both if second.bias is None else both + functional.pad(second.bias.unsqueeze(-1), (first.in_features, 0))


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)


class AttentionBlock(nn.Module):
    """Transformer block of UPDeT and DT2GS: x = norm(x + attention(x)); x = norm(x + feed_forward(x)).

    It has no position embeddings, so the order of tokens has no effect.
    """

    def __init__(self, attention: Attention, width: int, ff_width: int, gains: Gains) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            linear(width, ff_width, gains.relu), nn.ReLU(), linear(ff_width, width, gains.plain)
        )
        self.feed_forward_norm = nn.LayerNorm(width)

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        allowed: Tensor | None = None,
        embed: nn.Linear | None = None,
        kept: tuple[Tensor, ...] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Transform ``queries``, which attend to ``keys``.

        Args:
            queries: tokens to transform [..., m, width].
            keys: tokens that they attend to [..., n, width].
            allowed: bool [..., n], the keys that can be attended to; None: all.
            embed: if given, queries and keys are raw tokens that this layer embeds.
            kept: index into [..., m] of the tokens that are computed after attention; None: all.

        Returns:
            The tokens [..., m, width], or [kept, width]; and the first query's attention weights [..., n].
        """
        if embed is None:
            attended, weights = self.attention(queries, keys, allowed)
        else:
            attended, weights = self.attention.attend_raw(embed, queries, keys, allowed)
        if kept is not None:
            queries, attended = queries[kept], attended[kept]
        tokens = self.attention_norm((queries if embed is None else embed(queries)) + attended)
        return self.feed_forward_norm(tokens + self.feed_forward(tokens)), weights
