"""Emulation on the CPU of the flash attention kernels under ``torch.nn.attention.varlen``, by plain arithmetic."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def _weights(
    query: Tensor, key: Tensor, bounds: tuple[Tensor, Tensor], scale: float, window: list[int]
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Yield of each segment its queries, its keys, attention weights [heads, queries, keys] and log-sum-exp.

    The last query is aligned with the last key. A token j is visible to a query i if i - window[0] <= j <=
    i + window[1]; -1 is no limit.
    """
    ends = [bound.tolist() for bound in bounds]
    for q0, q1, k0, k1 in zip(ends[0][:-1], ends[0][1:], ends[1][:-1], ends[1][1:], strict=True):
        of_queries, of_keys = slice(q0, q1), slice(k0, k1)
        q, k = _heads_first(query[of_queries], 1), _heads_first(key[of_keys], query.shape[1] // key.shape[1])
        distance = torch.arange(k1 - k0) - (torch.arange(q1 - q0) + (k1 - k0) - (q1 - q0)).unsqueeze(1)
        hidden = torch.zeros_like(distance, dtype=torch.bool)
        if window[0] >= 0:
            hidden |= distance < -window[0]
        if window[1] >= 0:
            hidden |= distance > window[1]
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(hidden.to(q.device), -torch.inf)
        yield of_queries, of_keys, scores.softmax(-1), scores.logsumexp(-1)


def _heads_first(x: Tensor, repeats: int) -> Tensor:
    """Convert [tokens, heads, width] to [heads * repeats, tokens, width], in float32 or better."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).transpose(0, 1).repeat_interleave(repeats, 0)


def _check(query: Tensor, key: Tensor, value: Tensor, *bounds: Tensor) -> None:
    """Refuse what the real kernels refuse, except dtypes."""
    for x in (query, key, value):
        if x.stride(-1) != 1 or x.dim() != 3 or x.dtype != query.dtype:
            raise RuntimeError("Input tensor must have contiguous last dimension and one dtype")
    if query.shape[-1] % 8 or query.shape[-1] > 256 or query.shape[1] % key.shape[1]:
        raise RuntimeError("head dimension must be a multiple of 8, at most 256")
    if any(bound.dtype != torch.int32 or not bound.is_contiguous() for bound in bounds):
        raise RuntimeError("cu_seqlens must have dtype int32")
    if int(bounds[0][-1]) != len(query) or int(bounds[1][-1]) != len(key):
        raise RuntimeError("cu_seqlens must end with the number of tokens")


def _forward(
    query: Tensor, key: Tensor, value: Tensor, cum_seq_q: Tensor, cum_seq_k: Tensor, max_q: int, max_k: int,
    dropout_p: float, is_causal: bool, return_debug_mask: bool, *, scale: float | None = None,
    window_size_left: int | None = None, window_size_right: int | None = None, **others: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    _check(query, key, value, cum_seq_q, cum_seq_k)
    if max_q != int(cum_seq_q.diff().max()) or max_k != int(cum_seq_k.diff().max()):
        raise RuntimeError("max_q and max_k must be those of the segments")
    window = _window(is_causal, window_size_left, window_size_right)
    scale, repeats = _scale(query, scale), query.shape[1] // key.shape[1]
    out, sums = torch.empty_like(query), []
    for of_queries, of_keys, weights, logsumexp in _weights(query, key, (cum_seq_q, cum_seq_k), scale, window):
        out[of_queries] = (weights @ _heads_first(value[of_keys], repeats)).transpose(0, 1).to(out.dtype)
        sums.append(logsumexp)
    return out, torch.cat(sums, 1), *(query.new_zeros(2, dtype=torch.int64) for _ in range(2)), query.new_zeros(0)


def _backward(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, logsumexp: Tensor, cum_seq_q: Tensor,
    cum_seq_k: Tensor, max_q: int, max_k: int, dropout_p: float, is_causal: bool, rng_state: Tensor, unused: Tensor,
    *, scale: float | None = None, window_size_left: int | None = None, window_size_right: int | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    window = _window(is_causal, window_size_left, window_size_right)
    scale, repeats = _scale(query, scale), query.shape[1] // key.shape[1]
    grads = [torch.zeros_like(x) for x in (query, key, value)]
    for of_queries, of_keys, weights, _ in _weights(query, key, (cum_seq_q, cum_seq_k), scale, window):
        q, o, do = (_heads_first(x[of_queries], 1) for x in (query, out, grad_out))
        k, v = (_heads_first(x[of_keys], repeats) for x in (key, value))
        of_scores = weights * (do @ v.transpose(1, 2) - (do * o).sum(-1, keepdim=True)) * scale
        of_key, of_value = of_scores.transpose(1, 2) @ q, weights.transpose(1, 2) @ do
        grads[0][of_queries] = (of_scores @ k).transpose(0, 1).to(query.dtype)
        for grad, repeated in ((grads[1], of_key), (grads[2], of_value)):
            grad[of_keys] = repeated.unflatten(0, (-1, repeats)).sum(1).transpose(0, 1).to(grad.dtype)
    return tuple(grads)


def _scale(query: Tensor, scale: float | None) -> float:
    return query.shape[-1] ** -0.5 if scale is None else scale


def _window(is_causal: bool, left: int | None, right: int | None) -> list[int]:
    return [-1 if left is None else left, 0 if is_causal else -1 if right is None else right]


def register() -> torch.library.Library:
    """Register the emulation for CPU tensors, until the library that it returns is destroyed or collected."""
    library = torch.library.Library("aten", "IMPL", "CPU")
    library.impl("_flash_attention_forward", _forward)
    library.impl("_flash_attention_backward", _backward)
    return library


@contextmanager
def emulated_kernel() -> Iterator[None]:
    """Register the emulation inside the ``with`` block."""
    library = register()
    try:
        yield
    finally:
        library._destroy()
