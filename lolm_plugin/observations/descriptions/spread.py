"""MPE's simple spread (version 3): agents cover landmarks without running into each other.

An observation is the agent's velocity and position, the landmarks and the other agents as offsets, and the others'
messages, which are always 0 here.
"""

from collections.abc import Mapping
from typing import Any

from lolm_plugin.observations.description import Description, Entities, Number, Place

KEY = r"pz-mpe-simple-spread-v3"
ACTIONS = ("wait", "move left", "move right", "move down", "move up")
WORDS = ("right", "left", "up", "down")
FAR = 20.0  # nothing holds an agent back at the edge of the picture, which is 1 away


def describe(env_args: Mapping[str, Any], n_agents: int, n_actions: int) -> Description:
    """As many landmarks as agents."""
    others, messages = 4 + 2 * n_agents, 4 + 2 * n_agents + 2 * (n_agents - 1)
    place = Place(WORDS, x=0, y=1, low=-FAR, high=FAR)
    return Description(
        env="gymma",
        map_name=str(env_args["key"]),
        size=messages + 2 * (n_agents - 1),
        n_agents=n_agents,
        task="a plane that is 2 wide and 2 high",
        agent="agent",
        goal="Every landmark has an agent on it, each its own, and agents do not collide.",
        own=(
            Number("x", at=2, low=-FAR, high=FAR),
            Number("y", at=3, low=-FAR, high=FAR),
            Number("speed right", at=0, low=-FAR, high=FAR),
            Number("speed up", at=1, low=-FAR, high=FAR),
        ),
        entities=(
            Entities("landmark", starts=tuple(range(4, others, 2)), fields=(place,)),
            Entities("agent", starts=tuple(range(others, messages, 2)), fields=(place,), skips_self=True),
        ),
        actions=ACTIONS,
    )
