"""Matrix products by whichever library is fastest on this machine.

PyTorch's own products on a CPU are MKL's, which leaves the wide instructions of some processors unused; oneDNN, which
PyTorch carries too, was seen to be twice as fast on one and slower on another. So it is tried, once a process.
"""

import time
from collections.abc import Callable
from functools import cache
from statistics import median
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

TOKENS, WIDTH, REPEATS = 1024, 768, 7  # of the products that are timed: those of a small language model
WORTHWHILE = 1.1  # how much faster oneDNN has to be, as timing is noisy

Multiply = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in] times weight [out, in] transposed, plus bias: ``torch.nn.functional.linear`` without gradient."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != torch.float32:
        return functional.linear(x, weight, bias)
    return fastest()(x, weight, bias)


@cache
def fastest() -> Multiply:
    """The faster of ``functional.linear`` and ``onednn``, by trying both."""
    return onednn if speedup() > WORTHWHILE else functional.linear


@cache
def speedup() -> float:
    """How many times faster oneDNN is than PyTorch's own product; 0 where it cannot be had or gives other results."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, WIDTH, generator=generator) for rows in (TOKENS, WIDTH))
    try:
        if not torch.allclose(onednn(x, weight, None), functional.linear(x, weight), atol=1e-3):
            return 0.0
    except (AttributeError, RuntimeError):  # a PyTorch without oneDNN, or one that calls it otherwise
        return 0.0
    seconds: dict[Multiply, list[float]] = {functional.linear: [], onednn: []}
    for _ in range(REPEATS):
        for product, taken in seconds.items():
            started = time.perf_counter()
            product(x, weight, None)
            taken.append(time.perf_counter() - started)
    return median(seconds[functional.linear]) / median(seconds[onednn])


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product by oneDNN, float32 on a CPU, without gradient."""
    # On anything but a dense matrix or its transpose oneDNN is a hundred times slower.
    weight = weight if weight.is_contiguous() or weight.T.is_contiguous() else weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


class Product(torch.autograd.Function):
    """``linear`` with a gradient for x and, where weight and bias are trained, for these."""

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


def use_fastest(model: nn.Module) -> None:
    """Have every plain linear layer of ``model`` multiply by ``linear``."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = MethodType(_forward, module)


def _forward(self: nn.Linear, x: Tensor) -> Tensor:
    if torch.is_autocast_enabled(x.device.type):
        return functional.linear(x, self.weight, self.bias)
    if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
        return Product.apply(x, self.weight, self.bias)
    return linear(x, self.weight, self.bias)
