"""Decoded scenes of vectors written by hand."""

import math
from dataclasses import replace

import pytest
import torch

from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.layout import KINDS
from lolm_plugin.observations.smax import SHOOT_RANGE, SIGHT
from lolm_plugin.observations.units import NAMES, UNKNOWN
from tests.prompts.plain_scene import scenes

MARINE, ZEALOT = [1.0, 0, 0, 0, 0, 0], [0, 0, 0, 1.0, 0, 0]
SEEN_ALLY = [1, 0.5, 0.3, -0.4, 0.75, 0, *MARINE]
SEEN_ENEMY = [1, 0.2, 0, 0.2, 1, 0.5, *ZEALOT]
ABSENT = [0.0] * 12
OWN = [0.5, 0.25, 0.125, 0.75, *MARINE]
MASK = [0, 1, 1, 0, 0, 1, 0, 1]


@pytest.fixture
def layout():
    """Return the layout of three marines against two zealots."""
    return build_layouts("smax", {"map_name": "3m_vs_2z"}, n_agents=3, n_actions=8).observation


def see(layout, agent, dynamic=True):
    """Return a scene: enemy 1 and the second ally are present, enemy 0 and the first ally are absent."""
    obs = torch.tensor([[1, 0, 0, 1, *ABSENT, *SEEN_ENEMY, *ABSENT, *SEEN_ALLY, *OWN]])
    return scenes(layout, obs, torch.tensor([MASK]), torch.tensor([agent]), dynamic)[0]


def test_distances_are_in_cells_and_shares_stay_shares(layout):
    (enemy,) = see(layout, agent=0).enemies
    assert (enemy.side, enemy.number, enemy.kind, enemy.seen) == ("enemy", 1, "zealot", True)
    assert (enemy.distance, enemy.east, enemy.north) == pytest.approx((1.8, 0, 1.8))
    assert (enemy.health, enemy.shield, enemy.cooldown) == (1, None, 0.5)
    (ally,) = see(layout, agent=0).allies
    assert (ally.distance, ally.east, ally.north) == pytest.approx((4.5, 2.7, -3.6))
    assert (ally.side, ally.kind, ally.health) == ("ally", "marine", 0.75)


def test_distances_are_computed_as_python_would(layouts, random_views):
    layout = layouts.observation
    obs, mask = random_views(layout, 20, seed=2)
    observed = layout.decode(obs)
    for row, scene in enumerate(scenes(layout, obs, mask, torch.zeros(20, dtype=torch.long), dynamic=False)):
        for i, enemy in enumerate(scene.enemies):
            shares = [observed.enemies.fields[name][row, i].item() for name in ("dist", "dx", "dy")]
            cells = [share * observed.sight[row].item() for share in shares]
            assert [enemy.distance, enemy.east, enemy.north] == cells


def test_the_observer_knows_its_number_kind_and_condition(layout):
    me = see(layout, agent=2).me
    assert (me.number, me.kind, me.health, me.shield, me.cooldown) == (2, "marine", 0.5, None, 0.25)
    assert (me.x, me.y) == (0.125, 0.75)


@pytest.mark.parametrize(("agent", "others"), [(0, [1, 2]), (1, [0, 2]), (2, [0, 1])])
def test_ids_of_allies_skip_the_observer(layout, agent, others):
    assert [ally.number for ally in see(layout, agent, dynamic=False).allies] == others
    assert [ally.number for ally in see(layout, agent).allies] == others[1:]


def test_without_dynamic_every_unit_stays_and_the_absent_are_marked(layout):
    scene = see(layout, agent=0, dynamic=False)
    assert [enemy.seen for enemy in scene.enemies] == [False, True]
    assert [ally.seen for ally in scene.allies] == [False, True]
    assert (scene.enemies[0].number, scene.enemies[0].distance, scene.enemies[0].health) == (0, 0, 0)


def test_only_available_actions_are_named(layout):
    assert see(layout, agent=0).actions == ("stop", "move north", "move west", "attack enemy 1")


def test_rows_are_independent(layout, random_views):
    obs, mask = random_views(layout, 4, seed=3)
    agents = torch.tensor([0, 1, 2, 0])
    together = scenes(layout, obs, mask, agents)
    alone = [scenes(layout, obs[i : i + 1], mask[i : i + 1], agents[i : i + 1])[0] for i in range(4)]
    assert together == alone


def test_dynamic_scenes_of_every_layout_have_only_present_units(layouts, random_views):
    layout = layouts.observation
    obs, mask = random_views(layout, 30, seed=4)
    observed = layout.decode(obs)
    for i, scene in enumerate(scenes(layout, obs, mask, torch.zeros(30, dtype=torch.long))):
        assert len(scene.allies) == observed.allies.present[i].sum()
        assert [enemy.number for enemy in scene.enemies] == observed.enemies.present[i].nonzero().flatten().tolist()
        assert all(unit.seen and unit.health > 0 for unit in (*scene.allies, *scene.enemies))
        assert len(scene.actions) == mask[i].sum()


def test_a_unit_of_unknown_kind_has_a_name():
    assert KINDS[UNKNOWN] == "unknown unit"


def test_units_in_range_are_the_targets_in_the_mask(layouts, random_views):
    layout = layouts.observation
    obs, mask = random_views(layout, 60, seed=6)
    for scene in scenes(layout, obs, mask, torch.arange(60) % layout.n_agents):
        near = {f"heal ally {unit.number}" for unit in scene.allies if unit.in_range}
        near |= {f"attack enemy {unit.number}" for unit in scene.enemies if unit.in_range}
        seen = {
            f"{verb} {unit.side} {unit.number}"
            for unit in (*scene.allies, *scene.enemies)
            for verb in ("heal", "attack")
        }
        assert near == seen & set(scene.actions)


@pytest.mark.parametrize(
    ("env", "map_name", "sizes", "reach"),
    [
        ("smax", "3m", (3, 9), {"marine": 5, "marauder": 6, "stalker": 6, "zealot": 2, "zergling": 2, "hydralisk": 5}),
        ("sc2", "MMM2", (10, 18), dict.fromkeys(("marine", "marauder", "medivac"), 6)),
        ("smaclite", "MMM2", (10, 18), dict.fromkeys(("marine", "marauder", "medivac"), 6)),
        ("probe", "target", (1, 9), {"marine": 6}),
    ],
)
def test_the_own_range_is_that_of_the_own_kind(env, map_name, sizes, reach, random_views):
    layout = build_layouts(env, {"map_name": map_name}, *sizes).observation
    obs, mask = random_views(layout, 100, seed=7)
    seen = scenes(layout, obs, mask, torch.zeros(100, dtype=torch.long))
    assert {scene.me.kind: scene.me.attack_range for scene in seen} == reach


def test_an_unknown_range_is_none(layout, random_views):
    obs, mask = random_views(layout, 3, seed=8)
    for unknown in (None, (math.nan,) * len(NAMES)):
        layout = replace(layout, shoot_range=unknown)
        assert [scene.me.attack_range for scene in scenes(layout, obs, mask, torch.tensor([0, 1, 2]))] == [None] * 3


def test_smax_has_the_ranges_of_jaxmarl():
    smax = pytest.importorskip("jaxmarl.environments.smax.smax_env")
    assert list(SHOOT_RANGE.values()) == smax.SMAX().unit_type_attack_ranges.tolist()
    assert list(SIGHT.values()) == smax.SMAX().unit_type_sight_ranges.tolist()
