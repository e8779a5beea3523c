"""Many rows in one sequence of tokens, the prefix that all of them continue at its front, and no token twice.

    prefix | row row row | row row | ...        rows of a group are padded to the longest of the group

Linear layers see one long sequence. Only attention has to know where a row begins, which ``packed_attention`` does;
it is registered with transformers under ``PACKED``, so that any architecture that lets its attention be chosen can run
packed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lolm_plugin.llm import products
from lolm_plugin.llm.distinct_tokens import DistinctTokens

PACKED = "lolm_packed"
CHUNK = {"cpu": 128}  # tokens of a row that attend at once; a GPU takes all of them
# Arguments of attention that change nothing in a packed sequence: whose mask is the packing's, whose positions are
# known to the rotary embedding alone, and what transformers hands on from its own forward.
WITHOUT_EFFECT = frozenset({"position_ids", "cache_position", "use_cache", "is_causal", "output_attentions"})
KeysAndValues = dict[int, tuple[Tensor, Tensor]]  # layer -> [1, key heads, prefix, head width] each


class UnsupportedAttentionError(NotImplementedError):
    """An architecture asks attention for something that ``packed_attention`` does not compute."""


class Attends(Protocol):
    """A packing, or a part of one, that knows which tokens its queries see."""

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        window: int | None,
        scaling: float | None,
    ) -> Tensor:
        """Attention in the shapes of ``packed_attention``."""
        ...


@dataclass
class Packing:
    """Where the rows of one packed sequence lie.

    ``prefix`` tokens come before every row. They are the first of the sequence, or, where ``past`` has their keys and
    values, not in it at all. Then come the groups of rows, of which ``lengths`` has the tokens before padding.
    ``kept`` collects the keys and values of the prefix. ``places`` int64 [places] of each row in its group are the
    tokens whose final states are wanted; None: each row's last. With ``distinct``, which the frozen layers use, the
    sequence has each distinct token of the rows once and no padding; a prefix then has to be in ``past``.
    """

    prefix: int
    lengths: Sequence[Sequence[int]]
    past: KeysAndValues | None = None
    kept: KeysAndValues | None = None
    places: Sequence[Sequence[Tensor]] | None = None
    distinct: DistinctTokens | None = None

    def __post_init__(self) -> None:
        assert self.distinct is None or not self.lead, "distinct tokens are those of the rows alone"

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Rows and padded width of each group."""
        return [(len(group), max(group)) for group in self.lengths]

    @property
    def lead(self) -> int:
        """How many tokens of the sequence come before the first row."""
        return 0 if self.past is not None else self.prefix

    @cached_property
    def positions_read(self) -> Sequence[Sequence[Tensor]]:
        """Of each row in its group the positions in the row whose final states are read: int64 [positions]."""
        if self.places is not None:
            return self.places
        return [torch.tensor(group, dtype=torch.int64).sub(1).split(1) for group in self.lengths]

    @cached_property
    def wanted(self) -> Tensor:
        """Where in the sequence the tokens are whose final states are wanted, row by row: int64 [places]."""
        found, start = [torch.zeros(0, dtype=torch.int64)], self.lead
        for (rows, width), group in zip(self.groups, self.positions_read, strict=True):
            found += [
                first + positions
                for first, positions in zip(range(start, start + rows * width, width), group, strict=True)
            ]
            start += rows * width
        return torch.cat(found)

    def positions(self, device: torch.device) -> Tensor:
        """Where in its own prompt each token stands: int64 [1, tokens]."""
        rows = [torch.arange(self.prefix, self.prefix + width).repeat(rows) for rows, width in self.groups]
        positions = torch.cat([torch.arange(self.lead), *rows]).to(device)
        return (positions[self.distinct.first] if self.distinct else positions).unsqueeze(0)

    def pad_rows(self, tokens: Tensor) -> Tensor:
        """Copy distinct tokens to all of their positions in the padded rows.

        [..., tokens of the sequence, width] -> [..., padded positions, width].
        """
        return tokens.index_select(-2, self.distinct.inverse) if self.distinct else tokens

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        window: int | None,
        scaling: float | None,
    ) -> Tensor:
        """Attention of every token: the shapes of ``packed_attention`` in, [1, tokens, heads, width] out."""
        lead = self.lead
        query, key, value = map(self.pad_rows, (query, key, value))
        prefix = self.past[module.layer_idx] if self.past is not None else (key[:, :, :lead], value[:, :, :lead])
        if self.kept is not None:
            self.kept[module.layer_idx] = (prefix[0].clone(), prefix[1].clone())
        blocks = [x[0].transpose(0, 1) for x in (query, key, value)]
        seen = [_attend(*(x[None, :lead] for x in blocks), None, window, scaling)] if lead else []
        start = lead
        for rows, width in self.groups:
            end = start + rows * width
            group = (x[start:end].unflatten(0, (rows, width)) for x in blocks)
            seen.append(_attend(*group, prefix, window, scaling))
            start = end
        attended = torch.cat(seen)
        return (attended.index_select(0, self.distinct.first) if self.distinct else attended).unsqueeze(0)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    packing: Attends | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of a packed sequence: query [1, heads, tokens, width], key and value [1, key heads, tokens, width].

    Without ``packing`` it is transformers' own. Returns [1, tokens, heads, width].

    Raises:
        UnsupportedAttentionError: an argument that would change the result, such as Gemma 2's ``softcap``, gpt-oss's
            ``s_aux`` (attention sinks), a ``position_bias`` or dropout.
    """
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    for name, asked in others.items():
        # None, False and 0.0 (dropout outside training) are how architectures ask for nothing.
        if name not in WITHOUT_EFFECT and asked is not None and (isinstance(asked, Tensor) or asked):
            shown = "a tensor" if isinstance(asked, Tensor) else asked
            raise UnsupportedAttentionError(f"its attention takes {name}={shown}, which packed attention does not know")
    if others.get("is_causal") is False:
        raise UnsupportedAttentionError("its attention takes is_causal=False, which packed attention does not know")
    return packing.attend(module, query, key, value, sliding_window, scaling), None


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
