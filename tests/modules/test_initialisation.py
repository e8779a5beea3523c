"""Tests of the initial weights: orthogonal, with the configured gains."""

import math

import pytest
import torch
from torch import nn

from lolm_plugin.modules.layers import Gains, linear, orthogonal
from tests.modules.networks import ENTITY_FORMS, REFERENCE, new_agent, new_critic, observations_of, zeros


def gain_of(weight):
    """Return the gain of an orthogonal matrix: all its singular values are equal."""
    values = torch.linalg.svdvals(weight.detach())
    assert torch.allclose(values, values[0].expand_as(values), rtol=1e-3, atol=0)
    return values[0].item()


@pytest.mark.parametrize("sizes", [(16, 192), (192, 64), (5, 5)])
def test_a_linear_layer_is_orthogonal_with_its_gain(sizes):
    layer = linear(*sizes, gain=1.7)
    assert gain_of(layer.weight) == pytest.approx(1.7, rel=1e-4)
    assert not layer.bias.any()
    assert linear(*sizes, gain=1.0, bias=False).bias is None


def test_a_gru_is_orthogonal():
    gru = orthogonal(nn.GRUCell(12, 8))
    assert gain_of(gru.weight_ih) == pytest.approx(1.0, rel=1e-4)
    assert gain_of(gru.weight_hh) == pytest.approx(1.0, rel=1e-4)
    assert not gru.bias_ih.any()
    assert not gru.bias_hh.any()


def test_gains_depend_on_the_layer_unless_init_gain_is_set():
    assert Gains.of({"init_gain": None}) == Gains(relu=math.sqrt(2), plain=1.0, head=0.01)
    assert Gains.of({"init_gain": 0.3}) == Gains(0.3, 0.3, 0.3)


def gains(module):
    return {
        name: gain_of(parameter)
        for name, parameter in module.named_parameters()
        if parameter.dim() > 1 and "gru" not in name
    }


@pytest.mark.parametrize("form", ENTITY_FORMS)
def test_init_gain_sets_all_layers_except_memory_and_value(form):
    agent, critic = (new(form, changes={"entity.init_gain": 0.01}) for new in (new_agent, new_critic))
    values = gains(critic)
    assert values.pop("value.weight") == pytest.approx(1.0, rel=1e-3)
    assert list(gains(agent).values()) == pytest.approx([0.01] * len(gains(agent)), rel=1e-3)
    assert list(values.values()) == pytest.approx([0.01] * len(values), rel=1e-3)
    for module in (agent, critic):
        for name, parameter in module.named_parameters():
            if "gru" in name and parameter.dim() > 1:
                assert gain_of(parameter) == pytest.approx(1.0, rel=1e-3)
            elif parameter.dim() == 1:
                is_scale = "norm" in name.rsplit(".", 2)[-2] or name.split(".")[-2].isdigit()
                assert not parameter.any() or (is_scale and (parameter == 1).all()), name


def test_the_default_gain_of_each_layer():
    updet, dt2gs = (gains(new_agent(name, changes={})) for name in ("updet", "dt2gs"))
    root = pytest.approx(math.sqrt(2), rel=1e-3)
    for weights, block in ((updet, "trunk.blocks.0"), (dt2gs, "trunk.block")):
        assert weights["head.actions.weight"] == pytest.approx(0.01, rel=1e-3)
        assert weights["trunk.embed.weight"] == pytest.approx(1.0, rel=1e-3)
        assert weights[f"{block}.attention.key.weight"] == pytest.approx(1.0, rel=1e-3)
        assert weights[f"{block}.feed_forward.0.weight"] == root
        assert weights[f"{block}.feed_forward.2.weight"] == pytest.approx(1.0, rel=1e-3)
    assert updet["trunk.final.weight"] == pytest.approx(1.0, rel=1e-3)
    assert dt2gs["trunk.fuse.weight"] == root
    assert dt2gs["trunk.encoder.0.weight"] == root
    assert gains(new_agent("dt2gs linear", changes={}))["trunk.fuse.weight"] == pytest.approx(1.0, rel=1e-3)


def logits_of(agent, obs):
    return agent.evaluate(obs, zeros(agent, 50, 3), torch.arange(3)).logits.flatten(0, 1)


def test_the_published_initial_policy_is_closer_to_uniform(random_views):
    obs = observations_of("3m", random_views, (50,))
    for name in ("updet", "asn_attention", "dt2gs"):
        published, ours = (
            logits_of(new_agent(name, changes=changes), obs).std(0).mean() for changes in (REFERENCE, {})
        )
        assert 0 < published < 0.1 * ours
