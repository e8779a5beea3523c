"""Every name the plugin adds, and where it lives. Adding an entry is one line here.

Nothing is imported before it is asked for: jax, transformers and the environments are slow to load,
and a child process must be able to import jax first itself.
"""

import importlib
from typing import Any

# Host registries: kind -> name in a yaml -> "module:attribute".
ENTRIES: dict[str, dict[str, str]] = {
    "env": {
        "smax": "lolm_plugin.envs.smax:make_env",
        "probe": "lolm_plugin.envs.probe:make_env",
    },
    "runner": {"vector": "lolm_plugin.runners.vector_runner:VectorRunner"},
    "mac": {"prompt_mac": "lolm_plugin.controllers.prompt_controller:PromptMAC"},
    "agent": {"llm": "lolm_plugin.modules.agents.llm_agent:LLMAgent"},
    "critic": {"transformer_critic": "lolm_plugin.modules.critics.transformer_critic:TransformerCritic"},
    "learner": {"mappo_learner": "lolm_plugin.learners.mappo_learner:MAPPOLearner"},
    "action_selector": {"keyed": "lolm_plugin.controllers.action_selector:KeyedActionSelector"},
}

# Environments that can step many copies at once in one process (the ``vector`` runner).
VECTOR_ENVS: dict[str, str] = {
    "smax": "lolm_plugin.envs.smax:SMAXVectorEnv",
    "probe": "lolm_plugin.envs.probe:ProbeVectorEnv",
}

# ``map_name -> (n_agents, n_enemies)`` without building the environment; an unknown map is a ConfigError.
MAP_SIZES: dict[str, str] = {
    "smax": "lolm_plugin.envs.smax_scenarios:sizes",
    "probe": "lolm_plugin.envs.probe_tasks:sizes",
}

# How the flat vectors of an environment are laid out: ``(env_args, n_agents, n_actions) -> Layouts``.
LAYOUTS: dict[str, str] = {
    "smax": "lolm_plugin.observations.smax:build",
    "probe": "lolm_plugin.observations.probe:build",
}

# How a scene is put into words.
PROMPT_STYLES: dict[str, str] = {
    "paper": "lolm_plugin.prompts.paper:PaperStyle",
    "compact": "lolm_plugin.prompts.compact:CompactStyle",
}


def load(where: str) -> Any:
    """The attribute behind ``"module:attribute"``."""
    module, attribute = where.split(":")
    return getattr(importlib.import_module(module), attribute)


class Deferred:
    """A registry entry that imports what it names when first called; picklable."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return load(self.where)(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Deferred({self.where!r})"
