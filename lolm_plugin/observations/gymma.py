"""The tasks of EPyMARL's ``gymma``, known by their descriptions: ours, the user's, or one from their spaces."""

import re
from collections.abc import Mapping
from typing import Any

from lolm_plugin import registry
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.described_state import DescribedState
from lolm_plugin.observations.description import Description
from lolm_plugin.observations.descriptions import spaces
from lolm_plugin.observations.layout import Layouts

PLACE = re.compile(r"[\w.]+:\w+")


def build(env_args: Mapping[str, Any], n_agents: int, n_actions: int, options: Mapping[str, Any]) -> Layouts:
    """The layouts of a task by its ``env_args.key``; ``options`` is the ``layout`` section of the configuration."""
    description = describe(env_args, n_agents, n_actions, options.get("description") or "")
    return Layouts(description, DescribedState(description))


def describe(env_args: Mapping[str, Any], n_agents: int, n_actions: int, own: str = "") -> Description:
    """The description of a task; ``own`` names a function of the user's, ``"module:function"``, that makes it."""
    if own:
        return _load(own)(env_args, n_agents, n_actions)
    for module in registry.DESCRIPTIONS.values():
        if re.fullmatch(registry.load(f"{module}:KEY"), str(env_args["key"])):
            return registry.load(f"{module}:describe")(env_args, n_agents, n_actions)
    return spaces.describe(env_args, n_agents, n_actions)


def _load(where: str) -> Any:
    if not PLACE.fullmatch(where):
        raise ConfigError(f"layout.description={where} names no function: write it as module:function.")
    try:
        return registry.load(where)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"layout.description={where} cannot be loaded ({error}): put its module's folder on PYTHONPATH, and write "
            "it as module:function."
        ) from error
