"""Fused RMS norms on a GPU: one kernel in place of the six or more that transformers' norms launch.

A norm is replaced only if PyTorch's fused one gives its numbers on the device. On a CPU nothing is replaced: PyTorch
has no fused norm there, and the last digits of published CPU numbers stay.
"""

import copy
from collections.abc import Callable
from types import MethodType
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

# Largest relative error, in steps of the dtype. The fused norm rounds once, transformers' twice: up to 0.5 steps.
# Smaller: right norms would be refused. Larger: nothing would change, as other formulas differ by 10 and more.
LIMIT = 2.0


def fuse_norms(model: nn.Module) -> int:
    """Replace the arithmetic of the RMS norms of a model on a GPU. Returns how many were replaced."""
    fused = 0
    chosen: dict[tuple[type, int, torch.dtype], Callable[[nn.Module, Tensor], Tensor] | None] = {}
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not type(module).__name__.endswith("RMSNorm") or not isinstance(weight, Tensor) or not weight.is_cuda:
            continue
        kind = type(module), weight.numel(), weight.dtype
        if kind not in chosen:
            chosen[kind] = fused_forward(module)
        if (forward := chosen[kind]) is not None:
            module.__dict__["forward"] = MethodType(forward, module)
            fused += 1
    return fused


def fused_forward(module: nn.Module) -> Callable[[nn.Module, Tensor], Tensor] | None:
    """Return the fused forward that gives this norm's results and gradients; None if there is none."""
    trial = copy.deepcopy(module).requires_grad_()
    weight = cast(Tensor, trial.weight)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # the initial weights of a norm are all 0 or all 1
        weight.copy_(torch.randn(weight.shape, generator=generator))
    x, grad = (torch.randn(7, 3, len(weight), generator=generator).to(weight) for _ in range(2))
    x.requires_grad_()
    try:
        expected = _numbers(trial.forward, x, weight, grad)
        for forward in (scaled_norm, centred_norm):
            found = _numbers(MethodType(forward, trial), x, weight, grad)
            step = torch.finfo(weight.dtype).eps
            if all((a - b).norm() <= LIMIT * step * b.norm() for a, b in zip(found, expected, strict=True)):
                return forward
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return None  # not built like the norms of Llama, Qwen3 or Gemma 3
    return None


def scaled_norm(self: nn.Module, x: Tensor) -> Tensor:
    """Compute the norm of Llama and Qwen3: x / rms(x) · weight."""
    weight = cast(Tensor, self.weight)
    if x.dtype != weight.dtype:  # autocast: the fused kernel takes one dtype
        return type(self).forward(self, x)
    return functional.rms_norm(x, weight.shape, weight, _epsilon(self))


def centred_norm(self: nn.Module, x: Tensor) -> Tensor:
    """Compute the norm of Gemma 3: x / rms(x) · (1 + weight).

    In float32, because 1 + weight in bfloat16 would lose digits of the weight.
    """
    weight = 1.0 + cast(Tensor, self.weight).float()
    return functional.rms_norm(x.float(), weight.shape, weight, _epsilon(self)).type_as(x)


def _epsilon(norm: nn.Module) -> float:
    return cast(float, norm.eps if hasattr(norm, "eps") else norm.variance_epsilon)


def _numbers(norm: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
    with torch.enable_grad():
        out = norm(x)
        return [each.detach().float() for each in (out, *torch.autograd.grad(out, (x, weight), grad))]
