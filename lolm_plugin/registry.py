"""Every name the plugin adds, and where it lives. Adding an entry is one line here.

Nothing is imported before it is asked for: jax, transformers and the environments are slow to load,
and a child process must be able to import jax first itself.
"""

import importlib
from typing import Any, NamedTuple


class Env(NamedTuple):
    """Where the parts of an environment live, each as "module:attribute".

    layout: ``(env_args, n_agents, n_actions, options) -> Layouts``, how its flat vectors are laid out
    sizes: ``env_args -> (n_agents, n_actions)`` without building it; what it cannot play is a ConfigError
    make: ``(**env_args) -> env``, as the host's runners build it; empty: the host has its own
    vector: one that steps many copies at once in one process (the ``vector`` runner); empty: there is none
    battles: what is seen are the units of two teams; where not, tasks are known by their descriptions alone
    teacher: a controller that plays by known rules, for ``lolm imitate --teacher=heuristic``; empty: there is none
    """

    layout: str
    sizes: str
    make: str = ""
    vector: str = ""
    battles: bool = True
    teacher: str = ""


ENVS: dict[str, Env] = {
    "probe": Env(
        layout="lolm_plugin.observations.probe:build",
        sizes="lolm_plugin.envs.probe_tasks:sizes",
        make="lolm_plugin.envs.probe:make_env",
        vector="lolm_plugin.envs.probe:ProbeVectorEnv",
        teacher="lolm_plugin.controllers.scripted:ProbeOptimum",
    ),
    "smax": Env(
        layout="lolm_plugin.observations.smax:build",
        sizes="lolm_plugin.envs.smax_scenarios:sizes",
        make="lolm_plugin.envs.smax:make_env",
        vector="lolm_plugin.envs.smax:SMAXVectorEnv",
        teacher="lolm_plugin.controllers.scripted:SMAXHeuristic",
    ),
    "sc2": Env(layout="lolm_plugin.observations.sc2:build", sizes="lolm_plugin.observations.sc2:sizes"),
    "sc2v2": Env(layout="lolm_plugin.observations.sc2v2:build", sizes="lolm_plugin.observations.sc2v2:sizes"),
    "smaclite": Env(layout="lolm_plugin.observations.smaclite:build", sizes="lolm_plugin.observations.smaclite:sizes"),
    "gymma": Env(layout="lolm_plugin.observations.gymma:build", sizes="lolm_plugin.envs.gymma:sizes", battles=False),
}
LAYOUTS: dict[str, str] = {name: env.layout for name, env in ENVS.items()}
MAP_SIZES: dict[str, str] = {name: env.sizes for name, env in ENVS.items()}
VECTOR_ENVS: dict[str, str] = {name: env.vector for name, env in ENVS.items() if env.vector}

# Entity networks: each is an agent of this name and a critic NAME_critic, whose shape is the config section NAME.
TRUNKS: dict[str, str] = {
    "updet": "lolm_plugin.modules.trunks.updet:UPDeT",
    "asn_attention": "lolm_plugin.modules.trunks.asn_attention:ASNAttention",
    "dt2gs": "lolm_plugin.modules.trunks.dt2gs:DT2GS",
}

# Suffix of an algorithm's name where ``lolm imitate`` taught it, so that its records are never mixed with a training's.
IMITATED = "-imitated"

# Host registries: kind -> name in a yaml -> "module:attribute".
ENTRIES: dict[str, dict[str, str]] = {
    "env": {name: env.make for name, env in ENVS.items() if env.make},
    "runner": {
        "vector": "lolm_plugin.runners.vector_runner:VectorRunner",
        "supervised_parallel": "lolm_plugin.runners.supervised_parallel_runner:SupervisedParallelRunner",
    },
    "mac": {
        "prompt_mac": "lolm_plugin.controllers.prompt_controller:PromptMAC",
        "network_mac": "lolm_plugin.controllers.network_controller:NetworkMAC",
    },
    "agent": {
        "llm": "lolm_plugin.modules.agents.llm_agent:LLMAgent",
        "gru": "lolm_plugin.modules.agents.gru_agent:GRUAgent",
        **dict.fromkeys(TRUNKS, "lolm_plugin.modules.agents.entity_agent:EntityAgent"),
    },
    "critic": {
        "transformer_critic": "lolm_plugin.modules.critics.transformer_critic:TransformerCritic",
        "mlp_critic": "lolm_plugin.modules.critics.mlp_critic:MLPCritic",
        **{f"{trunk}_critic": "lolm_plugin.modules.critics.entity_critic:EntityCritic" for trunk in TRUNKS},
    },
    "learner": {"mappo_learner": "lolm_plugin.learners.mappo_learner:MAPPOLearner"},
    "action_selector": {"keyed": "lolm_plugin.controllers.action_selector:KeyedActionSelector"},
}

# How a scene is put into words.
PROMPT_STYLES: dict[str, str] = {
    "paper": "lolm_plugin.prompts.paper:PaperStyle",
    "compact": "lolm_plugin.prompts.compact:CompactStyle",
    "terse": "lolm_plugin.prompts.terse:TerseStyle",
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
