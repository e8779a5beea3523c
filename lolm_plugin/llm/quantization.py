"""Frozen weights in 8 or 4 bits with bitsandbytes, on a CUDA GPU: a half or a quarter of their memory.

There is no quantization on a CPU: PyTorch's dynamic int8 products have no gradient, so the policy that acts would
differ from the policy that learns.
"""

import importlib.util
from typing import TYPE_CHECKING, Any

from lolm_plugin.errors import ConfigError

if TYPE_CHECKING:
    import torch


def check(quantization: str, train: str, use_cuda: bool) -> None:
    """Raise ConfigError if ``llm.quantization`` cannot be used. Loads nothing."""
    if quantization == "none":
        return
    if not use_cuda:
        raise ConfigError(
            f"llm.quantization={quantization} needs a CUDA GPU, but use_cuda is False or there is none; set "
            "llm.quantization=none."
        )
    if train == "full":
        raise ConfigError(
            f"llm.quantization={quantization} freezes the weights that llm.train=full trains; set llm.train=lora or "
            "llm.quantization=none."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"llm.quantization={quantization} needs bitsandbytes; pip install 'lolm_plugin[quantization]', or set "
            "llm.quantization=none."
        )


def loading(quantization: str, dtype: "torch.dtype", device: "str | torch.device") -> dict[str, Any]:
    """Return the arguments for ``from_pretrained``. Products are computed in ``dtype``."""
    if quantization == "none":
        return {}
    from transformers import BitsAndBytesConfig

    four = quantization == "4bit"
    config = BitsAndBytesConfig(
        load_in_8bit=not four,
        load_in_4bit=four,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
    )
    return {"quantization_config": config, "device_map": {"": device}}
