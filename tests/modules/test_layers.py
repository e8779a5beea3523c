"""Tests of attention and its blocks, against their formulas."""

import pytest
import torch

from lolm_plugin.modules.layers import Attention, AttentionBlock, Gains


def by_formula(layer, queries, keys, allowed):
    """Compute attention of one set: queries [m, width], keys [n, width] -> values [m, inner], weights [heads, m, n]."""
    query, key, value = layer.query(queries), layer.key(keys), layer.value(keys)
    width = query.shape[-1] // layer.heads
    attended, weights = [], []
    for head in range(layer.heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[:, part] @ key[:, part].T / width**0.5
        weights.append(scores.masked_fill(~allowed, -1e30).softmax(-1))
        attended.append(weights[-1] @ value[:, part])
    return torch.cat(attended, -1), torch.stack(weights)


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_its_formula(project, masked):
    torch.manual_seed(0)
    layer = Attention(width=12, heads=3, head_width=4, gain=2.0, bias=True, project=project)
    queries, keys = torch.randn(2, 5, 7, 12), torch.randn(2, 5, 6, 12)
    allowed = torch.rand(2, 5, 6) < 0.6
    allowed[..., 0] = True
    attended, weights = layer(queries, keys, allowed if masked else None)
    assert (attended.shape, weights.shape) == ((2, 5, 7, 12), (2, 5, 6))
    for i in range(2):
        for j in range(5):
            mask = allowed[i, j] if masked else torch.ones(6, dtype=torch.bool)
            expected, of_heads = by_formula(layer, queries[i, j], keys[i, j], mask)
            assert torch.allclose(attended[i, j], layer.project(expected), atol=1e-5)
            assert torch.allclose(weights[i, j], of_heads[:, 0].mean(0), atol=1e-5)
    assert not weights.requires_grad


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("bias", "project"), [(True, False), (False, True)])
def test_over_raw_equals_attention_over_embedded_tokens(masked, bias, project):
    torch.manual_seed(0)
    embed = torch.nn.Linear(5, 12).double()
    layer = Attention(12, 3, 4, gain=2.0, bias=bias, project=project).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    queries, keys = torch.randn(2, 5, 7, 5).double(), torch.randn(2, 5, 6, 5).double()
    allowed = torch.rand(2, 5, 6) < 0.6 if masked else None
    if masked:
        allowed[..., 0] = True
    parameters = [*layer.parameters(), *embed.parameters()]
    results = []
    for attended, weights in (
        layer.attend_raw(embed, queries, keys, allowed),
        layer(embed(queries), embed(keys), allowed),
    ):
        results.append([attended, weights, *torch.autograd.grad(attended.square().sum(), parameters)])
    assert not results[0][1].requires_grad
    for raw, embedded in zip(*results, strict=True):
        torch.testing.assert_close(raw, embedded)


def test_attention_of_an_empty_batch():
    attended, weights = Attention(12, 3, 4, 1.0, True, False).attend_raw(
        torch.nn.Linear(5, 12), torch.zeros(0, 7, 5), torch.zeros(0, 6, 5)
    )
    assert (attended.shape, weights.shape) == ((0, 7, 12), (0, 6))


def test_a_block_computes_only_the_kept_tokens_after_attention():
    layer, tokens = block(), torch.randn(4, 5, 12)
    kept = (torch.rand(4, 5) < 0.5).nonzero(as_tuple=True)
    widths = []
    layer.feed_forward.register_forward_hook(lambda module, args, output: widths.append(args[0].shape))
    assert torch.allclose(layer(tokens, tokens, kept=kept)[0], layer(tokens, tokens)[0][kept], atol=1e-6)
    assert widths[0] == (len(kept[0]), 12)


def test_wide_heads_are_projected_to_the_models_width():
    layer = Attention(width=8, heads=3, head_width=8, gain=1.0, bias=False, project=True)
    assert layer.query.weight.shape == (24, 8)
    assert layer.query.bias is None
    assert layer(torch.randn(4, 3, 8), torch.randn(4, 3, 8))[0].shape == (4, 3, 8)


def block():
    torch.manual_seed(0)
    return AttentionBlock(Attention(12, 3, 4, 1.0, True, False), 12, 16, Gains())


def test_a_block_is_normalised_after_each_half():
    layer, tokens = block(), torch.randn(4, 5, 12)
    half = layer.attention_norm(tokens + layer.attention(tokens, tokens)[0])
    first, _, second = layer.feed_forward
    expected = layer.feed_forward_norm(half + second(first(half).relu()))
    assert torch.allclose(layer(tokens, tokens)[0], expected, atol=1e-6)
    assert torch.allclose(expected.mean(-1), torch.zeros(4, 5), atol=1e-5)


def test_tokens_that_are_only_queries_do_not_affect_others():
    layer, tokens = block(), torch.randn(4, 5, 12)
    changed = tokens.clone()
    changed[:, 4] += 1
    before, after = layer(tokens, tokens[:, :4])[0], layer(changed, changed[:, :4])[0]
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert not torch.allclose(before[:, 4], after[:, 4])
    assert not torch.allclose(layer(tokens, tokens)[0][:, :4], layer(changed, changed)[0][:, :4], atol=1e-4)
