"""Tests of every registered entity network: any order and number of units, absent units, and roles."""

import pytest
import torch

from lolm_plugin.observations.layout import N_BASE_ACTIONS
from lolm_plugin.observations.units import HEALERS
from tests.modules.networks import (
    ENTITY_FORMS,
    ORDINARY,
    TRUNKS,
    drawn,
    layouts_of,
    network_args,
    new_agent,
    observations_of,
    random_entities,
    zeros,
)

MAP, AGENTS = "3s5z", torch.arange(8)


@pytest.fixture(params=ENTITY_FORMS)
def form(request):
    return request.param


def play(agent, obs, agents=AGENTS):
    """Compute two steps with noise, from observations [2, battles, agents, size]."""
    return agent.unroll(obs, zeros(agent, *obs.shape[1:3]), agents, drawn(agent, *obs.shape[:3]))


def reordered(layout, obs, side, order):
    """Reorder the units of one side in observations."""
    block = getattr(layout, side)
    return torch.cat(
        [obs[..., : block.start], block.units_of(obs)[..., order, :].flatten(-2), obs[..., block.end :]], dim=-1
    )


def test_attack_logits_are_equivariant_to_the_order_of_enemies(form, random_views):
    agent, obs = new_agent(form, MAP), observations_of(MAP, random_views, (2, 4))
    order = torch.tensor([3, 0, 7, 1, 2, 6, 5, 4])
    before = play(agent, obs)
    after = play(agent, reordered(agent.entity_features.layout, obs, "enemies", order))
    base, attacks = before.logits.split([N_BASE_ACTIONS, 8], dim=-1)
    assert attacks.std(-1).min() > 1e-3
    assert torch.allclose(after.logits, torch.cat([base, attacks[..., order]], dim=-1), atol=1e-4)
    assert torch.allclose(after.hidden, before.hidden, atol=1e-4)


def test_the_order_of_allies_has_no_effect(form, random_views):
    agent, obs = new_agent(form, MAP), observations_of(MAP, random_views, (2, 4))
    before = play(agent, obs)
    after = play(agent, reordered(agent.entity_features.layout, obs, "allies", torch.tensor([3, 0, 6, 1, 2, 5, 4])))
    assert torch.allclose(after.logits, before.logits, atol=1e-4)
    assert torch.allclose(after.hidden, before.hidden, atol=1e-4)


@pytest.mark.parametrize(("small", "large"), [("3m", "27m_vs_30m"), ("3s_vs_4z", "3s_vs_5z"), ("2s_vs_1sc", "MMM2")])
def test_the_same_weights_work_on_every_map(form, small, large, random_views):
    source, target = new_agent(form, small), new_agent(form, large, seed=2)
    target.load_state_dict(source.state_dict(), strict=True)
    obs = observations_of(large, random_views, (2, 1))
    logits = play(target, obs, torch.arange(target.n_agents)).logits
    assert logits.shape == (2, 1, target.n_agents, target.entity_features.layout.n_actions)
    assert logits.isfinite().all()


def test_absent_units_get_attention_only_without_mask_absent(form, random_views):
    obs = observations_of(MAP, random_views, (2, 4))
    obs[:, 0, 0] = 0
    for mask in (True, False):
        agent = new_agent(form, MAP, changes={**ORDINARY, "entity.mask_absent": mask})
        absent = ~agent.entity_features(obs, AGENTS).present
        assert 0.2 < absent.float().mean() < 0.6
        attention = play(agent, obs).attention
        if attention is None:
            continue
        absent[..., 0] = False
        assert (attention[~absent] > 0).all()
        assert (attention[absent] == 0).all() == mask
        assert torch.allclose(attention.sum(-1), torch.ones(2, 4, 8), atol=1e-5)
        if mask:
            assert attention[0, 0, 0, 0] == 1, "dead agents attend to themselves"


@pytest.mark.parametrize("form", [form for form in ENTITY_FORMS if "dt2gs" not in form])
def test_absent_units_have_no_effect(form):
    """Compare entity features with and without absent units. Not for DT2GS: as published, every unit has a Gaussian."""
    agent = new_agent(form)
    trunk, entities = agent.trunk, random_entities(agent.entity_features.width, 3, 4, 6)
    trunk.computes_all_units = True
    memory = torch.randn(6, trunk.memory_width)
    for absent in ([2], [1, 3], [5, 7]):
        entities.features[:, absent], entities.present[:, absent] = 0, False
        left = [i for i in range(8) if entities.present[0, i]]
        targets = torch.tensor([left.index(i) for i in range(4, 8) if i in left])
        fewer = type(entities)(entities.features[:, left], entities.present[:, left], targets.expand(6, -1))
        with_absent, without = trunk(entities, memory), trunk(fewer, memory)
        kept = [i - 4 for i in range(4, 8) if i in left]
        assert torch.allclose(with_absent.own, without.own, atol=1e-5)
        assert torch.allclose(with_absent.targets[:, kept], without.targets, atol=1e-5)
        assert torch.allclose(with_absent.memory, without.memory, atol=1e-5)
        averaged, all_averaged = (
            (features.units * features.averaged.unsqueeze(-1)).sum(-2) for features in (with_absent, without)
        )
        assert torch.allclose(averaged, all_averaged, atol=1e-4)


@pytest.mark.parametrize("form", ENTITY_FORMS)
def test_features_of_other_units_do_not_change_a_policy(form):
    agent = new_agent(form, changes=ORDINARY)
    trunk, entities = agent.trunk, random_entities(agent.entity_features.width, 3, 4, 6)
    memory = torch.randn(6, trunk.memory_width)
    outputs = []
    for computes_all_units in (False, True):
        trunk.computes_all_units = computes_all_units
        features = trunk(entities, memory)
        outputs.append((agent.head(features.own, features.targets, entities.targets), features.memory))
    assert torch.allclose(outputs[0][0], outputs[1][0], atol=1e-4)
    assert torch.allclose(outputs[0][1], outputs[1][1], atol=1e-5)


@pytest.mark.parametrize("role_flag", [True, False])
@pytest.mark.parametrize("form", TRUNKS)
def test_the_role_flag_distinguishes_allies_from_enemies(form, role_flag):
    """Swap an ally and an enemy. As published (no role flag), attention does not distinguish the two sides."""
    agent = new_agent(form, changes={**ORDINARY, "entity.role_flag": role_flag, "entity.further_fields": []})
    entities = random_entities(agent.entity_features.width, 2, 3, 6)
    if role_flag:
        entities.features[..., 16:] = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    swapped = entities.features.clone()
    swapped[:, 1, :16], swapped[:, 4, :16] = entities.features[:, 4, :16], entities.features[:, 1, :16]
    before, after = (
        agent.head(features.own, features.targets, entities.targets)[:, :N_BASE_ACTIONS]
        for features in (
            agent.trunk(each, zeros(agent, 6))
            for each in (entities, type(entities)(swapped, entities.present, entities.targets))
        )
    )
    if form in ("updet", "asn_attention", "dt2gs") or role_flag:
        assert torch.allclose(before, after, atol=1e-5) != role_flag
    if role_flag:
        assert ((before - after).abs().amax(-1) > 1e-4).all()


def test_a_healers_target_logits_depend_on_its_allies(form, random_views):
    layout = layouts_of(network_args(map_name="MMM")).observation
    obs = observations_of("MMM", random_views, (40,), unseen=0.0)
    heals = torch.isin(layout.decode(obs).own.kind[..., 0], torch.tensor(HEALERS))
    row, healer = (int(where[0]) for where in heals.nonzero(as_tuple=True))
    agent = new_agent(form, "MMM")
    start = zeros(agent, 40, 10)

    def targets(obs):
        return agent.evaluate(obs, start, torch.arange(10)).logits[row, healer, N_BASE_ACTIONS:]

    before = targets(obs)
    assert before[healer] == 0, "a healer has no token as its own target"
    # Swapping two allies swaps only the logits of their actions.
    first, second = sorted({1, 4, 7} - {healer})[:2]
    ids = [i for i in range(10) if i != healer]
    order, swapped = torch.arange(9), torch.arange(10)
    rows = [ids.index(first), ids.index(second)]
    order[rows], swapped[[first, second]] = order[rows[::-1]], swapped[[second, first]]
    assert (before[first] - before[second]).abs() > 1e-4
    assert torch.allclose(targets(reordered(layout, obs, "allies", order)), before[swapped], atol=1e-5)
    assert torch.allclose(targets(reordered(layout, obs, "enemies", torch.arange(10).flip(0))), before, atol=1e-5)
