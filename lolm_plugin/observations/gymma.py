"""The tasks of EPyMARL's ``gymma``, known by their descriptions: ours, the user's, or one from their spaces."""

import re
from collections.abc import Mapping
from typing import Any

from lolm_plugin import registry
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.battle import Layouts
from lolm_plugin.observations.description import Choice, DescribedState, Description, Field, Flag, Number
from lolm_plugin.observations.gymma_tasks import TASKS

FUNCTION = re.compile(r"[\w.]+:\w+")
NOTE = "no description of this task is known, so this one is made of its spaces"


def build(env_args: Mapping[str, Any], n_agents: int, n_actions: int, options: Mapping[str, Any]) -> Layouts:
    """The layouts of a task by its ``env_args.key``; ``options`` is the ``layout`` section of the configuration."""
    description = describe(env_args, n_agents, n_actions, options.get("description") or "")
    return Layouts(description, DescribedState(description))


def describe(env_args: Mapping[str, Any], n_agents: int, n_actions: int, own: str = "") -> Description:
    """The description of a task; ``own`` names a function of the user's, ``"module:function"``, that makes it."""
    if own:
        return _load(own)(env_args, n_agents, n_actions)
    for pattern, task in TASKS.items():
        if re.fullmatch(pattern, str(env_args["key"])):
            return task(env_args, n_agents, n_actions)
    return describe_spaces(env_args, n_agents, n_actions)


def _load(where: str) -> Any:
    if not FUNCTION.fullmatch(where):
        raise ConfigError(f"layout.description={where} names no function: write it as module:function.")
    try:
        return registry.load(where)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"layout.description={where} cannot be loaded ({error}): put its module's folder on PYTHONPATH, and write "
            "it as module:function."
        ) from error


def describe_spaces(env_args: Mapping[str, Any], n_agents: int, n_actions: int) -> Description:
    """Describe a task by its spaces alone, and say so. Names are those of the spaces, where they have any.

    Builds the environment once to look at its observation space, the longest if agents' differ. Observations are as
    ``gymma`` flattens them, in the spaces' order.
    """
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
        fields=tuple(fields),
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
    whole, bounds = 2, [(-float("inf"), float("inf"))] * count  # text, graphs: whatever they are flattened to
    if kind == "Box":
        whole = 0 if space.dtype.kind in "iu" else 2
        bounds = list(zip(space.low.flatten().tolist(), space.high.flatten().tolist(), strict=True))
    return [
        Number(_numbered(name, i, count), at + i, low, high, whole) for i, (low, high) in enumerate(bounds)
    ], at + count


def _numbered(name: str, i: int, count: int) -> str:
    """A name for one of ``count`` numbers of a space called ``name``."""
    return f"{name or 'number'} {i}" if count > 1 or not name else name
