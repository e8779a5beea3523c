"""Descriptions of the ``gymma`` tasks foraging, warehouse and spread, selected by ``env_args.key``."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from lolm_plugin.observations.description import Choice, Description, Entities, Flag, Ground, Number, Offset

FORAGING = r"(?:lbforaging:)?Foraging-(2s-)?(\d+)x(\d+)-(\d+)p-(\d+)f(-coop)?-v3"
FORAGING_ACTIONS = ("wait", "move north", "move south", "move west", "move east", "load")
MAX_LEVEL = 2  # highest level of a player
MAX_PLAYERS_PER_FOOD = 3  # a food's level is at most the sum of this number of players' levels

WAREHOUSE = r"(?:rware:)?rware-(tiny|small|medium|large)-(\d+)ag(?:-easy|-hard)?-v2"
WAREHOUSE_SIZES = {"tiny": (11, 10), "small": (20, 10), "medium": (20, 16), "large": (29, 16)}  # rows, columns
WAREHOUSE_ACTIONS = ("wait", "move forward", "turn left", "turn right", "pick up or put down")
FACING = ("up", "down", "left", "right")
WAREHOUSE_WORDS = ("right", "left", "down", "up")
OWN, CELL = 8, 7  # count of numbers about the robot itself, and about each of the 9 cells

SPREAD = r"pz-mpe-simple-spread-v3"
SPREAD_ACTIONS = ("wait", "move left", "move right", "move down", "move up")
SPREAD_WORDS = ("right", "left", "up", "down")
FAR = 20.0  # bound of positions: an agent can leave the rendered picture, whose edge is at 1


def foraging(env_args: Mapping[str, Any], n_agents: int, n_actions: int) -> Description:
    """Describe level-based foraging (lbforaging 2.0): players eat food whose level is at most the sum of theirs.

    A key is ``lbforaging:Foraging-8x8-2p-3f-v3``, for example. An observation is (row, column, level) of every food,
    then of the agent, then of the other players that it sees. An index in the last list is thus not a player's id.
    Positions count from the corner of the agent's view. Only offsets from its own position have a meaning.
    """
    key = str(env_args["key"])
    sight, rows, columns, players, foods, coop = _groups(FORAGING, key)
    far, own = max(int(rows), int(columns)), 3 * int(foods)
    offset = Offset(
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
    highest = MAX_LEVEL * min(int(players), MAX_PLAYERS_PER_FOOD)
    food = Entities(
        "food",
        starts=tuple(range(0, own, 3)),
        fields=(offset, Number("level", at=2, high=highest, decimals=0)),
        present_if_nonzero=(2,),
    )
    others = Entities(
        "player",
        starts=tuple(range(own + 3, own + 3 * int(players), 3)),
        fields=(offset, Number("level", at=2, high=MAX_LEVEL, decimals=0)),
        present_if_nonzero=(2,),
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
        fields=(Number("level", at=own + 2, high=MAX_LEVEL, decimals=0),),
        entities=(food, others),
        actions=FORAGING_ACTIONS,
        shared_positions=not sight,
    )


def warehouse(env_args: Mapping[str, Any], n_agents: int, n_actions: int) -> Description:
    """Describe the multi-robot warehouse (rware 2.0): robots bring requested shelves to the goals and put them back.

    A key is ``rware:rware-tiny-2ag-v2``, for example. An observation is the robot's own state, then the cells around
    it, row by row. x is the column; y is the row and grows downward. "facing up" has no meaning in an empty cell.
    """
    key = str(env_args["key"])
    rows, columns = WAREHOUSE_SIZES[_groups(WAREHOUSE, key)[0]]
    cells = [(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    starts = {cell: OWN + CELL * number for number, cell in enumerate(cells)}
    around = [cell for cell in cells if cell != (0, 0)]
    # Both goals are in the middle of the bottom row.
    goals = tuple((x, rows - 1) for x in (columns // 2 - 1, columns // 2))
    here = starts[0, 0]
    return Description(
        env="gymma",
        map_name=key,
        size=OWN + CELL * len(cells),
        n_agents=n_agents,
        task=f"a warehouse of {rows} by {columns} cells",
        agent="robot",
        goal=(
            "Bring requested shelves to a goal, then put them back where no highway is. A robot under shelves moves "
            "freely; one that carries a shelf does not pass other shelves."
        ),
        fields=(
            Choice(3, FACING, name="facing"),
            Flag(2, yes="carrying a shelf", no="carrying nothing"),
            Flag(7, yes="on a highway"),
            Flag(here + 5, yes="a shelf in your cell"),
            Flag(here + 6, yes="which is requested"),
        ),
        entities=(
            Entities(
                "cell",
                starts=tuple(starts[cell] for cell in around),
                fields=(
                    Flag(0, yes="a robot"),
                    Choice(1, FACING, name="facing", when=0),
                    Flag(5, yes="a shelf"),
                    Flag(6, yes="requested"),
                ),
                present_if_nonzero=(0, 5),
                labels=tuple(_label(*cell) for cell in around),
            ),
            Entities(
                "goal",
                starts=(0,) * len(goals),
                fields=(
                    Offset(
                        WAREHOUSE_WORDS,
                        decimals=0,
                        high=max(rows, columns),
                        origin=(0, 1),
                        points=goals,
                        unit="in cells",
                    ),
                ),
            ),
        ),
        actions=WAREHOUSE_ACTIONS,
        ground=(
            Ground("shelf", tuple((*cell, (start + 5,)) for cell, start in starts.items())),
            Ground("requested shelf", tuple((*cell, (start + 5, start + 6)) for cell, start in starts.items())),
        ),
    )


def spread(env_args: Mapping[str, Any], n_agents: int, n_actions: int) -> Description:
    """Describe MPE's simple spread (version 3): agents cover the same number of landmarks and avoid collisions.

    An observation is the agent's velocity and position, the offsets of landmarks and other agents, and the others'
    messages. The messages are always 0 in this task.
    """
    others, messages = 4 + 2 * n_agents, 4 + 2 * n_agents + 2 * (n_agents - 1)
    offset = Offset(SPREAD_WORDS, x=0, y=1, low=-FAR, high=FAR)
    return Description(
        env="gymma",
        map_name=str(env_args["key"]),
        size=messages + 2 * (n_agents - 1),
        n_agents=n_agents,
        task="a plane that is 2 wide and 2 high",
        agent="agent",
        goal="Every landmark has an agent on it, each its own, and agents do not collide.",
        fields=(
            Number("x", at=2, low=-FAR, high=FAR),
            Number("y", at=3, low=-FAR, high=FAR),
            Number("speed right", at=0, low=-FAR, high=FAR),
            Number("speed up", at=1, low=-FAR, high=FAR),
        ),
        entities=(
            Entities("landmark", starts=tuple(range(4, others, 2)), fields=(offset,)),
            Entities("agent", starts=tuple(range(others, messages, 2)), fields=(offset,), skips_self=True),
        ),
        actions=SPREAD_ACTIONS,
    )


# Pattern of env_args.key -> the function that describes it.
TASKS: dict[str, Callable[[Mapping[str, Any], int, int], Description]] = {
    FORAGING: foraging,
    WAREHOUSE: warehouse,
    SPREAD: spread,
}


def _groups(pattern: str, key: str) -> tuple[str, ...]:
    match = re.fullmatch(pattern, key)
    assert match, f"{key} does not match {pattern}"
    return match.groups()


def _label(x: int, y: int) -> str:
    """Return the name of a cell around the robot."""
    vertical, horizontal = {-1: "up", 0: "", 1: "down"}[y], {-1: "left", 0: "", 1: "right"}[x]
    return f"cell {' '.join(word for word in (vertical, horizontal) if word)}"
