"""SMAClite's layouts against sizes of the environment itself, and custom maps from their files."""

import json

import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.smaclite import MAPS, sizes
from lolm_plugin.observations.units import NAMES

# obs, state (which always has the last actions) and actions, from the environments themselves.
SIZES = {
    "10m_vs_11m": (105, 243, 17),
    "27m_vs_30m": (285, 1170, 36),
    "2s3z": (80, 120, 11),
    "3s5z": (128, 216, 14),
    "3s5z_vs_3s6z": (136, 230, 15),
    "3s_vs_5z": (48, 68, 11),
    "MMM": (160, 290, 16),
    "MMM2": (176, 322, 18),
    "2c_vs_64zg": (332, 342, 70),
    "bane_vs_bane": (336, 984, 30),
    "corridor": (156, 282, 30),
    "2s_vs_1sc": (17, 27, 7),
}


def build(env_args):
    return build_layouts("smaclite", env_args, *sizes(env_args))


@pytest.mark.parametrize("map_name", MAPS)
def test_sizes_are_smaclites(map_name):
    layouts = build({"map_name": map_name})
    assert (layouts.observation.size, layouts.state.size, layouts.observation.n_actions) == SIZES[map_name]


def test_enemy_types_are_not_reversed():
    """The same numbers are a zealot on SMAC's 2s3z and a stalker on SMAClite's."""
    obs = torch.zeros(80)
    obs[4:12] = torch.tensor([1, 0.3333, 0.3333, 0, 0.5, 0.5, 1, 0])
    assert NAMES[build({"map_name": "2s3z"}).observation.decode(obs).enemies.kind[0]] == "stalker"
    smac = build_layouts("sc2", {"map_name": "2s3z"}, 5, 11)
    assert NAMES[smac.observation.decode(obs).enemies.kind[0]] == "zealot"


CUSTOM = {
    "name": "mine",
    "num_allied_units": 5,
    "num_enemy_units": 2,
    "groups": [
        {"x": 8, "y": 10, "faction": "ALLY", "units": {"MARINE": 2}},
        {"x": 8, "y": 16, "faction": "ALLY", "units": {"MARINE": 2, "MEDIVAC": 1}},
        {"x": 24, "y": 16, "faction": "ENEMY", "units": {"SPINE_CRAWLER": 1, "MARINE": 1}},
    ],
    "attack_point": [8, 16],
    "terrain_preset": "SIMPLE",
    "num_unit_types": 3,
    "unit_type_ids": {"SPINE_CRAWLER": 2, "MEDIVAC": 1, "MARINE": 0},
    "ally_has_shields": False,
    "enemy_has_shields": False,
}


@pytest.fixture
def custom(tmp_path):
    def write(**changes):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({**CUSTOM, **changes}))
        return {"map_name": "custom", "map_file": str(path)}

    return write


def test_a_custom_map_is_read_from_its_file(custom):
    layouts = build(custom())
    layout = layouts.observation
    assert (layout.n_agents, layout.n_enemies, layout.n_actions) == (5, 2, 6 + 4)  # four marines can be healed
    assert [NAMES[k] for k in layout.enemies.kinds] == ["marine", "medivac", "spine crawler"]
    assert {NAMES[k]: n for k, n in layouts.ally_team.items()} == {"marine": 4, "medivac": 1}
    assert {NAMES[k]: n for k, n in layouts.enemy_team.items()} == {"spine crawler": 1, "marine": 1}


def test_one_unit_type_has_no_bits(custom):
    groups = [{"faction": "ALLY", "units": {"ZEALOT": 2}}, {"faction": "ENEMY", "units": {"ZEALOT": 1}}]
    env_args = custom(
        groups=groups,
        num_allied_units=2,
        num_enemy_units=1,
        num_unit_types=1,
        ally_has_shields=True,
        enemy_has_shields=True,
    )
    layout = build(env_args).observation
    assert (layout.enemies.kinds, NAMES[layout.enemies.only_kind]) == ((), "zealot")
    assert "shield" in layout.own.fields


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_allied_units": 6}, r"says num_allied_units=6, but its groups have 5; correct num_allied_units"),
        ({"num_enemy_units": 1}, "says num_enemy_units=1, but its groups have 2"),
        ({"ally_has_shields": True}, "says shields=True for ALLY units, but marine, medivac have not"),
        ({"num_unit_types": 0}, "marine, medivac among its ALLY units but type bits for none"),
        ({"unit_type_ids": {"MARINE": 0, "MEDIVAC": 1}}, "ENEMY units but type bits for marine, medivac"),
        (
            {"groups": [{"faction": "ALLY", "units": {"DRAGOON": 5}}, *CUSTOM["groups"][2:]]},
            "The unit DRAGOON of env_args.map_file=.* is not supported",
        ),
        (
            {"groups": [{"faction": "ALLY", "units": {"MEDIVAC": 1, "MARINE": 4}}, *CUSTOM["groups"][2:]]},
            "list the group with the only healer last",
        ),
        (  # the healer is last in its group, but does not have the last id
            {
                "num_allied_units": 10,
                "num_enemy_units": 5,
                "groups": [
                    {"faction": "ALLY", "units": {"MARINE": 2, "MEDIVAC": 1}},
                    {"faction": "ALLY", "units": {"MARINE": 7}},
                    {"faction": "ENEMY", "units": {"MARINE": 5}},
                ],
            },
            "has 1 healers, but SMAClite gives them no action for some allies",
        ),
        (
            {
                "num_enemy_units": 3,
                "groups": [
                    {"faction": "ALLY", "units": {"MARINE": 3, "MEDIVAC": 2}},
                    {"faction": "ENEMY", "units": {"MARINE": 3}},
                ],
            },
            "has 2 healers, .* set num_enemy_units to at least num_allied_units",
        ),
        ({"groups": 3}, "cannot be read"),
    ],
)
def test_a_custom_map_that_cannot_be_played_is_refused(custom, changes, words):
    with pytest.raises(ConfigError, match=words):
        sizes(custom(**changes))


def test_a_missing_file_or_key_is_refused(custom, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.json cannot be read .*set env_args.map_file"):
        sizes({"map_name": "custom", "map_file": str(tmp_path / "nowhere.json")})
    env_args = custom()
    content = {key: value for key, value in CUSTOM.items() if key != "num_enemy_units"}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="has no 'num_enemy_units'"):
        sizes(env_args)
