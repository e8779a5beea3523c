import subprocess
import sys
from pathlib import Path

import pytest

from lolm_plugin.envs.smax_scenarios import KNOWN_MAPS, UNIT_TYPES, scenario
from lolm_plugin.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "allies", "enemies", "limit"),
    [
        ("3m", ["marine"] * 3, ["marine"] * 3, 60),
        ("3s_vs_4z", ["stalker"] * 3, ["zealot"] * 4, 200),
        ("8m_vs_9m", ["marine"] * 8, ["marine"] * 9, 120),
        ("2m_vs_1z", ["marine"] * 2, ["zealot"], 150),
        ("2s3z", ["stalker"] * 2 + ["zealot"] * 3, ["stalker"] * 2 + ["zealot"] * 3, 120),
        ("3s5z_vs_3s6z", ["stalker"] * 3 + ["zealot"] * 5, ["stalker"] * 3 + ["zealot"] * 6, 170),
        ("6z_vs_24zg", ["zealot"] * 6, ["zergling"] * 24, 100),
        ("2m_vs_1m", ["marine"] * 2, ["marine"], 100),
        ("1M2h_vs_12zg1m", ["marauder", "hydralisk", "hydralisk"], ["zergling"] * 12 + ["marine"], 100),
        ("3z2s", ["zealot"] * 3 + ["stalker"] * 2, ["zealot"] * 3 + ["stalker"] * 2, 100),
    ],
)
def test_a_name_determines_teams_order_and_time_limit(name, allies, enemies, limit):
    battle = scenario(name)
    assert battle.name == name
    assert (list(battle.ally_types), list(battle.enemy_types)) == (allies, enemies)
    assert (battle.episode_limit, battle.random_units) == (limit, False)


@pytest.mark.parametrize("size", [5, 10, 20])
def test_random_teams_have_fixed_sizes(size):
    battle = scenario(f"smacv2_{size}_units")
    assert battle.random_units
    assert len(battle.ally_types) == len(battle.enemy_types) == size


def test_every_known_map_is_valid():
    for name in KNOWN_MAPS:
        assert set(scenario(name).ally_types) <= set(UNIT_TYPES)


@pytest.mark.parametrize(
    ("name", "unit", "elsewhere"),
    [
        ("MMM", "medivac", ("sc2", "smaclite")),
        ("MMM2", "medivac", ("sc2", "smaclite")),
        ("1c3s5z", "colossus", ("sc2",)),
        ("2c_vs_64zg", "colossus", ("sc2", "smaclite")),
        ("2s_vs_1sc", "spine crawler", ("sc2", "smaclite")),
        ("so_many_baneling", "baneling", ("sc2",)),
        ("bane_vs_bane", "baneling", ("sc2", "smaclite")),
        ("corridor", "terrain", ("sc2", "smaclite")),
    ],
)
def test_an_unsupported_map_is_refused_and_other_environments_named(name, unit, elsewhere):
    with pytest.raises(ConfigError, match=rf"env_args.map_name={name} .* SMAX has no {unit}") as refusal:
        scenario(name)
    for env in ("sc2", "smaclite"):
        assert (f"--env-config={env}" in str(refusal.value)) == (env in elsewhere)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("3marines", "3m"),
        ("3s_vs_4", "3s_vs_4z"),
        ("smacv2_5_unit", "smacv2_5_units"),
        ("0m", None),
        ("3m_vs_3m_vs_3m", "3m_vs_2m"),
        ("3m_vs_", "3m_vs_2m"),
        ("", None),
        (None, None),
    ],
)
def test_an_unknown_name_is_refused_with_examples_and_the_nearest_known(name, nearest):
    with pytest.raises(ConfigError, match=rf"map_name={name} is not .*such as 3m, 2s3z or 3s_vs_4z") as refusal:
        scenario(name)
    if nearest:
        assert f"(nearest known: {nearest})" in str(refusal.value)


def test_the_environment_is_imported_without_jax():
    code = "import lolm_plugin.envs.smax, sys; assert 'jax' not in sys.modules and 'jaxmarl' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
