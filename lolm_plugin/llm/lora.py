"""LoRA in PEFT's modules and file format, computed with fewer passes over memory.

Only a layer's arithmetic is replaced. Its modules and the saved files are PEFT's.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lolm_plugin.errors import ConfigError

ADAPTER = "default"


def with_lora(model: PreTrainedModel, lora: Mapping[str, Any], name: str) -> PeftModel:
    """Add an adapter to ``model``.

    Args:
        model: the frozen base model.
        lora: section ``lora`` of the configuration: rank, alpha, targets, layers.
        name: the base model's name in the adapter's file.

    Raises:
        ConfigError: the model or PEFT does not support a value of the section.
    """
    if not isinstance(lora["rank"], int) or lora["rank"] < 1:
        raise ConfigError(f"lora.rank={lora['rank']} is not a positive integer: set lora.rank to 1 or more.")
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
            warnings.simplefilter("ignore")  # PEFT warns of GPT-2's transposed layers, but handles them
            peft = get_peft_model(model, config)
    except ValueError as error:
        raise _refused(model, lora["targets"], name, error) from error
    assert isinstance(peft, PeftModel)
    peft.peft_config[ADAPTER].base_model_name_or_path = name
    for module in peft.modules():
        if type(module) is LoraLinear and type(module.base_layer) is nn.Linear:
            module.__dict__["forward"] = MethodType(_forward, module)
    return peft


def first_layer(model: PreTrainedModel, top: int | None) -> int:
    """Return the index of the lowest layer with an adapter, if the ``top`` highest layers have one (None: all)."""
    layers = model.config.num_hidden_layers
    if top is None:
        return 0
    if not isinstance(top, int) or isinstance(top, bool) or not 1 <= top <= layers:
        raise ConfigError(
            f"lora.layers={top} is not within the {layers} layers of the model: set lora.layers to 1 ... {layers}, "
            "or to null for all."
        )
    return layers - top


def _weights(module: LoraLinear) -> tuple[nn.Linear, Tensor, Tensor]:
    """Return the frozen layer, and the adapter's weights down [rank, in] and up [out, rank]."""
    down, up = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
    return cast(nn.Linear, module.base_layer), cast(Tensor, down), cast(Tensor, up)


def _forward(self: LoraLinear, x: Tensor) -> Tensor:
    base, down, up = _weights(self)
    if self.disable_adapters:
        return base(x)
    if base.weight.dtype != down.dtype:
        return _LowRank.apply(x, base.weight, base.bias, down, up, self.scaling[ADAPTER])
    if x.numel() * (base.in_features + base.out_features) < base.weight.numel() * x.shape[-1]:
        # For few tokens, adding up the weights would cost more than the two narrow products.
        return base(x) + self.scaling[ADAPTER] * functional.linear(functional.linear(x, down), up)
    return _Adapted.apply(x, base.weight, base.bias, down, up, self.scaling[ADAPTER])


class _Adapted(torch.autograd.Function):
    """Linear layer with an adapter: x (weight + scale · up · down)ᵀ + bias, with gradients for x, down and up.

    Shapes: x [..., in], weight [out, in] frozen, down [rank, in], up [out, rank]. The sum of weights is computed for
    each product and never stored: merging in place and unmerging would accumulate rounding errors in them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, down, up)
        ctx.scale = scale
        return functional.linear(x, torch.addmm(weight, up, down, alpha=scale), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x, weight, down, up = ctx.saved_tensors
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = functional.linear(grad, torch.addmm(weight, up, down, alpha=ctx.scale).T)
        rows, grad_rows = x.flatten(0, -2), grad.flatten(0, -2)
        grad_narrow, narrow = functional.linear(grad_rows, up.T), functional.linear(rows, down)
        grad_down, grad_up = grad_narrow.T @ rows, grad_rows.T @ narrow
        return grad_x, None, None, grad_down.mul_(ctx.scale), grad_up.mul_(ctx.scale), None


class _LowRank(torch.autograd.Function):
    """``_Adapted`` for frozen weights of low precision and an adapter in float32, such as bfloat16 on a GPU.

    The adapter's narrow products are computed in the weights' precision; PEFT would copy x to float32 for each layer.
    The adapter is never added to the weights: its first updates are smaller than the spacing of bfloat16 numbers
    there. Its gradients are sums in float32.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        x = x.to(weight.dtype)
        narrow = functional.linear(x, down.to(x.dtype))
        ctx.save_for_backward(x, weight, down, up, narrow)
        ctx.scale = scale
        out = functional.linear(x, weight, bias)
        out.flatten(0, -2).addmm_(narrow.flatten(0, -2), up.to(x.dtype).T, alpha=scale)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x, weight, down, up, narrow = ctx.saved_tensors
        rows, grad_rows = x.flatten(0, -2), grad.flatten(0, -2)
        grad_narrow = (grad_rows @ up.to(grad.dtype)).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad_rows @ weight).addmm_(grad_narrow, down.to(grad.dtype)).view_as(x)
        grad_down = _float32_product(grad_narrow.T, rows)
        grad_up = _float32_product(grad_rows.T, narrow.flatten(0, -2)).mul_(ctx.scale)
        return grad_x, None, None, grad_down, grad_up, None


def _float32_product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply two matrices of low precision; the sums and the result are in float32."""
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _targets(model: PreTrainedModel, targets: str | Sequence[str], first: int) -> list[str]:
    """List the names of the linear layers that ``targets`` selects, in layer ``first`` and above."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    if targets != "all-linear":
        wanted = [targets] if isinstance(targets, str) else list(targets)
        for target in wanted or ["(nothing)"]:
            if not any(f".{name}".endswith(f".{target}") for name in names):
                kinds = sorted({_kind(name) for name in names})
                raise ConfigError(
                    f"lora.targets names {target}, but no linear layer of the model has this name: set lora.targets "
                    f"to all-linear or to some of {', '.join(kinds)}."
                )
        if not first:
            return wanted
        names = [name for name in names if any(f".{name}".endswith(f".{target}") for target in wanted)]
    return [name for name in names if _layer_index(name) >= first]


def _refused(model: PreTrainedModel, targets: str | Sequence[str], name: str, error: ValueError) -> ConfigError:
    """Convert an error of PEFT, such as that Mamba's kernels read ``out_proj`` without its adapter."""
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

    Other code may read a layer's weight without calling the layer, as for Mamba's ``dt_proj``. Its adapter then has no
    effect.
    """
    kinds = {module: _kind(name) for name, module in model.named_modules() if _is_linear(name, module)}
    called: set[str] = set()
    hooks = [module.register_forward_hook(lambda module, *_: called.add(kinds[module])) for module in kinds]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def adapted_kinds(model: nn.Module) -> set[str]:
    """Return the kinds of linear layers that have an adapter."""
    return {_kind(name) for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _is_linear(name: str, module: nn.Module) -> bool:
    """Return True if a module is a complete linear layer, with or without an adapter."""
    part_of_another = ".base_layer" in name or ".lora_" in name
    return isinstance(module, nn.Linear | Conv1D | LoraLayer) and not part_of_another


def _kind(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _layer_index(name: str) -> int:
    """Return the index of the layer that contains a module: 7 for ``layers.7.mlp.up_proj``."""
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)
