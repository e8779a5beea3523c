"""Variable-length flash attention of a GPU: one call for all prompts of a packed sequence, without padding or masks.

The kernel takes segments of queries and of keys. Each prompt is one segment: its queries are its own tokens, its keys
are the prefix and its own tokens. These are the segments of the sequence that ``packing.py`` draws:

    queries  P P | a a a     | b b .     | c c
    keys     P P | P P a a a | P P b b . | P P c c

The last query of a segment is aligned with its last key, so causal attention is what the mask there shows. The prefix
is repeated by one indexing operation for keys and one for values.

Only ``kernel_check.py`` decides whether a model uses the kernel. ``packing.py`` has the masked attention, for the CPU,
for float32 and for GPUs without the kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DTYPES = {torch.bfloat16, torch.float16}
WIDEST, MULTIPLE = 256, 8  # head widths of the kernel


@dataclass(frozen=True)
class Segments:
    """Segments of one packed sequence, on its device.

    Attributes:
        query_bounds: int32 [segments + 1], first query of each segment and the number of queries.
        key_bounds: int32 [segments + 1], likewise for keys.
        longest: most queries and most keys of a segment.
        prefix: number of tokens of the prefix.
        alone: True if the prefix is also a separate segment, the first.
        groups: number of prompts and padded width of each group.
        order: int64 [keys], index of each key in a tensor of the prefix and all prompts; None: they are in this order.
    """

    query_bounds: Tensor
    key_bounds: Tensor
    longest: tuple[int, int]
    prefix: int
    alone: bool
    groups: Sequence[tuple[int, int]]
    order: Tensor | None


def segments(
    prefix: int, alone: bool, groups: Sequence[tuple[int, int]], inverse: Tensor | None, device: torch.device
) -> Segments:
    """Build the segments of a packed sequence.

    Args:
        prefix: number of tokens of the prefix.
        alone: True if the sequence contains the prefix, so that its tokens have queries too.
        groups: number of prompts and padded width of each group.
        inverse: int64 [padded tokens], if the sequence contains each distinct token of the prompts once.
        device: device of the sequence.
    """
    queries = [prefix] * alone + [width for count, width in groups for _ in range(count)]
    keys = [prefix] * alone + [prefix + width for count, width in groups for _ in range(count)]
    first, start, order = torch.arange(prefix), prefix, [torch.arange(prefix if alone else 0)]
    for count, width in groups:
        own = torch.arange(start, start + count * width).view(count, width)
        order.append(torch.cat([first.expand(count, -1), own], dim=1).flatten())
        start += count * width
    index = torch.cat(order).to(device) if (prefix and groups) or inverse is not None else None
    if index is not None and inverse is not None:
        index = torch.cat([first.to(device), prefix + inverse])[index]
    return Segments(
        _bounds(queries, device), _bounds(keys, device), (max(queries), max(keys)), prefix, alone, groups, index
    )


def kernel_dtype(query: Tensor) -> torch.dtype | None:
    """Return the dtype in which the kernel computes attention of this query; None: it cannot."""
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    width = query.shape[-1]
    return dtype if dtype in DTYPES and width <= WIDEST and width % MULTIPLE == 0 else None


def attend(
    query: Tensor, key: Tensor, value: Tensor, layout: Segments, window: int | None, scale: float | None
) -> Tensor:
    """Compute causal attention of each segment.

    Args:
        query: [queries, heads, width], all of one dtype that the kernel takes.
        key: [prefix and tokens of the prompts, key heads, width]; ``value`` likewise.
        layout: the segments.
        window: number of tokens that a query sees, itself and those just before it; None: all.
        scale: factor on the scores; None: 1 / sqrt(width).

    Returns:
        [queries, heads, width].
    """
    from torch.nn.attention import varlen  # PyTorch before 2.10 has none

    if layout.order is not None:
        key, value = _Repeated.apply(key, layout), _Repeated.apply(value, layout)
    return varlen.varlen_attn(  # type: ignore[return-value]
        query,
        key,
        value,
        layout.query_bounds,
        layout.key_bounds,
        *layout.longest,
        scale=scale,
        window_size=(window - 1 if window else -1, 0),  # tokens before the query, tokens after it
        enable_gqa=query.shape[1] != key.shape[1],
        num_splits=1,  # otherwise the sums of a prompt would depend on the longest prompt of its pack
    )


class _Repeated(torch.autograd.Function):
    """Keys or values in the order of the kernel: [prefix and prompts, heads, width] -> [keys, heads, width].

    The gradient of the prefix is the sum over all prompts, in float32. The backward pass of ``index_select`` would add
    them up in the dtype of the keys, in an order that changes from run to run.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, layout: Segments) -> Tensor:
        assert layout.order is not None
        ctx.layout, ctx.tokens = layout, len(tokens)
        return tokens.index_select(0, layout.order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        layout: Segments = ctx.layout
        prefix = layout.prefix
        assert ctx.tokens == prefix + sum(count * width for count, width in layout.groups), "distinct tokens: no grad"
        exact = torch.promote_types(grad.dtype, torch.float32)
        first = prefix if layout.alone else 0
        of_prefix, parts = [grad[:first].unsqueeze(0)] if layout.alone else [], []
        for count, width in layout.groups:
            block = grad[first : first + count * (prefix + width)].unflatten(0, (count, prefix + width))
            of_prefix.append(block[:, :prefix])
            parts.append(block[:, prefix:].flatten(0, 1))
            first += count * (prefix + width)
        total = sum(part.sum(0, dtype=exact) for part in of_prefix)
        return torch.cat([total.to(grad.dtype), *parts]), None  # type: ignore[union-attr]


def _bounds(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32).to(device)
