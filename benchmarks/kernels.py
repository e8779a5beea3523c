"""Attention kernels on this device: which causal alignment each one has, how exact it is, and how long it takes.

A prompt's query tokens follow a shared prefix, so a kernel sees fewer queries than keys. The engine needs the lower
right alignment: the last query sees all keys. A kernel with the upper left one hides the prompt from itself:

        lower right           upper left
        key P P a a a         key P P a a a
        a   x x x             a   x
        a   x x x x           a   x x
        a   x x x x x         a   x x x

Each kernel is compared with a float32 product that masks explicitly.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from benchmarks import gpu

# Largest difference to float32 that counts as equal. bfloat16 has 3 digits, and values are averages of numbers near 1;
# another alignment differs by about 1.
CLOSE = 0.05


@dataclass(frozen=True)
class Shape:
    """Heads, key heads, width of a head, tokens of the prefix, and tokens of each prompt after it."""

    heads: int
    key_heads: int
    width: int
    prefix: int
    lengths: tuple[int, ...]


QWEN3 = Shape(16, 8, 128, 82, tuple(range(420, 740, 10)))  # 32 prompts of 3s5z_vs_3s6z
SMALL = Shape(4, 2, 16, 3, (5, 2, 9))


@dataclass(frozen=True)
class Inputs:
    """Random queries, keys and values of all prompts, in float32.

    Attributes:
        query: [tokens, heads, width] of each prompt.
        key: [prefix + tokens, key heads, width] of each prompt; ``value`` likewise.
    """

    query: list[Tensor]
    key: list[Tensor]
    value: list[Tensor]

    @classmethod
    def draw(cls, shape: Shape, device: str) -> "Inputs":
        """Draw the inputs. The numbers do not depend on the device."""
        generator = torch.Generator().manual_seed(1)

        def numbers(tokens: int, heads: int) -> Tensor:
            return torch.randn(tokens, heads, shape.width, generator=generator).bfloat16().float().to(device)

        query = [numbers(tokens, shape.heads) for tokens in shape.lengths]
        key, value = ([numbers(shape.prefix + tokens, shape.key_heads) for tokens in shape.lengths] for _ in range(2))
        return cls(query, key, value)

    def first(self) -> "Inputs":
        """Return the inputs of the first prompt alone."""
        return Inputs(self.query[:1], self.key[:1], self.value[:1])


Kernel = Callable[[Inputs], Tensor]  # -> [tokens of all prompts, heads, width]


def reference(inputs: Inputs, upper_left: bool = False) -> Tensor:
    """Compute attention in float32 with explicit masks: [tokens of all prompts, heads, width]."""
    out = []
    for query, key, value in zip(inputs.query, inputs.key, inputs.value, strict=True):
        repeats = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(repeats, 1) for x in (key, value))
        scores = torch.einsum("qhw,khw->hqk", query, key) / math.sqrt(query.shape[-1])
        mask = _mask(len(query), len(key), upper_left, query.device)
        out.append(torch.einsum("hqk,khw->qhw", scores.masked_fill(~mask, -math.inf).softmax(-1), value))
    return torch.cat(out)


def masked(inputs: Inputs) -> Tensor:
    """Run PyTorch's attention with a mask on padded prompts, as an engine without a packed kernel does.

    Heads that share keys are further queries, because not every kernel knows grouped heads.
    """
    query, key, value = (_padded(x) for x in (inputs.query, inputs.key, inputs.value))
    repeats = query.shape[1] // key.shape[1]
    masks = [_mask(len(q), len(k), False, q.device) for q, k in zip(inputs.query, inputs.key, strict=True)]
    mask = torch.zeros(len(masks), 1, query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
    mask[..., 0] = True  # padded queries: a row without any key would be NaN
    for row, own in zip(mask, masks, strict=True):
        row[0, : own.shape[0], : own.shape[1]] = own
    grouped, mask = query.unflatten(1, (-1, repeats)).flatten(2, 3), mask.repeat(1, 1, repeats, 1)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=mask).view(query.shape)
    return torch.cat([row[:, : len(q)].transpose(0, 1) for row, q in zip(out, inputs.query, strict=True)])


def is_causal(inputs: Inputs, backend: SDPBackend | None = None) -> Tensor:
    """Run PyTorch's attention with ``is_causal``, prompt by prompt, with one backend or the default choice."""
    out = []
    with sdpa_kernel([backend] if backend else list(_backends())):
        for query, key, value in zip(inputs.query, inputs.key, inputs.value, strict=True):
            q, k, v = (x.bfloat16().transpose(0, 1).unsqueeze(0) for x in (query, key, value))
            out.append(scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1))
    return torch.cat(out)


def varlen(inputs: Inputs) -> Tensor:
    """Run PyTorch's variable-length attention on all prompts at once. Raises ImportError before torch 2.10."""
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    query, key, value = (torch.cat(x).bfloat16() for x in (inputs.query, inputs.key, inputs.value))
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "num_splits" in known:
        options["num_splits"] = 1  # otherwise a result may depend on the other prompts
    if "enable_gqa" in known:
        options["enable_gqa"] = True
    else:
        key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
    ends = [torch.tensor([0, *map(len, x)], device=query.device) for x in (inputs.query, inputs.key)]
    starts = [x.cumsum(0).int() for x in ends]
    longest = [max(map(len, x)) for x in (inputs.query, inputs.key)]
    return varlen_attn(query, key, value, *starts, *longest, **options)


KERNELS: dict[str, Kernel] = {
    "masked": masked,
    "is_causal": is_causal,
    "is_causal_flash": lambda inputs: is_causal(inputs, SDPBackend.FLASH_ATTENTION),
    "varlen": varlen,
}


def compare(shape: Shape, device: str) -> dict[str, Any]:
    """Return for each kernel its alignment, errors and time. A kernel that cannot run here has only ``absent``."""
    inputs = Inputs.draw(shape, device)
    expected = {"lower right": reference(inputs), "upper left": reference(inputs, upper_left=True)}
    return {name: _examine(kernel, inputs, expected, device) for name, kernel in KERNELS.items()}


def _examine(kernel: Kernel, inputs: Inputs, expected: dict[str, Tensor], device: str) -> dict[str, Any]:
    try:
        with torch.no_grad():
            out, alone = kernel(inputs), kernel(inputs.first())
            time = gpu.milliseconds(lambda: kernel(inputs), device)
        differences = {name: float((out.float() - right).abs().max()) for name, right in expected.items()}
        alignment = min(differences, key=lambda name: differences[name])
        return {
            "alignment": alignment if differences[alignment] < CLOSE else None,
            "max_abs_diff": differences["lower right"],
            "gradient_diff_relative": _gradient_difference(kernel, inputs),
            "batch_independent": torch.equal(out[: len(alone)], alone),
            "milliseconds": time,
        }
    except (ImportError, RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        return {"absent": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"}


def _gradient_difference(kernel: Kernel, inputs: Inputs) -> float:
    """Return the largest relative difference to the float32 gradients of queries, keys and values."""
    found = []
    for compute in (reference, kernel):
        leaves = Inputs(*([x.clone().requires_grad_() for x in xs] for xs in (inputs.query, inputs.key, inputs.value)))
        compute(leaves).float().square().sum().backward()
        found.append([torch.cat([x.grad for x in xs]) for xs in (leaves.query, leaves.key, leaves.value)])
    return max(float((got - want).norm() / want.norm()) for want, got in zip(*found, strict=True))


def _mask(queries: int, keys: int, upper_left: bool, device: torch.device) -> Tensor:
    before = 0 if upper_left else keys - queries
    return torch.arange(keys, device=device) <= torch.arange(queries, device=device).unsqueeze(1) + before


def _padded(rows: list[Tensor]) -> Tensor:
    """Pad [tokens, heads, width] of each prompt on the right: bfloat16 [prompts, heads, longest, width]."""
    return pad_sequence(rows, batch_first=True).bfloat16().transpose(1, 2)


def _backends() -> tuple[SDPBackend, ...]:
    return SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH
