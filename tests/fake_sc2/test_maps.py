from collections import Counter
from itertools import groupby

import pytest

from .game import Game
from .maps import ALL_MAPS, BORDERS, FIRST_ALLY_ID, MAPS, SMACV2_MAP, SMACV2_UNITS, mixed

# Team sizes from SMAC's table.
SIZES = {
    "3m": (3, 3),
    "8m": (8, 8),
    "25m": (25, 25),
    "5m_vs_6m": (5, 6),
    "8m_vs_9m": (8, 9),
    "10m_vs_11m": (10, 11),
    "27m_vs_30m": (27, 30),
    "MMM": (10, 10),
    "MMM2": (10, 12),
    "2s3z": (5, 5),
    "3s5z": (8, 8),
    "3s5z_vs_3s6z": (8, 9),
    "3s_vs_3z": (3, 3),
    "3s_vs_4z": (3, 4),
    "3s_vs_5z": (3, 5),
    "1c3s5z": (9, 9),
    "2m_vs_1z": (2, 1),
    "corridor": (6, 24),
    "6h_vs_8z": (6, 8),
    "2s_vs_1sc": (2, 1),
    "so_many_baneling": (7, 32),
    "bane_vs_bane": (24, 24),
    "2c_vs_64zg": (2, 64),
}


def test_the_teams_have_smacs_sizes():
    assert {name: (len(mixed(m.allies)), len(mixed(m.enemies))) for name, m in MAPS.items()} == SIZES


@pytest.mark.parametrize("name", MAPS)
def test_the_teams_equal_those_of_the_installed_smac(name, needs_smac):
    from smac.env import StarCraft2Env

    env, entry = StarCraft2Env(map_name=name), MAPS[name]
    allies, enemies = mixed(entry.allies), mixed(entry.enemies)
    assert (len(allies), len(enemies)) == (env.n_agents, env.n_enemies)
    assert {kind.race[0] for kind in allies} == {env._agent_race}
    assert {kind.race[0] for kind in enemies} == {env._bot_race}
    env._init_ally_unit_types(FIRST_ALLY_ID)
    assert entry.ally_ids == {kind: getattr(env, f"{kind}_id") for kind in entry.allies}


def test_no_map_of_the_installed_smac_is_missing(needs_smac):
    from smac.env.starcraft2.maps import smac_maps

    assert set(MAPS) == set(smac_maps.get_smac_map_registry())


@pytest.mark.parametrize("name", [name for name, entry in MAPS.items() if len(entry.enemies) > 1])
def test_all_units_are_listed_but_not_sorted_by_type(name):
    names = [kind.name for kind in mixed(MAPS[name].enemies)]
    assert Counter(names) == MAPS[name].enemies
    assert len(list(groupby(names))) > len(MAPS[name].enemies)
    assert names == [kind.name for kind in mixed(MAPS[name].enemies)]


@pytest.mark.parametrize("name", MAPS)
def test_all_units_start_inside_the_walls(name):
    entry = MAPS[name]
    area = entry.area
    assert entry.size % 8 == 0
    assert len(set(BORDERS)) == 4
    for unit in Game(entry, seed=0).battle.units.values():
        assert area.west + 1 < unit.x < area.east - 1
        assert area.south + 1 < unit.y < area.north - 1


def test_only_smacv2s_map_has_no_teams_and_all_unit_types():
    empty = [name for name, entry in ALL_MAPS.items() if not mixed(entry.allies) and not mixed(entry.enemies)]
    assert empty == ["32x32_flat"]
    assert len(SMACV2_UNITS) == 9
    assert list(SMACV2_MAP.ally_ids) == sorted(SMACV2_UNITS)
    assert list(SMACV2_MAP.ally_ids.values()) == list(range(FIRST_ALLY_ID, FIRST_ALLY_ID + 9))
    assert {name for entry in MAPS.values() for name in entry.allies} <= set(SMACV2_UNITS)
