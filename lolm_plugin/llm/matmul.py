"""Matrix products on a CPU with the backend that is faster on this machine.

PyTorch multiplies with MKL on a CPU. MKL does not use the widest instructions of some processors. oneDNN, which is also
part of PyTorch, was twice as fast on one processor and slower on another. So both are timed.
"""

from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lolm_plugin import tuning

Multiply = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x weightᵀ + bias with the selected backend, without gradient: x [..., in], weight [out, in]."""
    if uses_onednn(x) and weight.dtype == torch.float32:
        return onednn(x, weight, bias)
    return functional.linear(x, weight, bias)


def select_backend(name: str) -> None:
    """Select the backend of ``linear`` for this process: ``torch``, ``onednn`` or ``auto`` (the faster one)."""
    global _selected
    _selected = fastest_backend() if name == "auto" else name


def backend() -> str:
    """Return the name of the selected backend."""
    return _selected


@cache
def fastest_backend() -> str:
    """Time both backends and return the faster one; ``onednn`` only if its result agrees with PyTorch's."""
    generator = torch.Generator().manual_seed(0)
    rows, width = tuning.TYPICAL["language models"]
    x, weight = torch.randn(rows, width, generator=generator), torch.randn(width, width, generator=generator)
    try:
        agrees = torch.allclose(onednn(x, weight, None), functional.linear(x, weight), atol=1e-3)
    except (AttributeError, RuntimeError):  # a PyTorch without oneDNN, or with another signature
        agrees = False
    plain, other = (lambda: functional.linear(x, weight)), (lambda: onednn(x, weight, None))
    return "onednn" if agrees and tuning.faster("onednn", plain, other) else "torch"


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute x weightᵀ + bias with oneDNN, without gradient; float32 on a CPU only."""
    # oneDNN is a hundred times slower if the weight is neither a dense matrix nor the transpose of one.
    weight = weight if weight.is_contiguous() or weight.T.is_contiguous() else weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def causal_attention(query: Tensor, key: Tensor, value: Tensor, tokens: int, scale: float) -> Tensor:
    """Compute causal softmax attention of the last ``tokens`` of a sequence with ``linear``, without gradient.

    query [prompts, heads, repeats * tokens, width], key and value [prompts, heads, all tokens, width]. PyTorch's own
    kernel always multiplies with MKL. If oneDNN is the faster backend, this function is faster than the kernel.
    """
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    for prompt in range(query.shape[0]):
        for head in range(query.shape[1]):
            scores = linear(query[prompt, head] * scale, key[prompt, head])
            scores.unflatten(0, (-1, tokens))[..., -tokens:].masked_fill_(later, -torch.inf)
            out[prompt, head] = linear(scores.softmax(-1), value[prompt, head].T)
    return out


def uses_onednn(x: Tensor) -> bool:
    """Return True if ``linear`` uses oneDNN for x."""
    return _selected == "onednn" and x.device.type == "cpu" and x.dtype == torch.float32


_selected = "torch"


class _Linear(torch.autograd.Function):
    """``linear`` with gradients for x and, if they are trained, for weight and bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wanted_x, wanted_weight, wanted_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            linear(grad, weight.T) if wanted_x else None,
            linear(rows.T, x.flatten(0, -2).T) if wanted_weight else None,
            rows.sum(0) if wanted_bias else None,
        )


def replace_linear_layers(model: nn.Module) -> None:
    """Make every plain linear layer of ``model`` use ``linear``."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__dict__["forward"] = MethodType(_forward, module)


def _forward(self: nn.Linear, x: Tensor) -> Tensor:
    if torch.is_autocast_enabled(x.device.type):
        return functional.linear(x, self.weight, self.bias)
    if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
        return _Linear.apply(x, self.weight, self.bias)
    return linear(x, self.weight, self.bias)
