"""Multi-robot warehouse (rware 2.0): robots bring requested shelves to the goals and put them back.

An observation is the robot's own state, then the cells around it, row by row. x is the column and y the row, which
grows downward. An empty cell says "facing up", which means nothing.
"""

import re
from collections.abc import Mapping
from typing import Any

from lolm_plugin.observations.description import Choice, Description, Entities, Flag, Place

KEY = r"(?:rware:)?rware-(tiny|small|medium|large)-(\d+)ag(?:-easy|-hard)?-v2"
SIZES = {"tiny": (11, 10), "small": (20, 10), "medium": (20, 16), "large": (29, 16)}  # rows, columns
ACTIONS = ("wait", "move forward", "turn left", "turn right", "pick up or put down")
FACING = ("up", "down", "left", "right")
WORDS = ("right", "left", "down", "up")
OWN, CELL = 8, 7  # numbers about the robot itself, and of each of the 9 cells


def describe(env_args: Mapping[str, Any], n_agents: int, n_actions: int) -> Description:
    """From ``env_args.key``, such as ``rware:rware-tiny-2ag-v2``."""
    key = str(env_args["key"])
    rows, columns = SIZES[re.fullmatch(KEY, key)[1]]
    cells = [(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    starts = {cell: OWN + CELL * number for number, cell in enumerate(cells)}
    around = [cell for cell in cells if cell != (0, 0)]
    # Both goals lie in the middle of the bottom row.
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
        own=(
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
                shown_by=(0, 5),
                labels=tuple(_label(*cell) for cell in around),
            ),
            Entities(
                "goal",
                starts=(0,) * len(goals),
                fields=(
                    Place(WORDS, decimals=0, high=max(rows, columns), origin=(0, 1), points=goals, unit="in cells"),
                ),
            ),
        ),
        actions=ACTIONS,
    )


def _label(x: int, y: int) -> str:
    """The name of a cell around the robot."""
    vertical, horizontal = {-1: "up", 0: "", 1: "down"}[y], {-1: "left", 0: "", 1: "right"}[x]
    return f"cell {' '.join(word for word in (vertical, horizontal) if word)}"
