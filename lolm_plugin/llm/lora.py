"""LoRA by PEFT, in PEFT's own modules and format, computed with fewer passes over memory.

Only the arithmetic of a layer is replaced: what it is made of, and what is saved, stays PEFT's.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm.matmul import linear

ADAPTER = "default"


def with_lora(model: PreTrainedModel, lora: Mapping[str, Any], name: str) -> PeftModel:
    """``model`` with an adapter of ``lora``: rank, alpha, targets, layers (on the top so many; None: all).

    ``name`` is what the adapter's file calls the model. Raises ConfigError for what cannot be.
    """
    if not isinstance(lora["rank"], int) or lora["rank"] < 1:
        raise ConfigError(f"lora.rank={lora['rank']} is no positive integer: set lora.rank to 1 or more.")
    config = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        target_modules=_targets(model, lora["targets"], first_layer(model, lora["layers"])),
        lora_dropout=0.0,
        bias="none",
    )
    if not config.target_modules:
        raise ConfigError(
            f"lora.layers={lora['layers']} leaves no linear layer of llm.model={name} to adapt: set lora.layers to "
            "more, or to null for all."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about GPT-2's transposed layers, which PEFT then handles
            peft = get_peft_model(model, config)
    except ValueError as error:
        raise _refused(model, lora["targets"], name, error) from error
    peft.peft_config[ADAPTER].base_model_name_or_path = name
    for module in peft.modules():
        if type(module) is LoraLinear and type(module.base_layer) is nn.Linear and _of_one_dtype(module):
            module.forward = MethodType(_forward, module)
    return peft


def first_layer(model: PreTrainedModel, top: int | None) -> int:
    """Index of the lowest layer with an adapter if the ``top`` ones have it (None: all)."""
    layers = model.config.num_hidden_layers
    if top is None:
        return 0
    if not isinstance(top, int) or isinstance(top, bool) or not 1 <= top <= layers:
        raise ConfigError(
            f"lora.layers={top} is not within the {layers} layers of the model: set lora.layers to 1 ... {layers}, "
            "or to null for all."
        )
    return layers - top


def _of_one_dtype(module: LoraLinear) -> bool:
    return module.base_layer.weight.dtype == module.lora_A[ADAPTER].weight.dtype


def _forward(self: LoraLinear, x: Tensor) -> Tensor:
    base, down, up = self.base_layer, self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
    if self.disable_adapters:
        return base(x)
    if x.numel() * (base.in_features + base.out_features) < base.weight.numel() * x.shape[-1]:
        # So few rows that adding up the weights would cost more than the two narrow products.
        return base(x) + self.scaling[ADAPTER] * functional.linear(functional.linear(x, down), up)
    return _Adapted.apply(x, base.weight, base.bias, down, up, self.scaling[ADAPTER])


class _Adapted(torch.autograd.Function):
    """x (weight + scale · up · down)ᵀ + bias: x [..., in], weight [out, in] frozen, down [rank, in], up [out, rank].

    The sum of weights is made for each product and never stored: added to the frozen weights and taken away again, it
    would wear them out.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, down, up)
        ctx.scale = scale
        return linear(x, torch.addmm(weight, up, down, alpha=scale), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x, weight, down, up = ctx.saved_tensors
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = linear(grad, torch.addmm(weight, up, down, alpha=ctx.scale).T)
        rows, grad_rows = x.flatten(0, -2), grad.flatten(0, -2)
        grad_narrow, narrow = linear(grad_rows, up.T), linear(rows, down)
        grad_down, grad_up = grad_narrow.T @ rows, grad_rows.T @ narrow
        return grad_x, None, None, grad_down.mul_(ctx.scale), grad_up.mul_(ctx.scale), None


def _targets(model: PreTrainedModel, targets: str | Sequence[str], first: int) -> list[str]:
    """The full names of the linear layers meant by ``targets``, in layers from ``first`` on."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    if targets != "all-linear":
        wanted = [targets] if isinstance(targets, str) else list(targets)
        for target in wanted or ["(nothing)"]:
            if not any(f".{name}".endswith(f".{target}") for name in names):
                kinds = sorted({name.rsplit(".", 1)[-1] for name in names})
                raise ConfigError(
                    f"lora.targets names {target}, which no linear layer of the model is called: set lora.targets to "
                    f"all-linear or to some of {', '.join(kinds)}."
                )
        if not first:
            return wanted
        names = [name for name in names if any(f".{name}".endswith(f".{target}") for target in wanted)]
    return [name for name in names if _layer(name) >= first]


def _refused(model: PreTrainedModel, targets: str | Sequence[str], name: str, error: ValueError) -> ConfigError:
    """Say what PEFT said, such as that the kernels of Mamba read ``out_proj`` without its adapter."""
    reason = " ".join(str(error).split())
    with torch.no_grad(), called_linear_layers(model) as called:
        model(input_ids=torch.tensor([[0, 0]], device=model.device), use_cache=False)
    others = sorted(called - set(re.findall(r"'(\w+)'", reason)))
    return ConfigError(
        f"lora.targets={targets} cannot be adapted in llm.model={name} ({reason[:300]}): set lora.targets to some of "
        f"[{', '.join(others)}]."
    )


@contextmanager
def called_linear_layers(model: nn.Module) -> Iterator[set[str]]:
    """Collect the kinds (``q_proj`` ...) of the linear layers that are called inside the ``with`` block.

    A layer whose weight is read by other code, such as Mamba's ``dt_proj``, is computed without its adapter.
    """
    kinds = {
        module: name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D | LoraLayer) and ".base_layer" not in name and ".lora_" not in name
    }
    called: set[str] = set()
    hooks = [module.register_forward_hook(lambda module, *_: called.add(kinds[module])) for module in kinds]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def adapted_kinds(model: nn.Module) -> set[str]:
    """Return the kinds of linear layers that have an adapter."""
    return {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _layer(name: str) -> int:
    """Which layer a module such as ``layers.7.mlp.up_proj`` belongs to."""
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)
