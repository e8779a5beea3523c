"""A task without a description: one is made of its spaces, and says so.

Names are those of the spaces, where they have any. Observations are as ``gymma`` flattens them, in the spaces' order.
"""

from collections.abc import Mapping
from typing import Any

from lolm_plugin import registry
from lolm_plugin.observations.description import Choice, Description, Field, Flag, Number

NOTE = "no description of this task is known, so this one is made of its spaces"


def describe(env_args: Mapping[str, Any], n_agents: int, n_actions: int) -> Description:
    """Builds the environment once to look at its observation space, the longest if agents' differ."""
    space = registry.load("lolm_plugin.envs.gymma:observation_space")(env_args)
    fields, size = _fields(space, "", 0)
    return Description(
        env="gymma",
        map_name=str(env_args["key"]),
        size=size,
        n_agents=n_agents,
        task=f"the task {env_args['key']}, which nobody has described: numbers are as the environment gives them",
        agent="agent",
        goal="Get as much reward as possible.",
        own=tuple(fields),
        entities=(),
        actions=tuple(f"action {i}" for i in range(n_actions)),
        note=NOTE,
    )


def _fields(space: Any, name: str, at: int) -> tuple[list[Field], int]:
    """The fields of a space whose numbers begin at ``at``, and where they end."""
    kind = type(space).__name__
    if kind in ("Dict", "Tuple"):
        parts = space.spaces.items() if kind == "Dict" else enumerate(space.spaces)
        fields: list[Field] = []
        for key, part in parts:
            inner, at = _fields(part, f"{name} {key}".strip(), at)
            fields += inner
        return fields, at
    if kind == "Discrete":
        options = tuple(str(space.start + i) for i in range(space.n))
        return [Choice(at, options, name=name or "number")], at + int(space.n)
    if kind == "MultiDiscrete":
        fields = []
        for i, count in enumerate(space.nvec.flatten().tolist()):
            fields.append(Choice(at, tuple(map(str, range(count))), name=_numbered(name, i, space.nvec.size)))
            at += count
        return fields, at
    count = registry.load("gymnasium.spaces:flatdim")(space)
    if kind == "MultiBinary":
        return [Flag(at + i, _numbered(name, i, count)) for i in range(count)], at + count
    if kind != "Box":  # text, graphs: whatever they are flattened to
        return [
            Number(_numbered(name, i, count), at + i, -float("inf"), float("inf")) for i in range(count)
        ], at + count
    whole = 0 if space.dtype.kind in "iu" else 2
    bounds = zip(space.low.flatten().tolist(), space.high.flatten().tolist(), strict=True)
    return [
        Number(_numbered(name, i, count), at + i, low, high, whole) for i, (low, high) in enumerate(bounds)
    ], at + count


def _numbered(name: str, i: int, count: int) -> str:
    """A name for one of ``count`` numbers of a space called ``name``."""
    return f"{name or 'number'} {i}" if count > 1 or not name else name
