"""Tests of all trunks: selecting targets, stacking steps, learning a toy battle."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from lolm_plugin.modules.trunks.trunk import Features, at_index, gather_units
from lolm_plugin.observations.entity_features import EntityFeatures
from tests.modules.networks import TRUNKS, new_agent, zeros


def test_picked_units_by_hand():
    units = torch.arange(12.0).view(2, 3, 2)
    picked = gather_units(units, torch.tensor([[2, 0, -1], [1, 1, 2]]))
    assert picked[0, :2].tolist() == [[4, 5], [0, 1]]
    assert picked[1].tolist() == [[8, 9], [8, 9], [10, 11]]


def test_every_field_of_the_features_is_mapped():
    def features(value):
        return Features(*[torch.full((2,), value)] * 5, losses={"a": torch.tensor([value])}, subtask=torch.ones(1))

    both = features(1.0).map(lambda *values: torch.stack(values), features(2.0))
    assert both.own.tolist() == both.memory.tolist() == [[1, 1], [2, 2]]
    assert both.losses["a"].tolist() == [[1], [2]]
    assert both.subtask.shape == (2, 1)
    assert both.attention is None


def test_entity_features_at_an_index():
    entities = EntityFeatures(torch.rand(3, 2, 4, 5), torch.ones(3, 2, 4), torch.zeros(3, 2, 1))
    one = at_index(entities, 1)
    assert torch.equal(one.features, entities.features[1])
    assert (one.present.shape, one.targets.shape) == ((2, 4), (2, 1))


def toy_battle(battles, width):
    """Draw entity features of an agent, two allies and four enemies; return also the index of the weakest enemy."""
    features = torch.zeros(battles, 3, 7, width)
    features[..., :3, 0] = 1
    features[..., 3:, 0] = torch.randint(2, (battles, 3, 4))
    features[..., 1:, 1:4] = torch.rand(battles, 3, 6, 3) * 2 - 1
    features[..., 4] = torch.rand(battles, 3, 7)
    features[..., 6] = 1
    features[..., 16:19] = functional.one_hot(torch.tensor([0, 1, 1, 2, 2, 2, 2]), 3)
    targets = torch.arange(3, 7).expand(battles, 3, 4)
    return EntityFeatures(features, torch.ones(battles, 3, 7, dtype=torch.bool), targets), features[..., 3:, 4].argmin(
        -1
    )


@pytest.mark.parametrize("name", TRUNKS)
def test_a_trunk_learns_to_attack_the_weakest_enemy(name):
    torch.manual_seed(0)
    agent = new_agent(name, changes={"entity.further_fields": []})
    optimiser = torch.optim.Adam(agent.parameters(), lr=5e-4)
    generator, losses = np.random.default_rng(0), []
    for _ in range(120):
        entities, weakest = toy_battle(64, agent.entity_features.width)
        features = agent.trunk(entities, zeros(agent, 64, 3), agent.noise((64, 3), generator))
        logits = agent.head(features.own, features.targets, entities.targets)
        losses.append(functional.cross_entropy(logits.flatten(0, 1), 6 + weakest.flatten()))
        optimiser.zero_grad()
        (losses[-1] + sum(loss.mean() for loss in features.losses.values())).backward()
        optimiser.step()
    assert losses[0].item() == pytest.approx(math.log(10), abs=0.1)
    assert torch.stack(losses[-10:]).mean() < 0.7
