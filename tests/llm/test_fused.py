"""Tests of fused norms and compiled layers: they give the numbers of the layers that they replace."""

import pytest
import torch
from torch import nn

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm import compiling, fused, trial
from lolm_plugin.llm.model import Backbone
from lolm_plugin.llm.sources import resolve
from tests.llm.settings import LLM, LORA, encode, with_random_adapter

NORMS = {"tiny-llama": "scaled_norm", "tiny-qwen3": "scaled_norm", "tiny-gemma3": "centred_norm"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "form"), NORMS.items())
def test_a_fused_norm_has_the_results_and_gradients_of_the_architecture(name, form, dtype):
    norm = resolve(name).load_model(None, dtype, True, 0).norm.requires_grad_()
    assert fused.fused_forward(norm) is getattr(fused, form)
    norm.weight.data.normal_(1, 0.3, generator=torch.Generator().manual_seed(1))
    x = 5 * torch.randn(40, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for forward in (norm.forward, getattr(fused, form).__get__(norm)):
        leaf = x.to(dtype).requires_grad_()
        out = forward(leaf)
        assert out.dtype == dtype
        found.append([out, *torch.autograd.grad(out, (leaf, norm.weight), torch.cos(x).to(dtype))])
    for plain, fast in zip(*found, strict=True):
        assert (fast - plain).float().norm() <= 0.6 * torch.finfo(dtype).eps * plain.float().norm()


def test_no_other_norm_is_replaced():
    class DoubleRMSNorm(nn.RMSNorm):
        variance_epsilon = eps = 1e-6

        def forward(self, x):
            return 2 * super().forward(x)

    assert fused.fused_forward(DoubleRMSNorm(16)) is None, "it has other numbers"
    assert fused.fuse_norms(resolve("tiny-qwen3").load_model(None, torch.float32, True, 0)) == 0, (
        "a CPU keeps its norms"
    )


def test_layers_that_cannot_be_compiled_are_refused(monkeypatch):
    def no_compiler(*args, **kwargs):
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(nn.Module, "compile", no_compiler)
    with pytest.raises(
        ConfigError, match=r"cannot compile .* \(RuntimeError: Failed to find C .*set llm\.compile=False"
    ):
        Backbone({**LLM, "compile": True}, LORA, 0)
    monkeypatch.setattr(nn.Module, "compile", lambda layer, **_: layer.mlp.down_proj.weight.data.mul_(1.1))
    with pytest.raises(ConfigError, match="compute other numbers"):
        Backbone({**LLM, "compile": True, "train": "full"}, LORA, 0)
    monkeypatch.setattr(trial, "obstacle", lambda model: "it is odd")
    with pytest.raises(ConfigError, match=r"runs padded: set llm\.compile=False"):
        Backbone({**LLM, "compile": True}, LORA, 0)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_layers_have_the_numbers_of_plain_ones(monkeypatch, recompute):
    monkeypatch.setattr(compiling, "BACKEND", "eager")  # traces the layers, but needs no C++ compiler
    found = []
    for compiled in (False, True):
        llm = {**LLM, "model": "tiny-qwen3", "compile": compiled, "recompute": recompute}
        backbone = with_random_adapter(Backbone(llm, LORA, 0))
        states = encode(backbone, [3, 4], [[5, 6, 7], [8]])
        weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
        gradients = torch.autograd.grad((states * weights).sum(), backbone.lora_parameters())
        found.append([states, encode(backbone, [3, 4], [[5, 6, 7, 8, 9]], reference=True), *gradients])
    for plain, fast in zip(*found, strict=True):
        assert (fast - plain).norm() <= 1e-5 * plain.norm()
