"""Lower bound of the time for any engine: the seconds of the model's matrix products alone, at this machine's rate.

Counted: the transformer's linear layers (X Wᵀ forward; G W backward if the input needs a gradient) for the distinct
prompts of living agents without the shared prefix. The prefix counts once per pass without gradient, and once per
forward batch with gradient. In the last layer only attention's projections count, because the MLP is needed for only
one token of each prompt; with ``llm.read_positions`` only keys and values count.
Not counted: attention itself, norms, activations, LoRA's products and the head.
"""

import re

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from benchmarks.setting import alternate

TOKENS, RUNS = 1024, 5  # size of the measured product, and its repeats (the median is used)
LAYER = re.compile(r"\.(\d+)\.")
READS_LAYER_INPUT = re.compile(r"\.(q_proj|k_proj|v_proj|qkv_proj|query_key_value|c_attn)$")


class Floor:
    """Multiply-adds per token of each layer: ``forward``, and ``inner`` without the products that read its input."""

    def __init__(self, model: nn.Module, read_positions: bool) -> None:
        self.model = model
        layers = model.config.num_hidden_layers
        self.forward, self.inner = [0] * layers, [0] * layers
        in_last = r"\.[kv]_proj\b" if read_positions else "attn"
        for name, module in model.named_modules():
            layer = LAYER.search(f".{name}.")
            if not layer or "lora_" in name or not isinstance(module, nn.Linear | Conv1D):
                continue
            number = int(layer[1])
            if number < layers - 1 or re.search(in_last, name):
                self.forward[number] += module.weight.numel()
                if not READS_LAYER_INPUT.search(name.removesuffix(".base_layer")):
                    self.inner[number] += module.weight.numel()

    def rollout(self, tokens: int, prefix: int) -> int:
        """Return the multiply-adds of one pass without gradient over the prompts' tokens and the prefix."""
        return sum(self.forward) * (tokens + prefix)

    def learner(self, lowest: int, tokens: int, prefix: int, batches: int, epochs: int) -> int:
        """Return the multiply-adds of one update: ``epochs`` passes with gradient, and one pass of the reference.

        The layers below ``lowest`` have no LoRA. They run only once, for policy and reference. The input of ``lowest``
        needs no gradient.
        """
        once, each_epoch = tokens + prefix, tokens + batches * prefix
        forward = sum(self.forward) * once + sum(self.forward[lowest:]) * epochs * each_epoch
        return forward + (self.inner[lowest] + sum(self.forward[lowest + 1 :])) * epochs * each_epoch

    @torch.no_grad()
    def seconds(self, multiply_adds: int, device: str, dtype: torch.dtype) -> float:
        """Measure the largest layer's product and scale its time to the total."""
        linears = [module for module in self.model.modules() if isinstance(module, nn.Linear | Conv1D)]
        shape = max((tuple(module.weight.shape) for module in linears), key=lambda shape: shape[0] * shape[1])
        weight, x = (torch.randn(size, device=device, dtype=dtype) for size in (shape, (TOKENS, shape[1])))
        product = {"product": lambda: nn.functional.linear(x, weight)}
        alternate(product, 1, device)  # warm-up
        return multiply_adds * alternate(product, RUNS, device)["product"] / (TOKENS * weight.numel())
