"""SMAC's 23 maps: who fights whom, for how long. Adding a map is one line.

Sources: ``smac_maps.py`` and the maps themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lolm_plugin.errors import ConfigError, did_you_mean
from lolm_plugin.observations.layout import N_BASE_ACTIONS
from lolm_plugin.observations.smac_family import Battle


@dataclass(frozen=True)
class Map(Battle):
    """A battle of at most ``limit`` env steps."""

    limit: int


MAPS: dict[str, Map] = {
    "3m": Map({"marine": 3}, {"marine": 3}, 60),
    "8m": Map({"marine": 8}, {"marine": 8}, 120),
    "25m": Map({"marine": 25}, {"marine": 25}, 150),
    "5m_vs_6m": Map({"marine": 5}, {"marine": 6}, 70),
    "8m_vs_9m": Map({"marine": 8}, {"marine": 9}, 120),
    "10m_vs_11m": Map({"marine": 10}, {"marine": 11}, 150),
    "27m_vs_30m": Map({"marine": 27}, {"marine": 30}, 180),
    "MMM": Map({"marauder": 2, "marine": 7, "medivac": 1}, {"marauder": 2, "marine": 7, "medivac": 1}, 150),
    "MMM2": Map({"marauder": 2, "marine": 7, "medivac": 1}, {"marauder": 3, "marine": 8, "medivac": 1}, 180),
    "2s3z": Map({"stalker": 2, "zealot": 3}, {"stalker": 2, "zealot": 3}, 120),
    "3s5z": Map({"stalker": 3, "zealot": 5}, {"stalker": 3, "zealot": 5}, 150),
    "3s5z_vs_3s6z": Map({"stalker": 3, "zealot": 5}, {"stalker": 3, "zealot": 6}, 170),
    "3s_vs_3z": Map({"stalker": 3}, {"zealot": 3}, 150),
    "3s_vs_4z": Map({"stalker": 3}, {"zealot": 4}, 200),
    "3s_vs_5z": Map({"stalker": 3}, {"zealot": 5}, 250),
    "1c3s5z": Map({"colossus": 1, "stalker": 3, "zealot": 5}, {"colossus": 1, "stalker": 3, "zealot": 5}, 180),
    "2m_vs_1z": Map({"marine": 2}, {"zealot": 1}, 150),
    "corridor": Map({"zealot": 6}, {"zergling": 24}, 400),
    "6h_vs_8z": Map({"hydralisk": 6}, {"zealot": 8}, 150),
    "2s_vs_1sc": Map({"stalker": 2}, {"spine crawler": 1}, 300),
    "so_many_baneling": Map({"zealot": 7}, {"baneling": 32}, 100),
    "bane_vs_bane": Map({"baneling": 4, "zergling": 20}, {"baneling": 4, "zergling": 20}, 200),
    "2c_vs_64zg": Map({"colossus": 2}, {"zergling": 64}, 400),
}


def find(map_name: str) -> Map:
    """The map of that name; ConfigError with the nearest known one where there is none."""
    if map_name not in MAPS:
        raise ConfigError(
            f"env_args.map_name={map_name} is no map of env=sc2 whose units are known{did_you_mean(map_name, MAPS)}; "
            f"set it to one of: {', '.join(MAPS)}."
        )
    return MAPS[map_name]


def sizes(env_args: Mapping[str, Any]) -> tuple[int, int]:
    """How many agents and actions the map of ``env_args`` has; ConfigError where that cannot be played.

    ``obs_timestep_number`` is refused: SMAC then returns one number more than it declares, which no host can store.
    """
    battle = find(env_args["map_name"])
    if env_args.get("obs_timestep_number"):
        raise ConfigError(
            "env_args.obs_timestep_number=True cannot be used with env=sc2: SMAC's observations then have one number "
            "more than it declares, and storing them fails; set env_args.obs_timestep_number=False."
        )
    return battle.n_agents, N_BASE_ACTIONS + battle.n_enemies
