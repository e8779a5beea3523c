"""Attention over many prompts in one sequence that starts with their shared prefix.

Linear layers, norms and activations see one long sequence without a batch dimension. Only attention has to know where a
prompt begins. This is the mask of a prefix P, a group of two prompts a and b that are padded to the longer one, and a
group of one prompt c:

              key  P P  a a a  b b .  c c
    query  P       x
           P       x x
           a       x x  x
           a       x x  x x
           a       x x  x x x
           b       x x         x
           b       x x         x x
           .       x x         x x x          padding is computed, but never read
           c       x x                x
           c       x x                x x

The full mask is never built: each prompt attends to the prefix and to itself, group by group, or on a GPU in one call
of a kernel that needs no mask (``attention.py``). Without gradient the prefix is not in the sequence (no P rows),
because its keys and values are cached. A sliding window hides keys that are too far back. In the last layer only the
tokens that are read have queries (``ReadPositions``).

``packed_attention`` is registered with transformers under the name ``PACKED``. Any architecture that supports a
registered attention can run packed.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lolm_plugin.llm.attention import Segments, kernel_dtype, segments
from lolm_plugin.llm.attention import attend as varlen_attend
from lolm_plugin.llm.prompt_batch import DistinctTokens

PACKED = "lolm_packed"
# Query tokens of a prompt per attention call; a GPU takes all at once. Larger: more masked scores are computed.
# Smaller: more calls.
CHUNK = {"cpu": 128}
MASKED_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
# Attention arguments without effect on a packed sequence: the packing makes the mask, only the rotary embedding uses
# positions, and transformers passes the others down from its own forward.
WITHOUT_EFFECT = frozenset({"position_ids", "cache_position", "use_cache", "is_causal", "output_attentions"})
Masks = dict[tuple[int, int, int | None, int], Tensor]  # arguments of ``_mask`` -> mask
KeysAndValues = dict[int, tuple[Tensor, Tensor]]  # layer -> [1, key heads, tokens, head width] each


class UnsupportedAttentionError(NotImplementedError):
    """Error for an architecture whose attention ``packed_attention`` cannot compute."""


@dataclass
class Packing:
    """Positions of the prompts in one packed sequence.

    Attributes:
        prefix: number of tokens before every prompt. The sequence starts with them, unless ``past`` is given.
        lengths: number of tokens of each prompt of each group, without padding. Empty: the sequence is only the prefix.
        read_positions: int64 [reads] for each prompt of each group: the positions in the prompt whose states are read.
        past: cached keys and values of the prefix, which is then not in the sequence.
        distinct: if given, the sequence contains each distinct token of the prompts once, and no padding. A prefix then
            needs ``past``.
        varlen: attend with the variable-length kernel of a GPU, in layers whose dtype it takes.
        prefix_keys_values: receives the keys and values of each layer if the sequence is only the prefix.
    """

    prefix: int
    lengths: Sequence[Sequence[int]]
    read_positions: Sequence[Sequence[Tensor]] = ()
    past: KeysAndValues | None = None
    distinct: DistinctTokens | None = None
    varlen: bool = False
    prefix_keys_values: KeysAndValues = field(default_factory=dict)
    # Masks live as long as the packing: its layers share them. On a GPU those of many packings would take gigabytes.
    _masks: Masks = field(default_factory=dict)
    _segments: Segments | None = None

    def __post_init__(self) -> None:
        assert self.distinct is None or not self.lead, "with distinct tokens the prefix must be in past"

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Number of prompts and padded width of each group."""
        return [(len(group), max(group)) for group in self.lengths]

    @property
    def lead(self) -> int:
        """Number of tokens of the sequence before the first prompt."""
        return 0 if self.past is not None else self.prefix

    @cached_property
    def read_index(self) -> Tensor:
        """Positions in the sequence of the tokens that are read, prompt by prompt: int64 [reads]."""
        index, start = [torch.zeros(0, dtype=torch.int64)], self.lead
        for (_, width), group in zip(self.groups, self.read_positions, strict=True):
            for positions in group:
                index.append(start + positions)
                start += width
        return torch.cat(index)

    def position_ids(self, device: torch.device) -> Tensor:
        """Return the position of each token in its own prompt: int64 [1, tokens]."""
        prompts = [torch.arange(self.prefix, self.prefix + width).repeat(count) for count, width in self.groups]
        positions = torch.cat([torch.arange(self.lead), *prompts]).to(device)
        return (positions[self.distinct.first] if self.distinct else positions).unsqueeze(0)

    def pad(self, tokens: Tensor) -> Tensor:
        """Copy distinct tokens to all their positions: [..., sequence, width] -> [..., padded positions, width]."""
        return tokens.index_select(-2, self.distinct.inverse) if self.distinct else tokens

    def collect(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Store the keys and values of the prefix if it is the whole sequence."""
        if not self.lengths:
            self.prefix_keys_values[layer] = (keys[:, :, : self.lead].clone(), values[:, :, : self.lead].clone())

    def prefix_of(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of the prefix: cached, or those at the start of the sequence."""
        return self.past[layer] if self.past is not None else (keys[:, :, : self.lead], values[:, :, : self.lead])

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None
    ) -> Tensor:
        """Compute the attention of every token: shapes of ``packed_attention`` -> [1, tokens, heads, width]."""
        dtype = kernel_dtype(query) if self.varlen else None
        if dtype is not None:
            tokens = self._attend_varlen(layer, query.to(dtype), key.to(dtype), value.to(dtype), window, scale)
        else:
            tokens = self._attend_masked(layer, query, key, value, window, scale)
        return (tokens.index_select(0, self.distinct.first) if self.distinct else tokens).unsqueeze(0)

    def _attend_varlen(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None
    ) -> Tensor:
        """Compute the attention of every padded token in one call: [tokens, heads, width]."""
        self.collect(layer, key, value)
        if self.past is not None:
            past_keys, past_values = self.past[layer]
            key, value = torch.cat([past_keys.to(key), key], 2), torch.cat([past_values.to(value), value], 2)
        if self._segments is None:
            inverse = self.distinct.inverse if self.distinct else None
            self._segments = segments(self.prefix, self.lead > 0, self.groups, inverse, query.device)
        q, k, v = (x[0].transpose(0, 1) for x in (self.pad(query), key, value))
        return varlen_attend(q, k, v, self._segments, window, scale)

    def _attend_masked(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None
    ) -> Tensor:
        """Compute the attention of every padded token, group by group: [tokens, heads, width]."""
        query, key, value = self.pad(query), self.pad(key), self.pad(value)
        self.collect(layer, key, value)
        prefix_keys, prefix_values = self.prefix_of(layer, key, value)
        attended, start = [], self.lead
        if start:
            q, k, v = (x[:, :, :start] for x in (query, key, value))
            attended.append(_attend(q, k, v, window, scale, self._masks))
        for count, width in self.groups:
            end = start + count * width
            q, k, v = (_split_prompts(x, start, end, count) for x in (query, key, value))
            k, v = _continue(prefix_keys, k), _continue(prefix_values, v)
            attended.append(_attend(q, k, v, window, scale, self._masks))
            start = end
        return torch.cat(attended)


@dataclass(frozen=True)
class ReadPositions:
    """Packing in which only the tokens of ``packing.read_index`` have queries.

    ``keys`` and ``values`` [1, key heads, tokens, width] are those of all tokens of the sequence.
    """

    packing: Packing
    keys: Tensor
    values: Tensor

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None
    ) -> Tensor:
        """Compute the attention of the query [1, heads, reads, width]: [1, reads, heads, width].

        ``key`` and ``value`` of these tokens are not used: ``self.keys`` and ``self.values`` contain them.
        """
        packing = self.packing
        prefix_keys, prefix_values = (x[0] for x in packing.prefix_of(layer, self.keys, self.values))
        query = query[0].transpose(0, 1) * (scale or query.shape[-1] ** -0.5)
        attended, first_query, start = [], 0, packing.lead
        for (count, width), read_positions in zip(packing.groups, packing.read_positions, strict=True):
            queries, end = sum(map(len, read_positions)), start + count * width
            group = query[first_query : first_query + queries]
            keys, values = (x[0, :, start:end].unflatten(1, (count, width)) for x in (self.keys, self.values))
            position = pad_sequence(list(read_positions), batch_first=True, padding_value=-1).to(query.device)
            attended.append(_attend_from(group, position, prefix_keys, prefix_values, keys, values, window))
            first_query += queries
            start = end
        return torch.cat(attended).unsqueeze(0)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    packing: Packing | ReadPositions | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Compute attention of a packed sequence, with the arguments that transformers passes.

    Args:
        module: the attention layer.
        query: [1, heads, tokens, width].
        key: [1, key heads, tokens, width]; ``value`` likewise.
        packing: passed to the model's forward; None: use transformers' own attention.

    Returns:
        [1, tokens, heads, width].

    Raises:
        UnsupportedAttentionError: an argument that would change the result, such as Gemma 2's ``softcap``, gpt-oss's
            ``s_aux`` (attention sinks), a ``position_bias`` or dropout.
    """
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    for name, asked in others.items():
        # Architectures pass None, False or 0.0 (dropout outside training) for an unused feature.
        if name not in WITHOUT_EFFECT and asked is not None and (isinstance(asked, Tensor) or asked):
            shown = "a tensor" if isinstance(asked, Tensor) else asked
            raise UnsupportedAttentionError(f"its attention takes {name}={shown}, which cannot be packed")
    if others.get("is_causal") is False:
        raise UnsupportedAttentionError("its attention takes is_causal=False, which cannot be packed")
    return packing.attend(cast(int, module.layer_idx), query, key, value, sliding_window, scaling), None


def _split_prompts(x: Tensor, start: int, end: int, prompts: int) -> Tensor:
    """Cut prompts of equal width out of a sequence: [1, heads, tokens, width] -> [prompts, heads, tokens, width]."""
    return x[0, :, start:end].unflatten(1, (prompts, -1)).transpose(0, 1)


def _continue(prefix: Tensor, prompts: Tensor) -> Tensor:
    """Put a prefix [1, heads, prefix, width] before each of the prompts [prompts, heads, tokens, width]."""
    if not prefix.shape[2]:
        return prompts
    # expand, not repeat: the gradients of all prompts add up in the one prefix.
    return torch.cat([prefix.expand(len(prompts), -1, -1, -1), prompts], 2)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    scale: float | None,
    masks: Masks,
) -> Tensor:
    """Compute causal attention of prompts of equal width.

    Args:
        query: [prompts, heads, tokens, width], of the last ``tokens`` tokens.
        key: [prompts, key heads, all tokens, width]; ``value`` likewise.
        window: number of tokens that a query sees, itself and those just before it; None: all.
        scale: factor on the scores; None: 1 / sqrt(width).
        masks: masks made so far, of tokens on this device.

    Returns:
        [prompts * tokens, heads, width].
    """
    prompts, heads, tokens, width = query.shape
    key_heads, before = key.shape[1], key.shape[2] - tokens
    # Heads that share keys become additional queries, which is cheaper than repeating the keys.
    query = query.unflatten(1, (key_heads, -1))
    repeats, chunk = query.shape[2], CHUNK.get(query.device.type, tokens)
    attended = []
    for first in range(0, tokens, chunk):
        # No token sees a later one, so a chunk needs no keys after its own end.
        count = min(chunk, tokens - first)
        start, end = max(0, before + first - window + 1) if window else 0, before + first + count
        q = query[..., first : first + count, :].reshape(prompts, key_heads, -1, width)
        k, v = key[:, :, start:end], value[:, :, start:end]
        shape = before + first - start, count, window, repeats
        if shape not in masks:
            masks[shape] = _mask(*shape, query.device)
        with _without_cudnn(query.device):
            out = scaled_dot_product_attention(q, k, v, attn_mask=masks[shape], scale=scale)
        attended.append(out.unflatten(2, (repeats, -1)))
    return torch.cat(attended, dim=3).permute(0, 3, 1, 2, 4).reshape(prompts * tokens, heads, width)


def _without_cudnn(device: torch.device) -> AbstractContextManager:
    """Suppress cuDNN's attention, which prepares a plan for each new shape: almost every pack has one."""
    return sdpa_kernel(MASKED_BACKENDS) if device.type == "cuda" else nullcontext()


def _mask(before: int, tokens: int, window: int | None, repeats: int, device: torch.device) -> Tensor:
    """Build the mask of ``tokens`` tokens after ``before`` earlier ones: bool [repeats * tokens, before + tokens]."""
    query = torch.arange(before, before + tokens, device=device).unsqueeze(1)
    key = torch.arange(before + tokens, device=device)
    mask = (key <= query) & (key > query - window) if window else key <= query
    return mask.repeat(repeats, 1)


def _attend_from(
    query: Tensor,
    position: Tensor,
    prefix_keys: Tensor,
    prefix_values: Tensor,
    keys: Tensor,
    values: Tensor,
    window: int | None,
) -> Tensor:
    """Compute attention from a few tokens of each prompt to the prefix and to the prompt: [queries, heads, width].

    Args:
        query: [queries, heads, width], already scaled, prompt by prompt.
        position: int64 [prompts, most queries of a prompt], each query's position in its prompt; -1 is padding.
        prefix_keys: [key heads, prefix, width], the same for all prompts, so not copied; ``prefix_values`` likewise.
        keys: [key heads, prompts, tokens, width]; ``values`` likewise.
        window: number of tokens that a query sees, itself and those just before it; None: all.
    """
    key_heads, prompts, tokens, width = keys.shape
    prefix, most = prefix_keys.shape[1], position.shape[1]
    real = position >= 0
    padded = not bool(real.all())
    if padded:
        query = query.new_zeros(prompts, most, *query.shape[1:]).index_put((real,), query)
    # Heads that share keys become additional queries: [key heads, prompts, repeats * most, width].
    query = query.view(prompts, most, key_heads, -1, width).permute(2, 0, 3, 1, 4)
    repeats = query.shape[2]
    query = query.reshape(key_heads, prompts, repeats * most, width)
    to_prefix = query.flatten(1, 2) @ prefix_keys.transpose(1, 2)
    to_prompt = query @ keys.transpose(2, 3)
    scores = torch.cat([to_prefix.unflatten(1, (prompts, -1)), to_prompt], dim=-1).unflatten(2, (repeats, most))
    key_position = torch.arange(-prefix, tokens, device=position.device)
    query_position = position.clamp(min=0).unsqueeze(-1)
    mask = key_position <= query_position
    if window:
        mask &= key_position > query_position - window
    # float32, because a bfloat16 softmax over many tokens would lose digits.
    scores = scores.float().masked_fill(~mask[:, None], -torch.inf)
    weights = scores.softmax(-1).to(values.dtype).flatten(2, 3)
    from_prefix = weights[..., :prefix].flatten(1, 2) @ prefix_values
    out = from_prefix.unflatten(1, (prompts, -1)) + weights[..., prefix:] @ values
    out = out.unflatten(2, (repeats, most)).permute(1, 3, 0, 2, 4).reshape(prompts, most, -1, width)
    return out[real] if padded else out.flatten(0, 1)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
