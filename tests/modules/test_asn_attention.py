"""Tests of ASN-Attention: a case computed by hand, and its action semantics."""

import pytest
import torch
from torch import nn

from lolm_plugin.modules.trunks.asn_attention import ASNAttention
from lolm_plugin.observations.entity_features import EntityFeatures
from tests.modules.networks import random_entities, settings

ENTITY = {"init_gain": 1.5, "mask_absent": False}


def new_trunk(entity_width=2, **shape):
    return ASNAttention(entity_width, settings()["asn_attention"] | {"layer_norm": False} | shape, ENTITY)


def all_present(rows, n_allies):
    entities = torch.tensor(rows)
    targets = torch.arange(1 + n_allies, len(rows))
    return EntityFeatures(entities, torch.ones(len(rows), dtype=torch.bool), targets)


def test_features_and_logits_by_hand():
    trunk = new_trunk(head_width=2, heads=1, feature_width=2)
    for layer in (trunk.embed, trunk.attention.value, trunk.embed_target, trunk.final):
        nn.init.eye_(layer.weight)
    for layer in (trunk.attention.query, trunk.attention.key):
        nn.init.zeros_(layer.weight)
    head = trunk.make_head()
    nn.init.ones_(head.actions.weight)
    entities = all_present([[1.0, 0], [0, 1], [1, 1], [2, 0]], n_allies=1)
    features = trunk(entities, torch.zeros(0))
    assert features.own.tolist() == pytest.approx([1, 0.5])
    assert features.attention.tolist() == pytest.approx([0.25] * 4)
    logits = head(features.own, features.targets, entities.targets)
    assert logits.tolist() == pytest.approx([1.5] * 6 + [1.5, 2.0])
    assert features.units.shape == (3, 2)  # a critic averages the agent and the enemies


@pytest.mark.parametrize("combine", ["hadamard", "inner"])
def test_an_enemys_token_changes_other_actions_only_through_the_environment(combine):
    trunk = new_trunk(5, combine=combine)
    head = trunk.make_head()
    torch.manual_seed(0)
    nn.init.zeros_(trunk.attention.value.weight)
    nn.init.normal_(trunk.attention.value.bias)
    entities = random_entities(5, 2, 4, 8)
    changed = entities.features.clone()
    changed[:, 5] += torch.randn(8, 5)
    before, after = (
        head(features.own, features.targets, entities.targets)
        for features in (
            trunk(EntityFeatures(each, entities.present, entities.targets), torch.zeros(8, 0))
            for each in (entities.features, changed)
        )
    )
    moved = (after - before).abs()
    assert (moved[:, 6 + 2] > 1e-4).all()
    assert torch.allclose(moved[:, [*range(8), 9]], torch.zeros(8, 9), atol=1e-5)


def test_features_are_products_of_environment_and_enemy_embeddings():
    trunk, entities = new_trunk(5), random_entities(5, 2, 3, 8)
    embedded = trunk.embed(entities.features)
    environment = trunk.attention(embedded[:, :1], embedded)[0]
    enemies = trunk.embed_target(entities.features[:, 3:])
    features = trunk(entities, torch.zeros(8, 0))
    assert torch.allclose(features.own, trunk.final(environment[:, 0]), atol=1e-6)
    assert torch.allclose(features.targets, trunk.final(environment * enemies), atol=1e-6)


def test_inner_logits_are_inner_products():
    trunk, entities = new_trunk(5, combine="inner"), random_entities(5, 2, 3, 8)
    features = trunk(entities, torch.zeros(8, 0))
    head = trunk.make_head()
    logits = head(features.own, features.targets, entities.targets)
    enemies = trunk.embed_target(entities.features[:, 3:])
    assert torch.allclose(logits[:, 6:], (features.own.unsqueeze(1) * enemies).sum(-1) / 192**0.5, atol=1e-5)
    assert head.actions.weight.shape == (6, 192)


def test_environment_and_targets_are_normalised_before_their_product():
    trunk, entities = new_trunk(5, layer_norm=True), random_entities(5, 2, 3, 8)
    embedded = trunk.embed(entities.features)
    environment = nn.functional.layer_norm(trunk.attention(embedded[:, :1], embedded)[0], [192])
    enemies = nn.functional.layer_norm(trunk.embed_target(entities.features[:, 3:]), [192])
    features = trunk(entities, torch.zeros(8, 0))
    assert torch.allclose(features.own, trunk.final(environment[:, 0]), atol=1e-5)
    assert torch.allclose(features.targets, trunk.final(environment * enemies), atol=1e-5)


def test_one_network_accepts_different_numbers_of_enemies():
    trunk = new_trunk(5)
    for n_enemies in (1, 4, 2):
        features = trunk(random_entities(5, 2, n_enemies, 8), torch.zeros(8, 0))
        assert features.targets.shape == (8, n_enemies, 64)


def test_memory_is_the_state_of_a_gru_on_the_environment():
    trunk, entities = new_trunk(5, recurrent=True, combine="inner"), random_entities(5, 2, 3, 8)
    assert trunk.memory_width == 192
    cell = nn.GRUCell(192, 192)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in trunk.gru.state_dict().items()})
    embedded, memory = trunk.embed(entities.features), torch.randn(8, 192)
    expected = cell(trunk.attention(embedded[:, :1], embedded)[0][:, 0], memory)
    features = trunk(entities, memory)
    assert torch.allclose(features.memory, expected, atol=1e-6)
    assert torch.allclose(features.own, expected, atol=1e-6)


def test_only_present_units_are_counted():
    trunk = ASNAttention(5, settings()["asn_attention"], {"init_gain": 1.0, "mask_absent": True})
    entities = random_entities(5, 1, 3, 1)
    entities.present[0, [1, 3]] = False
    features = trunk(EntityFeatures(entities.features, entities.present, torch.tensor([[2, 3, -1]])), torch.zeros(1, 0))
    assert features.averaged.tolist() == [[True, True, False, False]]
