"""``llm.compile``: the layers of a packed model, compiled by torch.compile into fewer kernels.

Norms, rotary embeddings and activations of a layer become a few fused kernels. Attention stays outside, because its
packing is new in each call. A layer is compiled for any number of tokens, once with and once without gradient, adapter
and ``LastLayer``.
"""

import logging
import time

import torch
from transformers import AttentionInterface

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm.encoder import PackedEncoder, PaddedEncoder, decoder_layers
from lolm_plugin.llm.packing import PACKED, packed_attention
from lolm_plugin.llm.prompt_batch import PromptBatch
from lolm_plugin.llm.trial import TriedModel

# Variants of one layer: 2 of gradient, 2 of the adapter, 2 of the last layer, frozen or trained, each for two kinds of
# layers. PyTorch's own limit of 8 would let the others run uncompiled.
VARIANTS = 64
BACKEND = "inductor"
LENGTHS = (9, 9, 5, 2)


def compile_layers(model: TriedModel, encoder: PackedEncoder | PaddedEncoder) -> None:
    """Compile the layers in place and compare their states with those before.

    Raises:
        ConfigError: the model runs padded, torch.compile fails (for example without a C++ compiler), or a compiled
            layer gives other numbers.
    """
    if not isinstance(encoder, PackedEncoder):
        raise ConfigError(
            f"llm.compile=True compiles only models that run packed, but llm.model={model.name} runs padded: set "
            "llm.compile=False, or llm.model to a model such as Qwen/Qwen3-0.6B."
        )
    ids = [5 + torch.arange(length) % (model.lm.config.vocab_size - 5) for length in LENGTHS]
    batch = PromptBatch.of((3, 4) * encoder.settings.share_prefix, ids)
    (pack,) = batch.plan()
    with torch.no_grad():
        before = encoder.encode(batch, pack, reference=False)
    start = time.monotonic()
    try:
        import torch._dynamo.config as dynamo

        dynamo.recompile_limit = max(dynamo.recompile_limit, VARIANTS)
        # The lists and shapes of a packing would be compiled into the layers.
        AttentionInterface.register(PACKED, torch.compiler.disable(packed_attention))
        for layer in decoder_layers(model.lm):
            layer.compile(dynamic=True, backend=BACKEND)
        with torch.enable_grad():
            states = encoder.encode(batch, pack, reference=False)
            trained = [parameter for parameter in model.lm.parameters() if parameter.requires_grad]
            torch.autograd.grad(states.float().sum(), trained, allow_unused=True)
        with torch.no_grad():
            after = encoder.encode(batch, pack, reference=False)
    except Exception as error:  # compilers raise errors of many kinds
        lines = str(error).splitlines() or [""]
        raise ConfigError(
            f"llm.compile=True: torch.compile cannot compile the layers of llm.model={model.name} "
            f"({type(error).__name__}: {lines[0][:200]}): set llm.compile=False."
        ) from error
    tolerance = torch.finfo(before.dtype).eps ** 0.5 * float(before.abs().max())
    for compiled in (states.detach(), after):
        if not (compiled - before).abs().max() <= tolerance:
            raise ConfigError(
                f"llm.compile=True: the compiled layers of llm.model={model.name} compute other numbers than the "
                "plain ones: set llm.compile=False."
            )
    logging.getLogger("lolm").info("Compiled the layers in %.0f s.", time.monotonic() - start)
