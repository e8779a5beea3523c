"""Tests of the adapter's arithmetic: gradients by finite differences, and bfloat16 weights against PEFT's own path."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from lolm_plugin.llm import lora
from lolm_plugin.llm.model import Backbone
from tests.llm.settings import LLM, LORA

SIZES = {"x": (2, 5, 6), "weight": (7, 6), "bias": (7,), "down": (3, 6), "up": (7, 3)}


def numbers(dtype=torch.float64, **trained):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(size, generator=generator, dtype=dtype).requires_grad_(trained.get(name, False))
        for name, size in SIZES.items()
    ]


@pytest.mark.parametrize("function", [lora._Adapted, lora._LowRank])
def test_values_and_gradients_of_an_adapted_layer(function, monkeypatch):
    monkeypatch.setattr(lora, "_float32_product", torch.mm)  # gradcheck needs float64
    x, weight, bias, down, up = numbers(x=True, down=True, up=True)
    expected = functional.linear(x, weight, bias) + 0.5 * functional.linear(functional.linear(x, down), up)
    torch.testing.assert_close(function.apply(x, weight, bias, down, up, 0.5), expected)
    assert torch.autograd.gradcheck(lambda x, down, up: function.apply(x, weight, bias, down, up, 0.5), (x, down, up))


def test_no_gradient_of_the_input_is_computed_for_the_lowest_layer():
    x, weight, bias, down, up = numbers(torch.float32, down=True, up=True)
    lora._LowRank.apply(x, weight, bias, down, up, 0.5).sum().backward()
    assert x.grad is None
    assert up.grad is not None


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-qwen3", "tiny-gemma3"])
def test_bfloat16_weights_have_float32_gradients_close_to_those_of_peft(model):
    results = []
    for own in (True, False):
        backbone = Backbone({**LLM, "model": model, "dtype": "bfloat16"}, LORA, 0)
        generator = torch.Generator().manual_seed(1)
        for name, parameter in backbone.lm.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.05, generator=generator)
        if not own:
            for module in backbone.lm.modules():
                module.__dict__.pop("forward", None)
        prompts = [torch.arange(3 + i, 40 + 9 * i) for i in range(4)]
        batch = backbone.prompt_batch((1, 2, 3), prompts)
        (pack,) = batch.plan()
        states = backbone.encoder.encode(batch, pack, reference=False).float()
        weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(2))
        gradients = torch.autograd.grad((states * weights).sum(), backbone.lora_parameters())
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
        results.append((states.detach(), torch.cat([gradient.flatten() for gradient in gradients])))
    (ours, our_gradient), (theirs, their_gradient) = results
    assert not torch.equal(ours, theirs), "PEFT's own path must be another computation"
    assert (ours - theirs).norm() < 0.03 * theirs.norm()
    assert functional.cosine_similarity(our_gradient, their_gradient, dim=0) > 0.999


def test_an_update_smaller_than_the_spacing_of_bfloat16_numbers_has_an_effect():
    layer = nn.Linear(8, 8, bias=False, dtype=torch.bfloat16)
    layer.weight.data.fill_(0.03)
    x, down, up = torch.ones(1, 8, dtype=torch.bfloat16), torch.full((2, 8), 1e-3), torch.full((8, 2), 5e-3)
    assert torch.equal((layer.weight + (up @ down).bfloat16()), layer.weight), "merged, the adapter would be lost"
    with_zero = torch.zeros_like(up)
    changes = [
        (lora._LowRank.apply(x, layer.weight, None, down, out, 100.0) - functional.linear(x, layer.weight)).abs().max()
        for out in (up, with_zero)
    ]
    assert changes[0] > 0 == changes[1]
