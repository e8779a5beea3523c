"""Layouts of SMAClite: SMAC's order, one type table for both sides, no flags; custom maps from a JSON file."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lolm_plugin.errors import ConfigError, did_you_mean
from lolm_plugin.observations.battle import Layouts
from lolm_plugin.observations.layout import N_BASE_ACTIONS
from lolm_plugin.observations.smac_family import Battle, Flags, has_shields, map_layouts
from lolm_plugin.observations.units import NAMES, UNIVERSE, index, indices

CUSTOM = "custom"  # the map_name that reads map_file
MAP_SIZE = 32.0  # cells, all maps except custom ones


@dataclass(frozen=True)
class Map(Battle):
    """A battle and the unit types of the type bits of both sides; none on single-type maps."""

    types: tuple[str, ...] = ()

    @property
    def n_targets(self) -> int:
        """Number of target actions: one per enemy, and with healers at least one per ally that can be healed."""
        healers = sum(count for name, count in self.allies.items() if UNIVERSE[index(name)].heals)
        return max(self.n_agents - healers, self.n_enemies) if healers else self.n_enemies


_PROTOSS = ("stalker", "zealot")
_TERRAN = ("marauder", "marine", "medivac")
MAPS: dict[str, Map] = {
    "10m_vs_11m": Map({"marine": 10}, {"marine": 11}),
    "27m_vs_30m": Map({"marine": 27}, {"marine": 30}),
    "2s3z": Map({"stalker": 2, "zealot": 3}, {"stalker": 2, "zealot": 3}, _PROTOSS),
    "3s5z": Map({"stalker": 3, "zealot": 5}, {"stalker": 3, "zealot": 5}, _PROTOSS),
    "3s5z_vs_3s6z": Map({"stalker": 3, "zealot": 5}, {"stalker": 3, "zealot": 6}, _PROTOSS),
    "3s_vs_5z": Map({"stalker": 3}, {"zealot": 5}),
    "MMM": Map({"medivac": 1, "marine": 7, "marauder": 2}, {"medivac": 1, "marine": 7, "marauder": 2}, _TERRAN),
    "MMM2": Map({"medivac": 1, "marine": 7, "marauder": 2}, {"medivac": 1, "marine": 8, "marauder": 3}, _TERRAN),
    "2c_vs_64zg": Map({"colossus": 2}, {"zergling": 64}),
    "bane_vs_bane": Map({"zergling": 20, "baneling": 4}, {"baneling": 4, "zergling": 20}, ("baneling", "zergling")),
    "corridor": Map({"zealot": 6}, {"zergling": 24}),
    "2s_vs_1sc": Map({"stalker": 2}, {"spine crawler": 1}),
}


def find(env_args: Mapping[str, Any]) -> Map:
    """Return the map of ``env_args.map_name``, or of ``env_args.map_file`` if the name is ``custom``."""
    map_name, map_file = env_args["map_name"], env_args.get("map_file")
    if map_name == CUSTOM:
        if not map_file:
            raise ConfigError(
                "env_args.map_name=custom reads its battle from a file, but none is given; set env_args.map_file to a "
                "SMAClite map in JSON."
            )
        return read(Path(map_file))
    if map_name not in MAPS:
        raise ConfigError(
            f"env_args.map_name={map_name} is no map of env=smaclite{did_you_mean(map_name, MAPS)}; set it to one of: "
            f"{', '.join(MAPS)}, or to custom with env_args.map_file."
        )
    if map_file:
        raise ConfigError(
            f"env_args.map_file={map_file} cannot be used with env_args.map_name={map_name}; set "
            "env_args.map_name=custom to play it."
        )
    return MAPS[map_name]


def sizes(env_args: Mapping[str, Any]) -> tuple[int, int]:
    """Return the numbers of agents and actions of the map of ``env_args``; raise ConfigError if there is none."""
    battle = find(env_args)
    return battle.n_agents, N_BASE_ACTIONS + battle.n_targets


def read(path: Path) -> Map:
    """Read a custom map from its JSON file.

    Raises:
        ConfigError: the file cannot be read, SMAClite cannot play the map, or a unit is not in the unit universe.
    """
    try:
        content = json.loads(path.read_text())
        groups = [(group["faction"], group["units"]) for group in content["groups"]]
        type_ids = content.get("unit_type_ids") or {}
        n_types = content["num_unit_types"]
        declared = {"ALLY": content["num_allied_units"], "ENEMY": content["num_enemy_units"]}
        shields = {"ALLY": content["ally_has_shields"], "ENEMY": content["enemy_has_shields"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"has no {error}" if isinstance(error, KeyError) else f"cannot be read ({error})"
        raise ConfigError(
            f"env_args.map_file={path} {reason}; set env_args.map_file to a SMAClite map in JSON, with "
            "num_allied_units, num_enemy_units, groups, num_unit_types, ally_has_shields and enemy_has_shields."
        ) from error
    teams: dict[str, Counter[str]] = {"ALLY": Counter(), "ENEMY": Counter()}
    for faction, units in groups:
        teams[faction].update({_unit(name, path): count for name, count in units.items()})
    types = (
        tuple(_unit(name, path) for name in sorted(type_ids, key=lambda name: type_ids[name])) if n_types > 1 else ()
    )
    for faction, team in teams.items():
        _check_team(path, faction, team, declared[faction], shields[faction], types)
    battle = Map(teams["ALLY"], teams["ENEMY"], types)
    order = [(_unit(name, path), n) for faction, units in groups if faction == "ALLY" for name, n in units.items()]
    _check_healers(path, battle, [name for name, count in order for _ in range(count)])
    return battle


def build(env_args: Mapping[str, Any], n_agents: int, n_actions: int, options: Mapping[str, Any]) -> Layouts:
    """Build the layouts of a SMAClite map."""
    battle = find(env_args)
    kinds = indices(*battle.types)
    # SMAClite has no flags. It always behaves as SMAC with these defaults.
    layouts = map_layouts("smaclite", env_args["map_name"], battle, (kinds, kinds), Flags())
    return replace(layouts, cells=None if env_args["map_name"] == CUSTOM else MAP_SIZE)


def _unit(name: str, path: Path) -> str:
    """Convert SMAClite's spelling of a unit (``SPINE_CRAWLER``) to ours."""
    words = name.lower().replace("_", " ")
    if words not in NAMES:
        raise ConfigError(
            f"The unit {name} of env_args.map_file={path} is not supported; use units among: {', '.join(NAMES)}."
        )
    return words


def _check_team(
    path: Path, faction: str, team: Mapping[str, int], declared: int, shields: bool, types: tuple[str, ...]
) -> None:
    key = {"ALLY": "num_allied_units", "ENEMY": "num_enemy_units"}[faction]
    if sum(team.values()) != declared or not declared:
        raise ConfigError(
            f"env_args.map_file={path} says {key}={declared}, but its groups have {sum(team.values())}; correct {key}."
        )
    if bool(shields) != has_shields(team) or (shields and not all(UNIVERSE[index(name)].max_shield for name in team)):
        raise ConfigError(
            f"env_args.map_file={path} says shields={bool(shields)} for {faction} units, but {', '.join(team)} "
            f"{'have' if has_shields(team) else 'have not'}; SMAClite needs either all or none of a side shielded."
        )
    if (types and not set(team) <= set(types)) or (not types and len(team) > 1):
        raise ConfigError(
            f"env_args.map_file={path} has {', '.join(team)} among its {faction} units but type bits for "
            f"{', '.join(types) or 'none'}; list every unit in unit_type_ids and set num_unit_types."
        )


def _check_healers(path: Path, battle: Map, by_id: Sequence[str]) -> None:
    """Raise ConfigError if a healer has no target action for another ally; ``by_id`` are the allies in order."""
    healers = [i for i, name in enumerate(by_id) if UNIVERSE[index(name)].heals]
    if any(healers and healers != [i] for i in range(battle.n_targets, battle.n_agents)):
        raise ConfigError(
            f"env_args.map_file={path} has {len(healers)} healers, but SMAClite gives them no action for some allies; "
            "list the group with the only healer last, or set num_enemy_units to at least num_allied_units."
        )
