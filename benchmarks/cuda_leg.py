"""The same benchmark on a GPU: bfloat16, a model of Qwen3-0.6B's shape with random weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.setting import Setting
from lolm_plugin.llm.sources import resolve

QWEN3_06B = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}
SKIPPED = "cuda leg skipped: torch sees no GPU here"


def available() -> bool:
    """Whether there is a GPU."""
    return torch.cuda.is_available()


@contextmanager
def setting(cpu: Setting, device: str = "cuda", **sizes: int) -> Iterator[Setting]:
    """``cpu``'s setting for a GPU while its model's folder is there; ``sizes`` replaces any of the shape's.

    The tokenizer is that of ``cpu``'s model: Qwen's own cannot be had without the hub.
    """
    from transformers import Qwen3Config

    with TemporaryDirectory(prefix="lolm-benchmark-") as folder:
        shape = QWEN3_06B | sizes
        Qwen3Config(**shape).save_pretrained(folder)
        resolve(cpu.model).load_tokenizer().save_pretrained(folder)
        layers = tuple(dict.fromkeys(min(count, shape["num_hidden_layers"]) for count in cpu.layers))
        dtype = "bfloat16" if device == "cuda" else "float32"
        changes = {"model": str(Path(folder)), "num_layers": None, "pretrained": False, "layers": layers}
        yield replace(cpu, device=device, dtype=dtype, **changes)
