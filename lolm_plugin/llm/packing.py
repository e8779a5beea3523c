"""Many rows in one sequence of tokens, the prefix that all of them continue at its front, and no token twice.

    prefix | row row row | row row | ...        rows of a group are padded to the longest of the group

Linear layers see one long sequence. Only attention has to know where a row begins, which ``packed_attention`` does;
it is registered with transformers under ``PACKED``, so that any architecture that lets its attention be chosen can run
packed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "lolm_packed"
KeysAndValues = dict[int, tuple[Tensor, Tensor]]  # layer -> [1, key heads, prefix, head width] each


@dataclass
class Packing:
    """Where the rows of one packed sequence lie.

    ``prefix`` tokens come before every row. They are the first of the sequence, or, where ``past`` has their keys and
    values, not in it at all. Then come the groups of rows, of which ``lengths`` has the tokens before padding.
    ``kept`` collects the keys and values of the prefix.
    """

    prefix: int
    lengths: Sequence[Sequence[int]]
    past: KeysAndValues | None = None
    kept: KeysAndValues | None = None
    _masks: dict[tuple, Tensor] = field(default_factory=dict)

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Rows and padded width of each group."""
        return [(len(group), max(group)) for group in self.lengths]

    @property
    def lead(self) -> int:
        """How many tokens of the sequence come before the first row."""
        return 0 if self.past is not None else self.prefix

    @cached_property
    def last(self) -> Tensor:
        """Where in the sequence the last token of each row is: int64 [rows]."""
        places, start = [], self.lead
        for group in self.lengths:
            for length in group:
                places.append(start + length - 1)
                start += max(group)
        return torch.tensor(places, dtype=torch.int64)

    def positions(self, device: torch.device) -> Tensor:
        """Where in its own prompt each token stands: int64 [1, tokens]."""
        rows = [torch.arange(self.prefix, self.prefix + width).repeat(rows) for rows, width in self.groups]
        return torch.cat([torch.arange(self.lead), *rows]).unsqueeze(0).to(device)

    def mask(self, width: int, window: int | None, repeats: int, device: torch.device) -> Tensor:
        """What each of ``width`` tokens after the prefix sees: bool [repeats * width, prefix + width]."""
        key = (width, window, repeats)
        if key not in self._masks:
            own = torch.arange(self.prefix, self.prefix + width, device=device).unsqueeze(1)
            seen = torch.arange(self.prefix + width, device=device)
            mask = (seen <= own) & (seen > own - window if window else True)
            self._masks[key] = mask.repeat(repeats, 1)
        return self._masks[key]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    packing: Packing | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of a packed sequence: query [1, heads, tokens, width], key and value [1, key heads, tokens, width].

    Without ``packing`` it is transformers' own. Returns [1, tokens, heads, width].
    """
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    lead, prefix = packing.lead, packing.prefix
    prefix_key, prefix_value = key[:, :, :lead], value[:, :, :lead]
    if packing.past is not None:
        prefix_key, prefix_value = packing.past[module.layer_idx]
    if packing.kept is not None:
        packing.kept[module.layer_idx] = (prefix_key.clone(), prefix_value.clone())
    heads, key_heads, head_width = query.shape[1], key.shape[1], query.shape[3]
    repeats = heads // key_heads
    parts = []
    if lead:
        window = sliding_window if sliding_window and sliding_window < lead else None
        mask = Packing(0, ()).mask(lead, window, 1, query.device) if window else None
        parts.append(
            scaled_dot_product_attention(
                query[:, :, :lead],
                prefix_key.repeat_interleave(repeats, 1),
                prefix_value.repeat_interleave(repeats, 1),
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
            ).transpose(1, 2)
        )
    start = lead
    for rows, width in packing.groups:
        end = start + rows * width
        own_key, own_value = (x[0, :, start:end].unflatten(1, (rows, width)).transpose(0, 1) for x in (key, value))
        # The heads that share keys are laid side by side as further queries, which is cheaper than repeating keys.
        asked = query[0, :, start:end].unflatten(1, (rows, width)).transpose(0, 1)
        asked = asked.reshape(rows, key_heads, repeats * width, head_width)
        if prefix:
            # expand, not repeat: the gradients of all rows add up in the one prefix.
            own_key = torch.cat([prefix_key.expand(rows, -1, -1, -1), own_key], dim=2)
            own_value = torch.cat([prefix_value.expand(rows, -1, -1, -1), own_value], dim=2)
        mask = packing.mask(width, sliding_window, repeats, query.device)
        seen = scaled_dot_product_attention(asked, own_key, own_value, attn_mask=mask, scale=scaling)
        seen = seen.view(rows, heads, width, head_width)
        parts.append(seen.transpose(1, 2).reshape(1, rows * width, heads, head_width))
        start = end
    return torch.cat(parts, dim=1), None


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
