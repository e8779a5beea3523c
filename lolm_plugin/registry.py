"""All names that the plugin adds to EPyMARL, and their locations. A new entry is one line here.

Entries are imported on first use. jax, transformers and the environments are slow to load, and a child process must be
able to import jax first. Executed examples: ``examples/add_an_env``, ``examples/add_an_algorithm`` and
``examples/add_a_prompt_style``.
"""

import importlib
from typing import Any, NamedTuple


class Env(NamedTuple):
    """Locations of an environment's functions and classes, each as "module:attribute"; empty: there is none.

    ``examples/add_an_env`` has an environment in one file; its entry is in ``registry_entry.txt``.

    Args:
        layout: ``(env_args, n_agents, n_actions, options) -> Layouts``, the meaning of its observations and state.
        sizes: ``env_args -> (n_agents, n_actions)``, without building it. Raises ConfigError for an unknown map.
        make: ``(**env_args) -> env``, with EPyMARL's interface (``KeyedEnv``). Empty: EPyMARL has the environment.
        vector: a ``VectorEnv``, which steps many copies in one process, for ``runner=vector``.
        battles: True if agents observe the units of two teams. Otherwise prompts are built from a description.
        teacher: a controller that plays by rules (``ScriptedController``), for ``lolm imitate --teacher=heuristic``.
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

# Entity networks. Each is an agent of this name and a critic NAME_critic; the config section NAME has its sizes.
TRUNKS: dict[str, str] = {
    "updet": "lolm_plugin.modules.trunks.updet:UPDeT",
    "asn_attention": "lolm_plugin.modules.trunks.asn_attention:ASNAttention",
    "dt2gs": "lolm_plugin.modules.trunks.dt2gs:DT2GS",
}

# Suffix of the algorithm's name in records of ``lolm imitate``, so that they are never mixed with records of training.
IMITATED = "-imitated"

# Entries of EPyMARL's registries: kind -> name in a yaml -> "module:attribute".
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
        "gru": "lolm_plugin.modules.agents.gru:GRUAgent",
        **dict.fromkeys(TRUNKS, "lolm_plugin.modules.agents.policy:EntityAgent"),
    },
    "critic": {
        "transformer_critic": "lolm_plugin.modules.critics:TransformerCritic",
        "mlp_critic": "lolm_plugin.modules.critics:MLPCritic",
        **{f"{trunk}_critic": "lolm_plugin.modules.critics:EntityCritic" for trunk in TRUNKS},
    },
    "learner": {"mappo_learner": "lolm_plugin.learners.mappo:MAPPOLearner"},
    "action_selector": {"keyed": "lolm_plugin.controllers.action_selector:KeyedActionSelector"},
}

# Prompt styles: value of ``prompt.style`` -> class.
PROMPT_STYLES: dict[str, str] = {
    "paper": "lolm_plugin.prompts.paper:PaperStyle",
    "compact": "lolm_plugin.prompts.compact:CompactStyle",
    "terse": "lolm_plugin.prompts.terse:TerseStyle",
}


def load(where: str) -> Any:
    """Import and return the attribute at ``"module:attribute"``."""
    module, attribute = where.split(":")
    return getattr(importlib.import_module(module), attribute)


class Deferred:
    """A picklable registry entry that imports its target when it is called."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return load(self.where)(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Deferred({self.where!r})"
