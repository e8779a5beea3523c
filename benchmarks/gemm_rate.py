"""What the model's own matrix products cost on this machine, alone: the floor under every engine.

Counted are the linear layers of the transformer for the tokens that have to be encoded, and no more than that:
- different prompts of living agents, each without the beginning that all share;
- that beginning once for a whole pass without gradient, once for each forward batch where gradients add up in it;
- X Wᵀ going forward, G W going backward where the input wants a gradient;
- in the last layer attention's projections alone, as the MLP is needed for one token of each prompt; of an engine that
  reads positions (``llm/encoder.py``) keys and values alone, for the same holds of queries and attention output.
Attention itself, norms, activations, LoRA's own products and the head are not counted.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from benchmarks.timing import synchronise
from lolm_plugin.llm.matmul import linear, select_backend

Shape = tuple[int, int]  # outputs, inputs
RUNS = 5  # timings of one product, of which the median counts


@dataclass(frozen=True)
class Work:
    """How many tokens each shape is multiplied with, in products of ``rows`` tokens."""

    rows: int
    forward: Mapping[Shape, int]
    backward: Mapping[Shape, int]

    def seconds(self, device: str, dtype: torch.dtype) -> float:
        """Measured now."""
        select_backend("auto")
        total = 0.0
        for shape in self.forward.keys() | self.backward.keys():
            forward, backward = _products(shape, self.rows, device, dtype)
            for product, tokens in ((forward, self.forward.get(shape)), (backward, self.backward.get(shape))):
                total += tokens / self.rows * _seconds(product, device) if tokens else 0.0
        return total


def rollout_work(
    model: nn.Module, own: Sequence[Sequence[int]], prefix: int, token_budget: int, read_positions: bool
) -> Work:
    """One pass without gradient; ``own`` has the lengths of each step's prompts."""
    steps = [sum(lengths) for lengths in own if lengths]
    batches = sum(_batches(tokens, prefix, token_budget) for tokens in steps)
    return Work(max(1, sum(steps) // max(1, batches)), _times(_shapes(model, read_positions), sum(steps) + prefix), {})


def learner_work(
    policy: nn.Module,
    lowest: int,
    own: Sequence[int],
    prefix: int,
    token_budget: int,
    epochs: int,
    read_positions: bool,
) -> Work:
    """``epochs`` passes with gradient through the layers from ``lowest`` on, and one of the reference.

    The layers below are frozen: once for both. ``policy`` has LoRA on all layers.
    """
    batches = _batches(sum(own), prefix, token_budget)
    once, each_epoch = sum(own) + prefix, sum(own) + batches * prefix
    above = _shapes(policy, read_positions, lowest)
    forward = _times(_shapes(policy, read_positions, 0, lowest), once) + _times(above, once + epochs * each_epoch)
    backward = _times(_with_gradient(policy, read_positions, lowest), epochs * each_epoch)
    return Work(max(1, each_epoch // batches), forward, backward)


def _batches(own: int, prefix: int, token_budget: int) -> int:
    """As few forward batches as the token budget allows, each with the beginning."""
    return max(1, -(-own // max(1, token_budget - prefix)))


def _times(shapes: Counter[Shape], tokens: int) -> Counter[Shape]:
    return Counter({shape: count * tokens for shape, count in shapes.items()})


def linear_layers(model: nn.Module, read_positions: bool) -> dict[nn.Module, tuple[int, Shape]]:
    """The linear modules that all tokens go through: which layer, and the shape."""
    found = {}
    last = model.config.num_hidden_layers - 1
    of_last = r"\.[kv]_proj\b" if read_positions else "attn"
    for name, module in model.named_modules():
        layer = re.search(r"\.(\d+)\.", f".{name}.")
        if not layer or "lora_" in name or not isinstance(module, nn.Linear | Conv1D):
            continue
        if int(layer[1]) < last or re.search(of_last, name):
            out, into = module.weight.shape if isinstance(module, nn.Linear) else module.weight.shape[::-1]
            found[module] = (int(layer[1]), (out, into))
    return found


def _shapes(model: nn.Module, read_positions: bool, first: int = 0, end: int | None = None) -> Counter[Shape]:
    """How often each shape occurs in the layers from ``first`` until before ``end``."""
    layers = linear_layers(model, read_positions).values()
    return Counter(shape for layer, shape in layers if first <= layer and (end is None or layer < end))


def _with_gradient(policy: nn.Module, read_positions: bool, lowest: int) -> Counter[Shape]:
    """The products whose input wants a gradient when LoRA begins at ``lowest``: seen in a pass over two tokens."""
    layers, seen = linear_layers(policy, read_positions), Counter()

    def look(module: nn.Module, inputs: tuple) -> None:
        seen[layers[module][1]] += inputs[0].requires_grad

    below = [
        parameter
        for name, parameter in policy.named_parameters()
        if "lora_" in name and int(re.search(r"\.(\d+)\.", name)[1]) < lowest
    ]
    hooks = [module.register_forward_pre_hook(look) for module in layers]
    try:
        for parameter in below:
            parameter.requires_grad_(False)
        policy(input_ids=torch.tensor([[3, 4]], device=next(policy.parameters()).device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in below:
            parameter.requires_grad_(True)
    return +seen


def _products(shape: Shape, rows: int, device: str, dtype: torch.dtype) -> tuple[Callable, Callable]:
    out, into = shape
    weight, x, gradient = (
        torch.randn(size, device=device, dtype=dtype) for size in ((out, into), (rows, into), (rows, out))
    )
    # By the library that is fastest here, whichever the engine uses: the floor is not to be a slow one.
    return lambda: linear(x, weight), lambda: linear(gradient, weight.T)


def _seconds(product: Callable, device: str) -> float:
    times = []
    with torch.no_grad():
        for _ in range(RUNS + 1):
            synchronise(device)
            started = time.perf_counter()
            product()
            synchronise(device)
            times.append(time.perf_counter() - started)
    return median(times[1:])  # the first call sets up
