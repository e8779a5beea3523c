"""Settings of a backbone in tests: the shipped config sections, so that a new key needs no change in tests."""

import torch
from torch import Tensor

from lolm_plugin.configuration.config_files import plugin_config_dir, read
from lolm_plugin.llm.model import Backbone

_SHIPPED = read(plugin_config_dir() / "default.yaml")
LLM = {**_SHIPPED["llm"], "model": "tiny-llama"}
LORA = {**_SHIPPED["lora"], "rank": 4, "alpha": 8}


def encode(backbone: Backbone, prefix: list[int], sequences: list[list[int]], reference: bool = False) -> Tensor:
    """Compute the hidden states of the last tokens of ``prefix + sequence``: [sequences, hidden]."""
    return backbone.encode(backbone.prompt_batch(prefix, sequences), reference)


def with_random_adapter(backbone: Backbone, seed: int = 0) -> Backbone:
    """Fill the adapter with random numbers: LoRA's B starts at 0, which would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.lora_parameters():
            parameter.normal_(0, 0.1, generator=generator)
    return backbone
