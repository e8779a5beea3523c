"""SMAX battles by name, with any numbers of units: ``3s_vs_4z`` is three stalkers against four zealots.

A name has counts and letters, for one team (``2s3z``: both teams are equal) or two (``A_vs_B``). Agents are numbered in
the order of their types in the name. On SMAC's maps this is SMAC's order.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.layout import N_BASE_ACTIONS

# The index in this tuple is SMAX's type number, and the index of the type bit in observations and state.
UNIT_TYPES = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk")

# Suggested for an invalid name.
KNOWN_MAPS = (
    *("3m", "8m", "25m", "2m_vs_1m", "3m_vs_2m", "5m_vs_6m", "8m_vs_9m", "10m_vs_11m", "27m_vs_30m", "2m_vs_1z"),
    *("2s3z", "3s5z", "3s5z_vs_3s6z", "3s_vs_3z", "3s_vs_4z", "3s_vs_5z", "6h_vs_8z"),
    *("smacv2_5_units", "smacv2_10_units", "smacv2_20_units"),
)

_UNIT_OF_LETTER = {
    **{"m": "marine", "M": "marauder", "s": "stalker", "z": "zealot", "zg": "zergling", "h": "hydralisk"},
    **{"c": "colossus", "b": "baneling", "sc": "spine crawler"},  # not in SMAX
}
_GROUP = re.compile(r"([1-9][0-9]*)(zg|sc|[mMszhcb])")
_TEAM = re.compile(rf"(?:{_GROUP.pattern})+")
_RANDOM_TEAMS = re.compile(r"smacv2_([1-9][0-9]*)_units")

# Time limits of all SMAC maps, in environment steps: the same map has the same limit in SMAX.
SMAC_LIMITS = {
    **{"3m": 60, "8m": 120, "25m": 150, "5m_vs_6m": 70, "8m_vs_9m": 120, "10m_vs_11m": 150, "27m_vs_30m": 180},
    **{"MMM": 150, "MMM2": 180, "2s3z": 120, "3s5z": 150, "3s5z_vs_3s6z": 170, "1c3s5z": 180, "2m_vs_1z": 150},
    **{"3s_vs_3z": 150, "3s_vs_4z": 200, "3s_vs_5z": 250, "corridor": 400, "6h_vs_8z": 150, "2s_vs_1sc": 300},
    **{"so_many_baneling": 100, "bane_vs_bane": 200, "2c_vs_64zg": 400},
}
_SMAX_LIMIT = 100  # of all other maps

# SMAC maps with something that SMAX lacks and their names do not show; then the maps that SMAClite has.
_LACKING = {
    "MMM": "medivac",
    "MMM2": "medivac",
    "bane_vs_bane": "baneling",
    "so_many_baneling": "baneling",
    "corridor": "terrain (map_name=6z_vs_24zg has the same teams on open ground)",
}
_IN_SMACLITE = {"MMM", "MMM2", "bane_vs_bane", "corridor", "2c_vs_64zg", "2s_vs_1sc"}


@dataclass(frozen=True)
class SMAXScenario:
    """Two teams and a time limit. With ``random_units`` unit types are drawn per episode; only team sizes are fixed."""

    name: str
    ally_types: tuple[str, ...]
    enemy_types: tuple[str, ...]
    episode_limit: int
    random_units: bool = False


def scenario(map_name: str) -> SMAXScenario:
    """Return the battle called ``map_name``.

    Raises:
        ConfigError: the name is invalid, or needs a unit or terrain that SMAX does not have.
    """
    map_name = str(map_name)
    if map_name in _LACKING:
        raise _lacks(map_name, _LACKING[map_name])
    if random_teams := _RANDOM_TEAMS.fullmatch(map_name):
        team = ("marine",) * int(random_teams[1])
        return SMAXScenario(map_name, team, team, _SMAX_LIMIT, random_units=True)
    teams = map_name.split("_vs_")
    if len(teams) > 2 or not all(_TEAM.fullmatch(team) for team in teams):
        raise _unreadable(map_name)
    ally_types, enemy_types = _types(teams[0]), _types(teams[-1])
    for unit in ally_types + enemy_types:
        if unit not in UNIT_TYPES:
            raise _lacks(map_name, unit)
    return SMAXScenario(map_name, ally_types, enemy_types, SMAC_LIMITS.get(map_name, _SMAX_LIMIT))


def sizes(env_args: Mapping[str, Any]) -> tuple[int, int]:
    """Return a map's numbers of agents and actions. Raises ConfigError as ``scenario``."""
    battle = scenario(env_args["map_name"])
    return len(battle.ally_types), N_BASE_ACTIONS + len(battle.enemy_types)


def _types(team: str) -> tuple[str, ...]:
    return tuple(_UNIT_OF_LETTER[letter] for count, letter in _GROUP.findall(team) for _ in range(int(count)))


def _lacks(map_name: str, what: str) -> ConfigError:
    others = "--env-config=sc2 or --env-config=smaclite" if map_name in _IN_SMACLITE else "--env-config=sc2"
    return ConfigError(
        f"env_args.map_name={map_name} cannot be played with env=smax because SMAX has no {what}: "
        f"use {others} inside EPyMARL, or set another env_args.map_name."
    )


def _unreadable(map_name: str) -> ConfigError:
    nearest = difflib.get_close_matches(map_name, KNOWN_MAPS, n=1, cutoff=0.0)[0]
    return ConfigError(
        f"env_args.map_name={map_name} is not the name of an SMAX battle (nearest known: {nearest}): set "
        "env_args.map_name to counts of m marine, M marauder, s stalker, z zealot, zg zergling or "
        "h hydralisk, such as 3m, 2s3z or 3s_vs_4z, or to smacv2_5_units."
    )
