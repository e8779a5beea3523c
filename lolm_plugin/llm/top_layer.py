"""The top layer at the token positions that are read: keys and values of all tokens, everything else of these alone.

Of a prompt of 100 tokens one state is read, so queries, attention output and MLP, 15/16 of a layer's products for
SmolLM2, are wasted on the other 99. The layer's own forward runs on the positions that are read, so its order of
norms and residuals stays the model's; only the path to keys and values is repeated here.
"""

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lolm_plugin.llm.packing import Packing


class TopLayer(nn.Module):
    """The last layer of a model, computed only where its states are read (``Packing.wanted``).

    Raises AttributeError for an architecture without ``input_layernorm``, ``k_proj``, ``v_proj`` or a rotary embedding
    in the usual places. Whether the result is right is tried at the start (``backbone.py``).
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        attention = layer.self_attn
        self._rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
        for name in ("q_proj", "k_proj", "v_proj", "head_dim", "layer_idx"):
            getattr(attention, name)
        layer.input_layernorm  # noqa: B018  raises where there is none

    def forward(
        self, hidden_states: Tensor, packing: Packing, position_embeddings: tuple[Tensor, Tensor], **context: Any
    ) -> Tensor:
        """States [1, tokens, hidden] -> states at the positions that are read [1, positions, hidden]."""
        keys, values = self._keys_and_values(hidden_states, position_embeddings)
        if packing.kept is not None:
            lead = packing.lead
            packing.kept[self.layer.self_attn.layer_idx] = (keys[:, :, :lead].clone(), values[:, :, :lead].clone())
        read = packing.wanted.to(hidden_states.device)
        if not len(read):
            return hidden_states[:, :0]
        cos, sin = position_embeddings
        return self.layer(
            hidden_states.index_select(1, read),
            position_embeddings=(cos.index_select(1, read), sin.index_select(1, read)),
            packing=ReadPositions(packing, keys, values),
            **context,
        )

    def _keys_and_values(self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Keys and values of all tokens: [1, key heads, tokens, width] each."""
        attention = self.layer.self_attn
        states = self.layer.input_layernorm(hidden_states)
        keys = attention.k_proj(states).unflatten(-1, (-1, attention.head_dim))
        if getattr(attention, "k_norm", None) is not None:  # Qwen3, Gemma 3
            keys = attention.k_norm(keys)
        keys = keys.transpose(1, 2)
        no_heads = keys[:, :0]  # the function rotates queries and keys together
        keys = self._rotate(no_heads, keys, *position_embeddings)[1]
        return keys, attention.v_proj(states).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)


@dataclass(frozen=True)
class ReadPositions:
    """A packing whose queries are those of ``packing.wanted`` alone.

    ``keys`` and ``values`` [1, key heads, tokens, width] are of all tokens of the sequence.
    """

    packing: Packing
    keys: Tensor
    values: Tensor

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        window: int | None,
        scaling: float | None,
    ) -> Tensor:
        """Query [1, heads, positions, width] -> [1, positions, heads, width].

        ``key`` and ``value``, of the queries' own tokens, are among ``self.keys`` already.
        """
        packing, lead = self.packing, self.packing.lead
        keys, values = self.keys[0], self.values[0]
        if packing.past is not None:
            prefix_keys, prefix_values = (of_prefix[0] for of_prefix in packing.past[module.layer_idx])
        else:
            prefix_keys, prefix_values = keys[:, :lead], values[:, :lead]
        query = query[0].transpose(0, 1) * (scaling or query.shape[-1] ** -0.5)
        attended, first_query, start = [], 0, lead
        for (rows, width), token_positions in zip(packing.groups, packing.positions_read, strict=True):
            counts = [len(of_row) for of_row in token_positions]
            group = query[first_query : first_query + sum(counts)]
            span = slice(start, start + rows * width)
            own_keys, own_values = (x[:, span].unflatten(1, (rows, width)) for x in (keys, values))
            at = pad_sequence(list(token_positions), batch_first=True, padding_value=-1).to(query.device)
            attended.append(_attend(group, at, prefix_keys, prefix_values, own_keys, own_values, window))
            first_query += sum(counts)
            start += rows * width
        return torch.cat(attended).unsqueeze(0)


def _attend(
    query: Tensor,
    at: Tensor,
    prefix_keys: Tensor,
    prefix_values: Tensor,
    own_keys: Tensor,
    own_values: Tensor,
    window: int | None,
) -> Tensor:
    """Attention of a few queries a row to the prefix and to their own row: [queries, heads, width].

    Args:
        query: [queries, heads, width], scaled, row by row.
        at: int64 [rows, most queries of a row], each query's position in its row; -1 is padding.
        prefix_keys, prefix_values: [key heads, prefix, width], the same for all rows, so they are not copied.
        own_keys, own_values: [key heads, rows, tokens, width].
        window: how many tokens back a query sees, itself included; None: all.
    """
    key_heads, rows, tokens, width = own_keys.shape
    prefix, most = prefix_keys.shape[1], at.shape[1]
    real = at >= 0
    padded = not bool(real.all())
    if padded:
        query = query.new_zeros(rows, most, *query.shape[1:]).index_put((real,), query)
    # Heads that share keys lie side by side as further queries: [key heads, rows, repeats * most, width].
    asked = query.view(rows, most, key_heads, -1, width).permute(2, 0, 3, 1, 4)
    repeats = asked.shape[2]
    asked = asked.reshape(key_heads, rows, repeats * most, width)
    to_prefix = asked.flatten(1, 2) @ prefix_keys.transpose(1, 2)
    to_own = asked @ own_keys.transpose(2, 3)
    scores = torch.cat([to_prefix.unflatten(1, (rows, -1)), to_own], dim=-1).unflatten(2, (repeats, most))
    position = torch.arange(-prefix, tokens, device=at.device)
    own = at.clamp(min=0).unsqueeze(-1)
    seen = position <= own
    if window:
        seen &= position > own - window
    # float32, for a bfloat16 softmax over many tokens would lose digits.
    scores = scores.float().masked_fill(~seen[:, None], -torch.inf)
    weights = scores.softmax(-1).to(own_values.dtype).flatten(2, 3)
    of_prefix = weights[..., :prefix].flatten(1, 2) @ prefix_values
    out = of_prefix.unflatten(1, (rows, -1)) + weights[..., prefix:] @ own_values
    out = out.unflatten(2, (repeats, most)).permute(1, 3, 0, 2, 4).reshape(rows, most, -1, width)
    return out[real] if padded else out.flatten(0, 1)
