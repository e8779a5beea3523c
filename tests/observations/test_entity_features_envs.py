"""Entity tokens of every registered environment agree with the decoded units."""

import numpy as np
import pytest
import torch

from lolm_plugin import registry
from lolm_plugin.observations import build_layouts, sc2, smaclite
from lolm_plugin.observations.entity_features import ActorFeatures, CriticFeatures
from lolm_plugin.observations.layout import per_kind
from lolm_plugin.observations.units import UNKNOWN

from .entity_settings import ALLY, ENEMY, FULL, OWN, PUBLISHED


def random_state(state, rows, seed):
    """Return valid states [rows, size]. Each unit has one type bit and is dead with probability 0.3."""
    rng = np.random.default_rng(seed)
    parts = []
    for block in (state.allies, state.enemies):
        fields = rng.uniform(0.01, 1, (rows, block.rows, len(block.fields)))
        types = np.eye(max(len(block.kinds), 1))[rng.integers(len(block.kinds) or 1, size=(rows, block.rows))]
        alive = rng.random((rows, block.rows, 1)) >= 0.3
        parts.append((np.concatenate([fields, types[..., : len(block.kinds)]], -1) * alive).reshape(rows, -1))
    filled = np.concatenate(parts, -1)
    rest = np.zeros((rows, state.size - filled.shape[-1]))
    return torch.from_numpy(np.concatenate([filled, rest], -1)).float()


@pytest.fixture
def battles(layouts, random_views):
    """Return (layouts, states [6, size], observations [6, agents, size], masks [6, agents, actions])."""
    n_agents = layouts.observation.n_agents
    obs, mask = random_views(layouts.observation, 6 * n_agents, seed=3)
    return layouts, random_state(layouts.state, 6, 4), *(x.unflatten(0, (6, n_agents)) for x in (obs, mask))


def test_actor_tokens_are_the_decoded_units(battles):
    layouts, _, obs, _ = battles
    layout = layouts.observation
    n_agents, agents = layout.n_agents, torch.arange(layout.n_agents)
    seen = ActorFeatures(layout, FULL)(obs, agents)
    assert seen.features.shape == (6, n_agents, n_agents + layout.n_enemies, 22)
    assert seen.targets.shape == (6, n_agents, layout.n_targets)
    assert (seen.targets.dtype, seen.present.dtype, seen.features.dtype) == (torch.int64, torch.bool, torch.float32)
    observed = layout.decode(obs)
    assert torch.equal(seen.features.any(-1), seen.present)
    slices = {"own": slice(0, 1), "allies": slice(1, n_agents), "enemies": slice(n_agents, None)}
    flags = {"own": None, "allies": "visible", "enemies": "can_target"}
    numbers = ("dist", "dx", "dy", "health", "shield", "cooldown", "x", "y")
    columns = (1, 2, 3, 4, 5, 19, 20, 21)
    for role, (team, team_slice) in enumerate(slices.items()):
        units, tokens = getattr(observed, team), seen.features[..., team_slice, :]
        there = units.present
        assert torch.equal(seen.present[..., team_slice], there)
        flag = units.fields[flags[team]] if flags[team] else there.float()
        assert torch.equal(tokens[..., 0], flag)
        for column, name in zip(columns, numbers, strict=True):
            assert torch.equal(tokens[..., column], units.fields.get(name, torch.zeros_like(flag)))
        kinds = tokens[..., 6:16]
        assert torch.equal(kinds.sum(-1), (units.kind < UNKNOWN).float())
        assert torch.equal(kinds.argmax(-1)[there], units.kind[there])
        assert (tokens[there][:, 16 + role] == 1).all()
        assert (tokens[there][:, 16:19].sum(-1) == 1).all()


def test_targets_are_enemies_or_for_healers_allies(battles):
    layouts, _, obs, _ = battles
    layout = layouts.observation
    seen = ActorFeatures(layout, PUBLISHED)(obs, torch.arange(layout.n_agents))
    heals = layout.decode(obs).heals
    for b in range(len(obs)):
        for agent in range(layout.n_agents):
            by_id = [agent, *(i for i in range(layout.n_agents) if i != agent)]
            healed = [by_id.index(i) if i < layout.n_agents and i != agent else -1 for i in range(layout.n_targets)]
            attacked = [layout.n_agents + j if j < layout.n_enemies else -1 for j in range(layout.n_targets)]
            assert seen.targets[b, agent].tolist() == (healed if heals[b, agent] else attacked)


def test_the_dead_have_no_tokens(battles):
    layouts, state, obs, mask = battles
    layout = layouts.observation
    obs = obs.clone()
    obs[:, 0, : layout.own.end] = 0
    obs[:, 0, layout.own.end :] = 1  # only the timestep is left
    state = state.clone()
    state[:, : layouts.state.allies.width] = 0
    for seen in (
        ActorFeatures(layout, FULL)(obs, torch.arange(layout.n_agents)),
        CriticFeatures(layouts, FULL)(state, obs, mask),
    ):
        assert not seen.features[:, 0].any()
        assert not seen.present[:, 0].any()


def test_critic_features_are_the_state_from_the_view_of_each_agent(battles):
    """Compute the expected features agent by agent and unit by unit."""
    layouts, state, obs, mask = battles
    layout = layouts.observation
    entities = CriticFeatures(layouts, FULL)(state, obs, mask)
    allies, enemies = layouts.state.decode(state)
    observed = layout.decode(obs)
    sight = per_kind(layout.sight, observed.own.kind[..., 0])
    assert entities.features.shape == (6, layout.n_agents, layout.n_agents + layout.n_enemies, 26)
    assert (entities.targets[..., : layout.n_enemies] == torch.arange(layout.n_enemies) + layout.n_agents).all()
    assert (entities.targets[..., layout.n_enemies :] == -1).all()
    for b in range(3):
        for agent in range(layout.n_agents):
            by_id = [i for i in range(layout.n_agents) if i != agent]
            units = [("own", allies, agent, 0), *(("allies", allies, i, row) for row, i in enumerate(by_id))]
            units += [("enemies", enemies, j, j) for j in range(layout.n_enemies)]
            me = {name: float(allies.fields[name][b, agent]) for name in ("x", "y")}
            scale = layouts.cells / sight[b, agent] if layouts.cells else 1.0
            for token, (role, team, number, row) in enumerate(units):
                found = entities.features[b, agent, token]
                if not (team.present[b, number] and allies.present[b, agent]):
                    assert not found.any()
                    assert not entities.present[b, agent, token]
                    continue
                shown = {name: float(values[b, number]) for name, values in team.fields.items()}
                dx, dy = ((shown[name] - me[name]) * scale for name in ("x", "y"))
                cooldown, attackable = shown.get("cooldown", 0), 0
                if role == "enemies" and not observed.heals[b, agent]:
                    attackable = mask[b, agent, 6 + number]
                ready = {"own": 0, "allies": cooldown + shown.get("energy", 0), "enemies": attackable}[role]
                seen = getattr(observed, role).present[b, agent, row]
                expected = [role == "own", seen, (dx**2 + dy**2) ** 0.5, dx, dy, ready]
                expected += [shown["health"], shown.get("shield", 0), shown["x"], shown["y"]]
                expected += [kind == team.kind[b, number] for kind in range(UNKNOWN)]
                expected += [*{"own": OWN, "allies": ALLY, "enemies": ENEMY}[role], cooldown, shown["x"], shown["y"]]
                assert entities.present[b, agent, token]
                assert found.tolist() == pytest.approx([float(x) for x in expected], abs=1e-5)


def test_reordering_the_enemies_reorders_only_their_tokens(battles):
    layouts, state, obs, mask = battles
    layout = layouts.observation
    n_agents, n_enemies = layout.n_agents, layout.n_enemies

    def reversed_(block, flat):
        rows = block.units_of(flat).flip(-2)
        return torch.cat([flat[..., : block.start], rows.flatten(-2), flat[..., block.end :]], -1)

    attacks = mask[..., 6 : 6 + n_enemies].flip(-1)
    other_mask = torch.cat([mask[..., :6], attacks, mask[..., 6 + n_enemies :]], -1)
    others = reversed_(layouts.state.enemies, state), reversed_(layout.enemies, obs), other_mask
    order = [*range(n_agents), *reversed(range(n_agents, n_agents + n_enemies))]
    actor, critic = ActorFeatures(layout, FULL), CriticFeatures(layouts, FULL)
    before, after = (actor(x, torch.arange(n_agents)) for x in (obs, others[1]))
    assert torch.equal(after.features, before.features[..., order, :])
    assert n_enemies == 1 or not torch.equal(after.features, before.features)
    before, after = critic(state, obs, mask), critic(*others)
    assert torch.equal(after.features, before.features[..., order, :])


def test_any_leading_dimensions(battles):
    layouts, state, obs, mask = battles
    layout = layouts.observation
    agents = torch.arange(layout.n_agents)
    actor, critic = ActorFeatures(layout, FULL), CriticFeatures(layouts, FULL)
    together = actor(obs.unflatten(0, (2, 3)), agents)
    alone = [actor(obs[b, i], agents[i]) for b in range(6) for i in agents]
    one_by_one = actor(obs.flatten(0, 1), agents.repeat(6))
    views = critic(state.unflatten(0, (2, 3)), obs.unflatten(0, (2, 3)), mask.unflatten(0, (2, 3)))
    view = [critic(state[b], obs[b], mask[b]) for b in range(6)]
    for name in ("features", "present", "targets"):
        found = getattr(together, name)
        assert found.shape[:3] == (2, 3, layout.n_agents)
        assert torch.equal(found.flatten(0, 2), torch.stack([getattr(one, name) for one in alone]))
        assert torch.equal(found.flatten(0, 2), getattr(one_by_one, name))
        assert torch.equal(getattr(views, name).flatten(0, 1), torch.stack([getattr(one, name) for one in view]))


def test_all_maps_have_tokens_of_one_width(random_views):
    maps = [("sc2", name, sc2.sizes) for name in sc2.MAPS]
    maps += [("smaclite", name, smaclite.sizes) for name in smaclite.MAPS]
    for env, map_name, sizes in maps:
        layouts = build_layouts(env, {"map_name": map_name}, *sizes({"map_name": map_name}))
        layout = layouts.observation
        n = layout.n_agents + layout.n_enemies
        obs, mask = random_views(layout, layout.n_agents, seed=5)
        assert ActorFeatures(layout, PUBLISHED)(obs, torch.arange(layout.n_agents)).features.shape[-2:] == (n, 16)
        state = random_state(layouts.state, 1, 6)[0]
        assert CriticFeatures(layouts, PUBLISHED)(state, obs, mask).features.shape == (layout.n_agents, n, 20)


@pytest.mark.parametrize(("env", "map_name"), [("probe", "duel"), ("probe", "approach"), ("smax", "2s3z")])
def test_offsets_of_the_critic_are_those_of_the_actor(env, map_name):
    """In played battles, the tokens of actor and critic have the same offset for every visible unit."""
    battle = registry.load(registry.VECTOR_ENVS[env])(map_name, 8)
    layouts = build_layouts(env, {"map_name": map_name}, battle.n_agents, battle.n_actions)
    actor, critic = ActorFeatures(layouts.observation, PUBLISHED), CriticFeatures(layouts, PUBLISHED)
    battle.reset(np.arange(8, dtype=np.uint32))
    rng = np.random.default_rng(0)
    eager = [1, 1, 1, 1, 9, 1, *[9] * battle.n_enemies]  # towards the enemy
    sightings = 0
    for _ in range(12):
        state, obs, available = (torch.tensor(x) for x in (battle.state, battle.obs, battle.avail_actions))
        theirs = actor(obs, torch.arange(battle.n_agents))
        ours = critic(state, obs, available)
        both = theirs.present & ours.present
        assert torch.equal(ours.features[..., 1][ours.present] > 0, theirs.present[ours.present])
        torch.testing.assert_close(ours.features[..., 2:5][both], theirs.features[..., 1:4][both], atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.features[..., 6][both], theirs.features[..., 4][both])
        assert torch.equal(ours.features[..., 10:][both], theirs.features[..., 6:][both])
        enemies = slice(battle.n_agents, None)
        assert torch.equal(ours.features[..., enemies, 5], theirs.features[..., enemies, 0])
        sightings += int(both[..., enemies].sum())
        battle.step((rng.random(available.shape) * battle.avail_actions * eager).argmax(-1))
    assert sightings > 30
