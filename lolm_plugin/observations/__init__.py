"""Layouts that decode flat observation and state vectors into named units, one file per environment family."""

from collections.abc import Mapping
from typing import Any

from lolm_plugin import registry
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.battle import Layouts


def build_layouts(
    env: str, env_args: Mapping[str, Any], n_agents: int, n_actions: int, options: Mapping[str, Any] | None = None
) -> Layouts:
    """Build the layouts of an environment from its configuration alone.

    Args:
        env: name of the environment, a key of ``registry.LAYOUTS``.
        env_args: the arguments of the environment.
        n_agents: number of agents.
        n_actions: number of actions.
        options: the ``layout`` section of the configuration.

    Returns:
        The layouts of observation and state.

    Raises:
        ConfigError: the environment has no layout, or its layout refuses ``env_args``.
    """
    if env not in registry.LAYOUTS:
        raise ConfigError(
            f"env={env} has no observation layout, so no prompt can be written from its vectors; "
            f"set --env-config to one of: {', '.join(sorted(registry.LAYOUTS))}."
        )
    return registry.load(registry.LAYOUTS[env])(env_args, n_agents, n_actions, options or {})
