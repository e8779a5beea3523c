"""Many rows in one sequence of tokens, the prefix that all of them continue at its front, and no token twice.

    prefix | row row row | row row | ...        rows of a group are padded to the longest of the group

Linear layers see one long sequence. Only attention has to know where a row begins, which ``packed_attention`` does;
it is registered with transformers under ``PACKED``, so that any architecture that lets its attention be chosen can run
packed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lolm_plugin.llm import products

PACKED = "lolm_packed"
CHUNK = {"cpu": 128}  # tokens of a row that attend at once; a GPU takes all of them
KeysAndValues = dict[int, tuple[Tensor, Tensor]]  # layer -> [1, key heads, prefix, head width] each


@dataclass
class Packing:
    """Where the rows of one packed sequence lie.

    ``prefix`` tokens come before every row. They are the first of the sequence, or, where ``past`` has their keys and
    values, not in it at all. Then come the groups of rows, of which ``lengths`` has the tokens before padding.
    ``kept`` collects the keys and values of the prefix. ``places`` int64 [places] of each row in its group are the
    tokens whose final states are wanted; None: each row's last.
    """

    prefix: int
    lengths: Sequence[Sequence[int]]
    past: KeysAndValues | None = None
    kept: KeysAndValues | None = None
    places: Sequence[Sequence[Tensor]] | None = None

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Rows and padded width of each group."""
        return [(len(group), max(group)) for group in self.lengths]

    @property
    def lead(self) -> int:
        """How many tokens of the sequence come before the first row."""
        return 0 if self.past is not None else self.prefix

    @cached_property
    def wanted(self) -> Tensor:
        """Where in the sequence the tokens are whose final states are wanted, row by row: int64 [places]."""
        starts, start = [], self.lead
        for rows, width in self.groups:
            starts += range(start, start + rows * width, width)
            start += rows * width
        if self.places is None:
            lengths = [length for group in self.lengths for length in group]
            last = [start + length - 1 for start, length in zip(starts, lengths, strict=True)]
            return torch.tensor(last, dtype=torch.int64)
        places = [place for group in self.places for place in group]
        return torch.cat([start + place for start, place in zip(starts, places, strict=True)])

    def positions(self, device: torch.device) -> Tensor:
        """Where in its own prompt each token stands: int64 [1, tokens]."""
        rows = [torch.arange(self.prefix, self.prefix + width).repeat(rows) for rows, width in self.groups]
        return torch.cat([torch.arange(self.lead), *rows]).unsqueeze(0).to(device)


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
    lead = packing.lead
    prefix = packing.past[module.layer_idx] if packing.past is not None else (key[:, :, :lead], value[:, :, :lead])
    if packing.kept is not None:
        packing.kept[module.layer_idx] = (prefix[0].clone(), prefix[1].clone())
    blocks = query, key, value = [x[0].transpose(0, 1) for x in (query, key, value)]
    seen = [_attend(*(x[None, :lead] for x in blocks), None, sliding_window, scaling)] if lead else []
    start = lead
    for rows, width in packing.groups:
        end = start + rows * width
        group = (x[start:end].unflatten(0, (rows, width)) for x in blocks)
        seen.append(_attend(*group, prefix, sliding_window, scaling))
        start = end
    return torch.cat(seen).unsqueeze(0), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: tuple[Tensor, Tensor] | None,
    window: int | None,
    scaling: float | None,
) -> Tensor:
    """Rows of equal width: query [rows, tokens, heads, width], key and value [rows, tokens, key heads, width].

    They continue ``prefix``, keys and values [1, key heads, prefix, width]. Returns [rows * tokens, heads, width].
    """
    rows, tokens, heads, width = query.shape
    key, value = key.transpose(1, 2), value.transpose(1, 2)
    before = 0
    if prefix is not None and prefix[0].shape[2]:
        before = prefix[0].shape[2]
        # expand, not repeat: the gradients of all rows add up in the one prefix.
        key, value = (
            torch.cat([p.expand(rows, -1, -1, -1), own], 2) for p, own in zip(prefix, (key, value), strict=True)
        )
    # The heads that share keys are laid side by side as further queries, which is cheaper than repeating the keys.
    query = query.transpose(1, 2).unflatten(1, (key.shape[1], -1))
    repeats, chunk = query.shape[2], CHUNK.get(query.device.type, tokens)
    seen = []
    for first in range(0, tokens, chunk):
        # Nobody sees what comes later, so that early tokens need not be compared with late ones.
        count = min(chunk, tokens - first)
        start, end = _span(before + first, count, window)
        asked = query[..., first : first + count, :].reshape(rows, key.shape[1], -1, width)
        asking = (asked, key[:, :, start:end], value[:, :, start:end])
        if window is None and not torch.is_grad_enabled() and products.prefers_onednn(query):
            found = products.causal_attention(*asking, count, scaling or width**-0.5)
        else:
            mask = _mask(before + first - start, count, window, repeats, query.device)
            found = scaled_dot_product_attention(*asking, attn_mask=mask, scale=scaling)
        seen.append(found.unflatten(2, (repeats, -1)))
    return torch.cat(seen, dim=3).permute(0, 3, 1, 2, 4).reshape(rows * tokens, heads, width)


def _span(first: int, tokens: int, window: int | None) -> tuple[int, int]:
    """Which positions ``tokens`` tokens from position ``first`` on see between them."""
    return max(0, first - window + 1) if window else 0, first + tokens


@lru_cache(maxsize=64)
def _mask(before: int, tokens: int, window: int | None, repeats: int, device: torch.device) -> Tensor:
    """What ``tokens`` tokens after ``before`` others see: bool [repeats * tokens, before + tokens]."""
    own = torch.arange(before, before + tokens, device=device).unsqueeze(1)
    seen = torch.arange(before + tokens, device=device)
    mask = (seen <= own) & (seen > own - window) if window else seen <= own
    return mask.repeat(repeats, 1)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
