"""Entity features against vectors computed by hand. ``test_entity_features_envs.py`` checks every environment."""

import json
from dataclasses import replace

import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations import build_layouts, smaclite
from lolm_plugin.observations import sc2 as smac
from lolm_plugin.observations.entity_features import ActorFeatures, CriticFeatures
from lolm_plugin.observations.units import NAMES, indices

from .entity_settings import ALLY, ENEMY, FULL, OWN, PUBLISHED, bits, entity


def sc2(map_name, **flags):
    battle = smac.MAPS[map_name]
    env_args = {"map_name": map_name, "state_last_action": False, **flags}
    return build_layouts("sc2", env_args, battle.n_agents, 6 + battle.n_enemies)


def near(rows):
    return pytest.approx(torch.tensor(rows).flatten().tolist(), abs=1e-6)


def flat(rows):
    return rows.flatten().tolist()


# --- Actors, by hand ---

STALKER, ZEALOT = [1, 0], [0, 1]  # allies' type bits on 2s3z; the enemies' are the other way round
ABSENT = [0.0] * 8


def view_of_2s3z():
    """Return what a stalker sees: a zealot as ally, enemy 0 (a zealot out of range) and enemy 4 (a stalker)."""
    enemies = [0, 0.8, 0.8, 0, 0.5, 0.25, *[1, 0]] + ABSENT * 3 + [1, 0.5, 0.3, -0.4, 0.75, 1, *[0, 1]]
    allies = ABSENT * 2 + [1, 0.25, -0.25, 0, 0.4, 0.2, *ZEALOT] + ABSENT
    return torch.tensor([1, 1, 0, 1, *enemies, *allies, 0.6, 0.3, *STALKER])


FEATURES_OF_2S3Z = [
    [1, 0, 0, 0, 0.6, 0.3, *bits("stalker")],
    [0.0] * 16,
    [0.0] * 16,
    [1, 0.25, -0.25, 0, 0.4, 0.2, *bits("zealot")],
    [0.0] * 16,
    [0, 0.8, 0.8, 0, 0.5, 0.25, *bits("zealot")],
    *[[0.0] * 16] * 3,
    [1, 0.5, 0.3, -0.4, 0.75, 1, *bits("stalker")],
]


def test_tokens_of_an_observation_of_2s3z():
    entity_features = ActorFeatures(sc2("2s3z").observation, PUBLISHED)
    seen = entity_features(view_of_2s3z(), torch.tensor(1))
    assert flat(seen.features) == near(FEATURES_OF_2S3Z)
    assert seen.features[9, 6 + 3] == 1  # bits [0, 1] of an enemy: a stalker, number 3 of the universe
    assert seen.present.nonzero().flatten().tolist() == [0, 3, 5, 9]
    assert seen.targets.tolist() == [5, 6, 7, 8, 9]
    assert entity_features.width == 16


def test_the_published_bug_swaps_the_enemies_types_and_nothing_else():
    layouts = sc2("2s3z")
    swapped = ActorFeatures(layouts.observation, entity(legacy_type_bug=True))(view_of_2s3z(), torch.tensor(1))
    expected = [list(row) for row in FEATURES_OF_2S3Z]
    expected[5][6:], expected[9][6:] = bits("stalker"), bits("zealot")
    assert flat(swapped.features) == near(expected)
    state, obs, available = battle_of_2s3z()
    right = CriticFeatures(layouts, PUBLISHED)(state, obs, available).features
    wrong = CriticFeatures(layouts, entity(legacy_type_bug=True))(state, obs, available).features
    there = right[0, 5:]
    assert torch.equal(wrong[0, 5:, [13, 14]], there[:, [14, 13]])
    assert there[:, [13, 14]].any()
    assert torch.equal(wrong[0, :5], right[0, :5])
    assert torch.equal(wrong[0, 5:, :10], there[:, :10])


def test_the_published_bug_is_also_in_a_state_of_observations():
    layouts = sc2("2s3z", obs_instead_of_state=True)
    obs = torch.stack([torch.zeros(80), view_of_2s3z(), *[torch.zeros(80)] * 3])
    available = torch.zeros(5, 11, dtype=torch.int32)
    right, wrong = (
        CriticFeatures(layouts, entity(legacy_type_bug=bug))(obs.flatten(), obs, available).features[1, 5]
        for bug in (False, True)
    )
    assert (right[10:].tolist(), wrong[10:].tolist()) == (bits("zealot"), bits("stalker"))


@pytest.mark.parametrize(("env", "map_name"), [("sc2", "MMM2"), ("sc2", "3s_vs_4z"), ("smaclite", "2s3z")])
def test_there_is_no_bug_if_both_sides_have_the_same_type_bits(env, map_name, random_views):
    sizes = {"sc2": smac.sizes, "smaclite": smaclite.sizes}[env]({"map_name": map_name})
    layout = build_layouts(env, {"map_name": map_name}, *sizes).observation
    obs, _ = random_views(layout, 20, seed=2)
    right, wrong = (
        ActorFeatures(layout, entity(legacy_type_bug=bug))(obs, torch.zeros(20, dtype=int)) for bug in (False, True)
    )
    assert torch.equal(right.features, wrong.features)


def test_the_published_bug_needs_the_same_types_on_both_sides():
    layout = sc2("2s3z").observation
    layout = replace(layout, enemies=replace(layout.enemies, kinds=indices("zergling", "stalker")))
    tokens = ActorFeatures(layout, entity(legacy_type_bug=True))(view_of_2s3z(), torch.tensor(1)).features
    assert tokens[5, 6:].tolist() == bits("zergling")


def test_roles_and_further_fields_follow_the_published_numbers():
    """SMAX shows the cooldowns of all units, but x and y of the agent alone. Two agents fight two enemies."""
    layout = build_layouts("smax", {"map_name": "2s_vs_2zg"}, 2, 8).observation
    kinds = [NAMES[kind] for kind in layout.own.kinds]

    def smax_bits(name):
        return [float(name == kind) for kind in kinds]

    enemy = [1, 0.5, 0.3, -0.4, 0.75, 0.25, *smax_bits("zergling")]
    ally = [1, 0.2, 0, 0.2, 1, 0.125, *smax_bits("marauder")]
    own = [0.5, 0.875, 0.25, 0.75, *smax_bits("stalker")]
    obs = torch.tensor([1, 0, 1, 0, *[0.0] * 12, *enemy, *ally, *own])
    entity_features = ActorFeatures(layout, FULL)
    assert entity_features.width == 22
    assert flat(entity_features(obs, torch.tensor(0)).features) == near(
        [
            [1, 0, 0, 0, 0.5, 0, *bits("stalker"), *OWN, 0.875, 0.25, 0.75],
            [1, 0.2, 0, 0.2, 1, 0, *bits("marauder"), *ALLY, 0.125, 0, 0],
            [0.0] * 22,
            [1, 0.5, 0.3, -0.4, 0.75, 0, *bits("zergling"), *ENEMY, 0.25, 0, 0],
        ]
    )
    only_role = ActorFeatures(layout, entity(role_flag=True))(obs, torch.tensor(0)).features
    assert only_role[..., 16:].tolist() == [OWN, ALLY, [0, 0, 0], ENEMY]


@pytest.mark.parametrize(("wrong", "hint"), [("cooldwon", r"\(did you mean cooldown\?\)"), ("mana", "; choose among")])
def test_a_field_that_no_environment_shows_is_refused(wrong, hint):
    with pytest.raises(ConfigError, match=f"entity.further_fields names {wrong}, .*{hint}"):
        ActorFeatures(sc2("3m").observation, entity(further_fields=[wrong]))


def test_a_vector_of_another_size_is_refused():
    layouts = sc2("2s3z")
    with pytest.raises(AssertionError, match="79 numbers, but the layout has 80"):
        ActorFeatures(layouts.observation, PUBLISHED)(torch.zeros(79), torch.tensor(0))
    with pytest.raises(AssertionError, match="64 numbers, but the state has 65"):
        CriticFeatures(layouts, PUBLISHED)(torch.zeros(64), torch.zeros(5, 80), torch.zeros(5, 11))


def test_a_marine_is_the_same_on_every_map_and_never_a_stalker():
    marine, protoss = sc2("3m").observation, sc2("3s5z").observation
    obs = torch.zeros(30)
    obs[29] = 0.5
    one = ActorFeatures(marine, PUBLISHED)(obs, torch.tensor(0)).features[0]
    obs = torch.zeros(128)
    obs[124:] = torch.tensor([0.5, 0, 1, 0])
    other = ActorFeatures(protoss, PUBLISHED)(obs, torch.tensor(0)).features[0]
    assert one.shape == other.shape
    assert one.tolist() == [1, 0, 0, 0, 0.5, 0, *bits("marine")]
    assert other.tolist() == [1, 0, 0, 0, 0.5, 0, *bits("stalker")]


# --- Targets of actions ---


def healer_of(layout, agent, name="medivac"):
    """Return the observation of an agent of type ``name`` that sees all allies. Their health encodes their ids."""
    obs = torch.zeros(layout.size)
    types = [float(NAMES[kind] == name) for kind in layout.own.kinds]
    obs[layout.own.start : layout.own.end] = torch.tensor([1.0, *types])
    for row, other in enumerate(i for i in range(layout.n_agents) if i != agent):
        start = layout.allies.start + row * layout.allies.width
        obs[start : start + 6] = torch.tensor([1, 0.5, 0.5, 0, (other + 1) / 100, 1])
    return obs


@pytest.mark.parametrize("map_name", ["MMM", "MMM2"])
def test_a_healers_target_is_the_ally_of_that_number(map_name):
    layout = sc2(map_name).observation
    entity_features = ActorFeatures(layout, PUBLISHED)
    for agent in range(layout.n_agents):
        seen = entity_features(healer_of(layout, agent), torch.tensor(agent))
        assert len(seen.targets) == layout.n_targets
        for target, token in enumerate(seen.targets.tolist()):
            if target == agent or target >= layout.n_agents:
                assert token == -1
            else:
                assert seen.features[token, 4].item() == pytest.approx((target + 1) / 100)


def test_a_marine_attacks_and_so_does_a_healer_with_heal_mode_ignore():
    layout = sc2("MMM2").observation
    attacks = list(range(10, 22))
    assert ActorFeatures(layout, PUBLISHED)(healer_of(layout, 4, "marine"), torch.tensor(4)).targets.tolist() == attacks
    ignoring = ActorFeatures(layout, entity(heal_mode="ignore"))
    assert ignoring(healer_of(layout, 9), torch.tensor(9)).targets.tolist() == attacks


@pytest.mark.parametrize(("heal_mode", "flag"), [("ally_tokens", 0), ("ignore", 1)])
def test_a_healers_flag_of_an_enemy_is_kept_only_with_heal_mode_ignore(heal_mode, flag):
    layouts = sc2("MMM2")
    obs = healer_of(layouts.observation, 9)
    obs[4:12] = torch.tensor([1, 0.5, 0.5, 0, 1, 0, 1, 0])
    token = ActorFeatures(layouts.observation, entity(heal_mode=heal_mode))(obs, torch.tensor(9)).features[10]
    assert token[:5].tolist() == [flag, 0.5, 0.5, 0, 1]
    state = torch.zeros(142)
    state[63:70] = torch.tensor([0.5, 0.25, 0.1, -0.1, 0, 0, 1])  # agent 9
    state[70:76] = torch.tensor([0.5, 0.2, -0.1, 1, 0, 0])  # enemy 0
    available = torch.zeros(10, 18)
    available[9, 6] = 1
    every_obs = torch.zeros(10, 176)
    every_obs[9] = obs
    critic = CriticFeatures(layouts, entity(heal_mode=heal_mode))(state, every_obs, available).features
    assert critic[9, 10, 5] == flag


def test_further_targets_are_allies_or_none(tmp_path):
    """Four marines and a medivac fight two enemies: there are four target actions, an attacker has two."""
    content = {
        "num_allied_units": 5,
        "num_enemy_units": 2,
        "groups": [
            {"faction": "ALLY", "units": {"MARINE": 4, "MEDIVAC": 1}},
            {"faction": "ENEMY", "units": {"MARINE": 2}},
        ],
        "num_unit_types": 2,
        "unit_type_ids": {"MARINE": 0, "MEDIVAC": 1},
        "ally_has_shields": False,
        "enemy_has_shields": False,
    }
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    env_args = {"map_name": "custom", "map_file": str(path)}
    layouts = build_layouts("smaclite", env_args, *smaclite.sizes(env_args))
    layout = layouts.observation
    entity_features = ActorFeatures(layout, PUBLISHED)
    obs = torch.stack([healer_of(layout, 2, "marine"), healer_of(layout, 4)])
    assert entity_features(obs, torch.tensor([2, 4])).targets.tolist() == [[5, 6, -1, -1], [1, 2, 3, 4]]
    ignoring = ActorFeatures(layout, entity(heal_mode="ignore"))
    assert ignoring(obs, torch.tensor([2, 4])).targets.tolist() == [[5, 6, -1, -1]] * 2
    assert layouts.cells is None  # the file may have another map size
    critic = CriticFeatures(layouts, PUBLISHED)
    views = critic(torch.zeros(layouts.state.size), torch.zeros(5, layout.size), torch.zeros(5, layout.n_actions))
    assert views.targets.tolist() == [[5, 6, -1, -1]] * 5


# --- Critics, by hand ---


def test_tokens_of_a_state_of_the_probe():
    """Positions and offsets are shares of 9 cells. One enemy is 3 north, one is 12 west and out of sight."""
    layouts = build_layouts("probe", {"map_name": "target"}, 1, 9)
    state = torch.tensor([0.5, 0.1, 0.2, 0.9, 0.1, 0.2 + 3 / 9, 0.0, 0, 0, 0.4, 0.1 - 12 / 9, 0.2])
    obs = torch.tensor([[1, 1, 1, 1, 1, 3 / 9, 0, 3 / 9, 0.9, *[0.0] * 10, 0.5]])
    available = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 0, 0]])
    entity_features = CriticFeatures(layouts, entity(role_flag=True, further_fields=["x"]))
    seen = entity_features(state, obs, available)
    assert entity_features.width == 24
    assert flat(seen.features) == near(
        [
            [1, 1, 0, 0, 0, 0, 0.5, 0, 0.1, 0.2, *bits("marine"), *OWN, 0.1],
            [0, 1, 3 / 9, 0, 3 / 9, 1, 0.9, 0, 0.1, 0.2 + 3 / 9, *bits("marine"), *ENEMY, 0.1],
            [0.0] * 24,
            [0, 0, 12 / 9, -12 / 9, 0, 0, 0.4, 0, 0.1 - 12 / 9, 0.2, *bits("marine"), *ENEMY, 0.1 - 12 / 9],
        ]
    )
    assert seen.present.tolist() == [[True, True, False, True]]
    assert seen.targets.tolist() == [[1, 2, 3]]


def battle_of_2s3z():
    """Return a battle. Agents 0 (stalker) and 3 (zealot) and enemies 1 (zealot) and 4 (stalker) live.

    Agent 0 sees agent 3. Agent 3 sees agent 0 and enemy 1.
    """
    state = torch.zeros(65)
    state[0:7] = torch.tensor([0.5, 0.75, 0.1, 0.2, 0.25, *STALKER])
    state[21:28] = torch.tensor([1, 0.125, 0.4, -0.2, 0.5, *ZEALOT])
    state[35 + 6 : 35 + 12] = torch.tensor([0.75, 0.5, -0.2, 0.0, 1, 0])
    state[35 + 24 : 35 + 30] = torch.tensor([0.25, -0.2, 0.6, 1.0, 0, 1])
    obs = torch.zeros(5, 80)
    obs[0, 76:] = torch.tensor([0.5, 0.25, *STALKER])
    obs[0, 44 + 16 : 44 + 24] = torch.tensor([1, 0.9, 0.54, -0.72, 1, 0.5, *ZEALOT])
    obs[3, 76:] = torch.tensor([1, 0.5, *ZEALOT])
    obs[3, 44 : 44 + 8] = torch.tensor([1, 0.9, -0.54, 0.72, 0.5, 0.25, *STALKER])
    obs[3, 4 + 8 : 4 + 16] = torch.tensor([1, 0.3, 0.3, 0, 0.75, 0, 1, 0])
    available = torch.zeros(5, 11, dtype=torch.int32)
    available[[1, 2, 4], 0] = 1
    available[[0, 3], 1] = 1
    available[3, 6 + 1] = 1
    return state, obs, available


def test_tokens_of_a_state_of_2s3z_for_each_agent():
    """SMAC divides positions by the map's size, which is not in the configuration. Offsets are in that unit."""
    seen = CriticFeatures(sc2("2s3z"), PUBLISHED)(*battle_of_2s3z())
    absent = [0.0] * 20
    assert flat(seen.features[0]) == near(
        [
            [1, 1, 0, 0, 0, 0, 0.5, 0.25, 0.1, 0.2, *bits("stalker")],
            *[absent] * 2,
            [0, 1, 0.5, 0.3, -0.4, 0.125, 1, 0.5, 0.4, -0.2, *bits("zealot")],
            *[absent] * 2,
            [0, 0, 0.4 * 2**0.5, 0.4, -0.4, 0, 0.75, 0, 0.5, -0.2, *bits("zealot")],
            *[absent] * 2,
            [0, 0, 0.5, -0.3, 0.4, 0, 0.25, 1, -0.2, 0.6, *bits("stalker")],
        ]
    )
    assert flat(seen.features[3]) == near(
        [
            [1, 1, 0, 0, 0, 0, 1, 0.5, 0.4, -0.2, *bits("zealot")],
            [0, 1, 0.5, -0.3, 0.4, 0.75, 0.5, 0.25, 0.1, 0.2, *bits("stalker")],
            *[absent] * 4,
            [0, 1, 0.1, 0.1, 0, 1, 0.75, 0, 0.5, -0.2, *bits("zealot")],
            *[absent] * 2,
            [0, 0, 1, -0.6, 0.8, 0, 0.25, 1, -0.2, 0.6, *bits("stalker")],
        ]
    )
    assert seen.present.any(-1).tolist() == [True, False, False, True, False]
    assert not seen.features[[1, 2, 4]].any()


def test_an_ally_that_heals_shows_its_energy():
    layouts = sc2("MMM2")
    state = torch.zeros(142)
    state[0:7] = torch.tensor([1, 0.4, 0.1, -0.1, 1, 0, 0])
    state[63:70] = torch.tensor([0.5, 0.25, 0.1, -0.1, 0, 0, 1])
    obs = torch.stack([healer_of(layouts.observation, 0, "marauder")] * 10)
    entities = CriticFeatures(layouts, entity(further_fields=["cooldown", "energy"]))(state, obs, torch.zeros(10, 18))
    assert entities.features[0, 9, 5] == 0.25
    assert entities.features[9, 1, 5].item() == pytest.approx(0.4)
    assert entities.features[9, 0, [5, 20, 21]].tolist() == [0, 0, 0.25]


@pytest.mark.parametrize("own_pos", [False, True])
def test_a_state_of_observations_has_offsets_only_of_agents_with_positions(own_pos):
    layouts = sc2("3m", obs_instead_of_state=True, obs_own_pos=own_pos)
    layout = layouts.observation
    obs = torch.zeros(3, layout.size)
    obs[:2, layout.own.start] = torch.tensor([0.5, 0.75])
    obs[0, 4:9] = torch.tensor([0, 0.8, 0.8, 0, 0.3])
    if own_pos:
        obs[:2, layout.own.start + 1 :] = torch.tensor([[0.5, 0.25], [0.75, 0.25]])
    tokens = CriticFeatures(layouts, PUBLISHED)(obs.flatten(), obs, torch.zeros(3, 9)).features
    away = 0.25 if own_pos else 0
    assert tokens[0, 1, [2, 3, 4, 6]].tolist() == [away, away, 0, 0.75]
    assert tokens[1, 1, [2, 3, 4, 6]].tolist() == [away, -away, 0, 0.5]
    assert tokens[1, 3, :7].tolist() == pytest.approx([0, 0, 0, 0, 0, 0, 0.3])


@pytest.mark.parametrize(
    ("env", "unit", "share"),
    [("smax", "stalker", 8 / 10), ("smax", "zealot", 8 / 9), ("smaclite", "stalker", 8 / 9), ("sc2", "stalker", 0.25)],
)
def test_offsets_are_shares_of_the_sight_if_the_map_size_is_known(env, unit, share):
    """An enemy is a quarter of the map to the east: 8 cells on maps of 32."""
    layouts = build_layouts(env, {"map_name": "2s3z", "state_last_action": False}, 5, 11)
    layout, state = layouts.observation, torch.zeros(layouts.state.size)
    allies, enemies = layouts.state.allies, layouts.state.enemies
    x = allies.fields.index("x")
    state[[0, x]] = torch.tensor([1, -0.125])
    x = enemies.start + enemies.fields.index("x")
    state[[enemies.start, x]] = torch.tensor([1, 0.125])
    obs = torch.zeros(5, layout.size)
    types = [float(NAMES[kind] == unit) for kind in layout.own.kinds]
    obs[0, layout.own.start] = 1
    obs[0, layout.own.end - len(types) : layout.own.end] = torch.tensor(types)
    token = CriticFeatures(layouts, PUBLISHED)(state, obs, torch.zeros(5, 11)).features[0, 5]
    assert token[1:5].tolist() == pytest.approx([0, share, share, 0])
