"""Check at the start of a run: does the GPU's variable-length kernel compute what masked attention computes?

The kernel's alignment of queries and keys, its windows and its gradients decide what the policy sees. They depend on
the GPU and on PyTorch's version, so they are compared on the device itself, in the model's dtype and head width.
"""

import logging
from functools import lru_cache
from types import SimpleNamespace
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lolm_plugin.llm.attention import DTYPES
from lolm_plugin.llm.packing import Packing, packed_attention

# The longest prompt needs two blocks of 128 queries; one prompt is padded, one is a single token.
PREFIX, LENGTHS = 20, [[140, 133], [33], [1]]
WINDOW = 40
# Largest relative error of values and gradients. Rounding to bfloat16 gives up to 6e-3 (an emulated kernel), a window
# or an alignment that is one token off 0.12 and more. Smaller: right kernels could be refused. Larger: wrong ones pass.
LIMIT = 0.03
MASKED = "llm.model=%s computes its attention with masks, which changes no result but is slower on a GPU: %s."


def varlen_works(model: PreTrainedModel, name: str, dtype: torch.dtype) -> bool:
    """Return True if the model's attention can run on the variable-length kernel of its device.

    Args:
        model: the base model, on its device.
        name: ``llm.model``, for the warning that a GPU cannot use the kernel.
        dtype: dtype of the products.
    """
    if model.device.type != "cuda" or dtype not in DTYPES:
        return False
    config = model.config
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    windows = (None, WINDOW) if getattr(config, "sliding_window", None) else (None,)
    if reason := refusal(model.device, dtype, heads, key_heads, width, windows):
        logging.getLogger("lolm").warning(MASKED, name, reason)
    return not reason


@lru_cache(maxsize=64)
def refusal(
    device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, width: int, windows: tuple[int | None, ...]
) -> str:
    """Run the kernel on a few random prompts. Returns the reason why it cannot be used, or ""."""
    try:
        for window in windows:
            for cached in (False, True):
                want, got = (
                    _numbers(device, dtype, (heads, key_heads, width), window, cached, varlen)
                    for varlen in (False, True)
                )
                errors = {what: float((got[what] - x).norm() / x.norm()) for what, x in want.items()}
                worst = max(errors, key=lambda what: (errors[what] != errors[what], errors[what]))  # NaN is worst
                if not errors[worst] <= LIMIT:
                    where = "in a sliding window " if window else ""
                    return f"the {worst} of the kernel without masks differ {where}by {errors[worst]:.1g} of their norm"
    except (AttributeError, ImportError, RuntimeError, TypeError, ValueError) as error:
        lines = str(error).splitlines() or [""]
        return f"the kernel without masks cannot run ({type(error).__name__}: {lines[0][:200]})"
    return ""


def _numbers(
    device: torch.device,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    window: int | None,
    cached: bool,
    varlen: bool,
) -> dict[str, Tensor]:
    """Compute values and gradients of attention over random prompts, with a cached prefix or one in the sequence."""
    heads, key_heads, width = shape
    generator = torch.Generator().manual_seed(0)
    tokens = sum(len(group) * max(group) for group in LENGTHS)
    counts = [(heads, tokens + PREFIX * (not cached)), *[(key_heads, tokens + PREFIX * (not cached))] * 2]
    counts += [(key_heads, PREFIX)] * (2 * cached)
    inputs = [
        torch.randn(1, count, length, width, generator=generator).to(device, dtype).requires_grad_()
        for count, length in counts
    ]
    query, key, value, *past = inputs
    packing = Packing(PREFIX, LENGTHS, past={0: (past[0], past[1])} if cached else None, varlen=varlen)
    layer = cast(nn.Module, SimpleNamespace(layer_idx=0))
    with torch.enable_grad():
        out, _ = packed_attention(layer, query, key, value, None, sliding_window=window, packing=packing)
        weights = torch.randn(out.shape, generator=generator).to(device, dtype)
        gradients = torch.autograd.grad(out, inputs, weights)
    names = ("queries", "keys", "values", "the prefix's keys", "the prefix's values")
    of = {f"gradients of {name}": gradient.float() for name, gradient in zip(names, gradients, strict=False)}
    return {"results": out.detach().float(), **of}
