"""Tests of matrix products and attention with both backends."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from lolm_plugin.llm import matmul


@pytest.fixture(autouse=True, params=["torch", "onednn"])
def product(request):
    before = matmul.backend()
    matmul.select_backend(request.param)
    yield request.param
    matmul.select_backend(before)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(7,), (2, 5), (1, 3, 4)])
def test_linear_computes_the_product(leading, bias):
    x, weight, shift = draw(*leading, 24), draw(10, 24, seed=1), draw(10, seed=2) if bias else None
    torch.testing.assert_close(matmul.linear(x, weight, shift), functional.linear(x, weight, shift))


def test_weights_with_other_memory_layouts():
    x, weight = draw(24, 9).T, draw(10, 48, seed=1)
    for strided in (weight[:, ::2], weight[:, :24], draw(24, 10).T):
        torch.testing.assert_close(matmul.linear(x, strided), functional.linear(x, strided))


@pytest.mark.parametrize("trained", [True, False])
def test_gradients_of_a_linear_layer(trained):
    plain, fast = (nn.Linear(24, 10) for _ in range(2))
    fast.load_state_dict(plain.state_dict())
    matmul.replace_linear_layers(fast)
    outputs = []
    for layer in (plain, fast):
        layer.requires_grad_(trained)
        x = draw(2, 5, 24).requires_grad_()
        out = layer(x)
        wanted = [x, *(layer.parameters() if trained else [])]
        outputs.append([out, *torch.autograd.grad(out, wanted, draw(2, 5, 10, seed=3))])
    assert fast(draw(2, 5, 24)).requires_grad == trained
    for got, want in zip(*outputs, strict=True):
        torch.testing.assert_close(got, want)


def test_bfloat16_uses_pytorchs_product(monkeypatch):
    monkeypatch.setattr(matmul, "_selected", None)
    x, weight = draw(3, 8).bfloat16(), draw(4, 8).bfloat16()
    assert torch.equal(matmul.linear(x, weight), functional.linear(x, weight))


def test_the_faster_backend_is_selected(monkeypatch):
    for faster, expected in ((True, "onednn"), (False, "torch")):
        matmul.fastest_backend.cache_clear()
        monkeypatch.setattr(matmul.tuning, "faster", lambda *_, faster=faster: faster)
        matmul.select_backend("auto")
        assert matmul.backend() == expected
    matmul.fastest_backend.cache_clear()


def test_a_backend_that_fails_or_disagrees_is_never_selected(monkeypatch):
    monkeypatch.setattr(matmul.tuning, "faster", lambda *_: True)

    def absent(*_):
        raise AttributeError("no such operation")

    for broken in (absent, lambda x, weight, bias: functional.linear(x, weight) + 1):
        matmul.fastest_backend.cache_clear()
        monkeypatch.setattr(matmul, "onednn", broken)
        assert matmul.fastest_backend() == "torch"
    matmul.fastest_backend.cache_clear()


@pytest.mark.parametrize("before", [0, 5])
@pytest.mark.parametrize("repeats", [1, 3])
def test_attention_of_the_last_tokens_of_a_sequence(before, repeats):
    query, key, value = (
        draw(2, 4, repeats * 7, 16),
        draw(2, 4, before + 7, 16, seed=1),
        draw(2, 4, before + 7, 16, seed=2),
    )
    mask = (torch.arange(before + 7) <= torch.arange(before, before + 7).unsqueeze(1)).repeat(repeats, 1)
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
    torch.testing.assert_close(matmul.causal_attention(query, key, value, 7, 0.3), expected)
