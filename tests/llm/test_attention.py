"""Tests of attention with the variable-length kernel: it equals the masked attention, and is used only if it works."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import varlen

from lolm_plugin.llm import attention, kernel_check, model, packing
from lolm_plugin.llm.model import Backbone
from lolm_plugin.llm.packing import Packing, packed_attention
from lolm_plugin.llm.sources import resolve
from tests.llm.settings import LLM, LORA, with_random_adapter
from tests.llm.varlen_kernel import emulated_kernel


@pytest.fixture
def kernel(monkeypatch):
    """Emulate the kernel, in float64 too, so that errors cannot hide in rounding."""
    monkeypatch.setattr(attention, "DTYPES", {torch.float64, torch.bfloat16})
    with emulated_kernel():
        yield


LENGTHS = {"many lengths": [[9, 9, 8], [5], [3, 3], [1]], "one prompt": [[6]], "no prompt": []}


CASES = [
    (prefix, cached, lengths)
    for lengths in ([[9, 9, 8], [5], [3, 3], [1]], [[6]], [])
    for prefix, cached in ((4, False), (4, True), (0, False))
    if lengths or (prefix and not cached)
]


@pytest.mark.parametrize("window", [None, 1, 3, 7, 100])
@pytest.mark.parametrize(("prefix", "cached", "lengths"), CASES)
def test_results_and_gradients_are_those_of_masked_attention(kernel, prefix, cached, lengths, window):
    tokens = prefix * (not cached) + sum(len(group) * max(group) for group in lengths)
    generator = torch.Generator().manual_seed(0)

    def numbers(heads, tokens):
        return torch.randn(1, heads, tokens, 8, dtype=torch.float64, generator=generator).requires_grad_()

    own, past = [numbers(heads, tokens) for heads in (4, 2, 2)], [numbers(2, prefix) for _ in range(2 * cached)]
    found = []
    for on in (False, True):
        pack = Packing(prefix, lengths, past={0: tuple(past)} if cached else None, varlen=on)
        layer = SimpleNamespace(layer_idx=0)
        out = packed_attention(layer, *own, None, scaling=0.3, sliding_window=window, packing=pack)[0]
        weights = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
        gradients = torch.autograd.grad((out * weights).sum(), own + past)
        found.append([out, *gradients, *pack.prefix_keys_values.get(0, ())])
        assert bool(pack._masks) != on
    assert len(found[0]) == len(found[1])
    for masked, unmasked in zip(*found, strict=True):
        torch.testing.assert_close(unmasked, masked, atol=1e-13, rtol=0)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-qwen3", "tiny-gemma3"])
def test_a_model_computes_the_same_with_the_kernel(kernel, monkeypatch, name):
    monkeypatch.setattr(attention, "DTYPES", {torch.float32})
    backbone = with_random_adapter(Backbone({**LLM, "model": name}, {**LORA, "layers": 1}, seed=0))
    assert not backbone.encoder.settings.varlen, "a CPU keeps its own attention"
    # The longest prompt is longer than the window of tiny-gemma3's frozen layer; two have a common beginning.
    prompts = [[9, 8, *range(30, 80)], [9, 8, 7], [4], list(range(30, 60))]
    reads = [torch.tensor([51, 3]), torch.tensor([2]), torch.tensor([0]), torch.tensor([29, 0, 7])]
    found = []
    for on in (False, True):
        backbone.encoder.settings = replace(backbone.encoder.settings, varlen=on)
        batch = backbone.prompt_batch([3, 5, 7], prompts, reads)
        states = backbone.encode(batch, token_budget=60)
        weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
        gradients = torch.autograd.grad((states * weights).sum(), backbone.lora_parameters())
        with torch.no_grad():
            again = backbone.encode(batch)
        found.append([states, again, *gradients])
    for masked, unmasked in zip(*found, strict=True):
        assert (unmasked - masked).norm() <= 1e-5 * masked.norm()


SHAPE = torch.device("cpu"), torch.bfloat16, 4, 2, 16, (None, kernel_check.WINDOW)
WRONG = {
    "a window one token too wide": ("sliding window", lambda window, scale: ((window[0] + (window[0] > 0), 0), scale)),
    "a later token that is seen": ("results|gradients", lambda window, scale: ((window[0], 1), scale)),
    "NaN": ("nan", lambda window, scale: (window, float("nan"))),
}


def test_a_kernel_is_refused_unless_it_gives_the_numbers_of_masked_attention(kernel, monkeypatch):
    kernel_check.refusal.cache_clear()
    assert kernel_check.refusal(*SHAPE) == ""
    right = varlen.varlen_attn
    for complaint, change in WRONG.values():

        def wrong(*args, window_size, scale, change=change, **others):
            window_size, scale = change(window_size, scale)
            return right(*args, window_size=window_size, scale=scale, **others)

        monkeypatch.setattr(varlen, "varlen_attn", wrong)
        kernel_check.refusal.cache_clear()
        assert re.search(complaint, kernel_check.refusal(*SHAPE))


def test_without_the_kernel_a_model_runs_with_masks_and_a_warning_says_why(monkeypatch, caplog):
    kernel_check.refusal.cache_clear()
    assert "cannot run (NotImplementedError" in kernel_check.refusal(*SHAPE)
    on_gpu = SimpleNamespace(device=torch.device("cuda"), config=resolve("tiny-qwen3").load_config())
    with monkeypatch.context() as patched:
        patched.setattr(kernel_check, "refusal", lambda *_: "it is broken")
        assert not kernel_check.varlen_works(on_gpu, "tiny-qwen3", torch.bfloat16)
        assert "llm.model=tiny-qwen3 computes its attention with masks" in caplog.text
        patched.setattr(kernel_check, "refusal", lambda *_: "")
        assert kernel_check.varlen_works(on_gpu, "tiny-qwen3", torch.bfloat16)
        assert not kernel_check.varlen_works(on_gpu, "tiny-qwen3", torch.float32)
        on_gpu.device = torch.device("cpu")
        assert not kernel_check.varlen_works(on_gpu, "tiny-qwen3", torch.bfloat16)
    # The check passes, but the whole model fails with the kernel.
    monkeypatch.setattr(model, "varlen_works", lambda *_: True)
    caplog.clear()
    encoder = Backbone({**LLM, "dtype": "bfloat16"}, LORA, seed=0).encoder
    assert encoder.packed
    assert (encoder.settings.read_positions, encoder.settings.varlen) == (True, False)
    assert "with masks" in caplog.text
    with emulated_kernel():
        assert Backbone({**LLM, "dtype": "bfloat16"}, LORA, seed=0).encoder.settings.varlen


def test_masked_attention_on_a_gpu_never_uses_the_kernels_of_cudnn():
    cuda, before = torch.backends.cuda, torch.backends.cuda.cudnn_sdp_enabled()
    with packing._without_cudnn(torch.device("cuda")):
        assert not cuda.cudnn_sdp_enabled()
        assert cuda.mem_efficient_sdp_enabled()
        assert cuda.math_sdp_enabled()
    with packing._without_cudnn(torch.device("cpu")):
        assert cuda.cudnn_sdp_enabled() == before
