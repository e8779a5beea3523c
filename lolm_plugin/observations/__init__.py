"""Flat observation and state vectors read as named units, one file per environment family."""

from collections.abc import Mapping
from typing import Any

from lolm_plugin import registry
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.battle import Layouts


def build_layouts(
    env: str, env_args: Mapping[str, Any], n_agents: int, n_actions: int, options: Mapping[str, Any] | None = None
) -> Layouts:
    """The layouts of an environment, from its configuration alone; an unknown one is refused by name.

    ``options`` is the ``layout`` section of the configuration.
    """
    if env not in registry.LAYOUTS:
        raise ConfigError(
            f"env={env} has no observation layout, so its vectors cannot be put into words; "
            f"set --env-config to one of: {', '.join(sorted(registry.LAYOUTS))}."
        )
    return registry.load(registry.LAYOUTS[env])(env_args, n_agents, n_actions, options or {})
