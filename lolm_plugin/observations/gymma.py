"""Descriptions of EPyMARL's ``gymma`` tasks: built in, written by the user, or generated from the spaces."""

import re
from collections.abc import Mapping
from typing import Any

from lolm_plugin import registry
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.battle import Layouts
from lolm_plugin.observations.description import Choice, Description, Field, Flag, Number
from lolm_plugin.observations.gymma_tasks import TASKS
from lolm_plugin.observations.state import DescribedState

FUNCTION = re.compile(r"[\w.]+:\w+")
NOTE = "no description of this task is known, so this one is generated from its observation space"


def build(env_args: Mapping[str, Any], n_agents: int, n_actions: int, options: Mapping[str, Any]) -> Layouts:
    """Build the layouts of the task ``env_args.key``; ``options`` is the ``layout`` section of the configuration."""
    description = describe(env_args, n_agents, n_actions, options.get("description") or "")
    return Layouts(description, DescribedState(description))


def describe(env_args: Mapping[str, Any], n_agents: int, n_actions: int, own: str = "") -> Description:
    """Return the description of a task.

    Args:
        env_args: ``key`` names the task.
        n_agents: number of agents.
        n_actions: number of actions.
        own: ``"module:function"``, a function of the user that gets the other arguments and returns the description.

    Returns:
        The user's description, else the built-in one, else one from the spaces alone.

    Raises:
        ConfigError: ``own`` cannot be loaded.
    """
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
    """Describe a task by its observation space alone; the prompt says so. Fields have the names of the space, if any.

    Builds the environment once to read its observation space, the longest if those of the agents differ. The numbers
    have the order in which ``gymma`` flattens the space.
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
    """Return the fields of a space whose numbers begin at ``at``, and the index after its last number."""
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
    whole, bounds = 2, [(-float("inf"), float("inf"))] * count  # text, graphs: as they are flattened
    if kind == "Box":
        whole = 0 if space.dtype.kind in "iu" else 2
        bounds = list(zip(space.low.flatten().tolist(), space.high.flatten().tolist(), strict=True))
    return [
        Number(_numbered(name, i, count), at + i, low, high, whole) for i, (low, high) in enumerate(bounds)
    ], at + count


def _numbered(name: str, i: int, count: int) -> str:
    """Return the name of number ``i`` of ``count`` numbers of a space called ``name``."""
    return f"{name or 'number'} {i}" if count > 1 or not name else name
