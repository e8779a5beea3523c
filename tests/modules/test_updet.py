"""Tests of UPDeT: its depth and its memory token."""

import pytest
import torch
from torch import nn

from tests.modules.networks import new_agent, observations_of, zeros

AGENTS = torch.arange(3)


def test_features_are_computed_by_all_blocks_and_the_final_layer(random_views):
    agent = new_agent("updet", changes={"updet.depth": 3, "entity.mask_absent": False})
    assert len(agent.trunk.blocks) == 3
    entities = agent.entity_features(observations_of("3m", random_views, (4,)), AGENTS)
    encoded = agent.trunk.embed(entities.features)
    for block in agent.trunk.blocks:
        encoded, attention = block(encoded, encoded)
    agent.trunk.computes_all_units = True
    features = agent.trunk(entities, zeros(agent, 4, 3))
    assert torch.allclose(features.units, agent.trunk.final(encoded), atol=1e-5)
    assert torch.equal(features.own, features.units[..., 0, :])
    assert torch.equal(features.targets, features.units[..., 3:, :])
    assert torch.allclose(features.attention, attention, atol=1e-6)
    assert features.averaged.all()


@pytest.mark.parametrize(("form", "width"), [("updet recurrent", 192), ("updet paper", 32)])
def test_memory_changes_all_steps_but_the_first(form, width, random_views):
    agent, obs = new_agent(form), observations_of("3m", random_views, (2, 4))
    assert agent.hidden_width == width
    unrolled = agent.unroll(obs, zeros(agent, 4, 3), AGENTS)
    forgetful = [agent.evaluate(step, zeros(agent, 4, 3), AGENTS).logits for step in obs]
    assert torch.allclose(unrolled.logits[0], forgetful[0], atol=1e-6)
    assert ((unrolled.logits[1] - forgetful[1]).abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize(("form", "after"), [("updet recurrent", False), ("updet paper", True)])
def test_memory_is_taken_after_the_final_layer_if_widths_agree(form, after, random_views):
    agent = new_agent(form)
    nn.init.zeros_(agent.trunk.final.weight)
    nn.init.constant_(agent.trunk.final.bias, 0.7)
    output = agent.evaluate(observations_of("3m", random_views, (4,)), zeros(agent, 4, 3), AGENTS)
    assert (output.hidden == 0.7).all() == after


def test_units_attend_to_the_memory_without_another_embedding(random_views):
    agent, obs = new_agent("updet recurrent"), observations_of("3m", random_views, (4,))
    keys = []
    agent.trunk.blocks[0].register_forward_pre_hook(lambda module, inputs: keys.append(inputs[1]))
    memory = torch.randn(4, 3, 192)
    agent.evaluate(obs, memory, AGENTS)
    assert keys[0].shape == (4, 3, 7, 192)
    assert torch.equal(keys[0][..., 6, :], memory)
