"""Level-based foraging (lbforaging 2.0): players eat food whose level is at most the sum of theirs.

An observation is (row, column, level) of every food, then of the agent, then of the other players it sees, so that a
place in that list is nobody's name. Positions count from the corner of what the agent sees: they mean something as
offsets from its own alone.
"""

import re
from collections.abc import Mapping
from typing import Any

from lolm_plugin.observations.description import Description, Entities, Number, Place

KEY = r"(?:lbforaging:)?Foraging-(2s-)?(\d+)x(\d+)-(\d+)p-(\d+)f(-coop)?-v3"
ACTIONS = ("wait", "move north", "move south", "move west", "move east", "load")
MAX_LEVEL = 2  # of a player
PLAYERS_OF_A_FOOD = 3  # a food's level is at most the sum of so many players' levels


def describe(env_args: Mapping[str, Any], n_agents: int, n_actions: int) -> Description:
    """From ``env_args.key``, such as ``lbforaging:Foraging-8x8-2p-3f-v3``."""
    key = str(env_args["key"])
    sight, rows, columns, players, foods, coop = re.fullmatch(KEY, key).groups()
    far, own = max(int(rows), int(columns)), 3 * int(foods)
    place = Place(
        words=("east", "west", "south", "north"),
        x=1,
        y=0,
        low=-1,
        high=far,
        decimals=0,
        unit="in cells",
        origin=(own + 1, own),
        beside="next to you",
    )
    highest = MAX_LEVEL * min(int(players), PLAYERS_OF_A_FOOD)
    food = Entities(
        "food",
        starts=tuple(range(0, own, 3)),
        fields=(place, Number("level", at=2, high=highest, decimals=0)),
        shown_by=(2,),
    )
    others = Entities(
        "player",
        starts=tuple(range(own + 3, own + 3 * int(players), 3)),
        fields=(place, Number("level", at=2, high=MAX_LEVEL, decimals=0)),
        shown_by=(2,),
    )
    sees = ", of which you see 2 in each direction" if sight else ""
    together = "All players together" if coop else "Players who stand next to a food and load at the same time"
    return Description(
        env="gymma",
        map_name=key,
        size=own + 3 * int(players),
        n_agents=n_agents,
        task=f"level-based foraging on {rows} by {columns} cells{sees}",
        agent="player",
        goal=f"Eat all food. {together} eat it if the sum of their levels is at least its level.",
        own=(Number("level", at=own + 2, high=MAX_LEVEL, decimals=0),),
        entities=(food, others),
        actions=ACTIONS,
    )
