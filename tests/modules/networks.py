"""The small networks in every registered form, with observations, batches and entity features for tests."""

import copy
from types import SimpleNamespace

import numpy as np
import torch

from lolm_plugin import registry
from lolm_plugin.configuration import config_files
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.entity_features import EntityFeatures
from tests.dotted import put

TRUNKS = tuple(registry.TRUNKS)
# Name -> the registered trunk, and the settings (dotted keys) that differ from the defaults.
ENTITY_FORMS = {
    **{name: (name, {}) for name in TRUNKS},
    "updet recurrent": ("updet", {"updet.recurrent_token": True}),
    "updet paper": (
        "updet",
        {
            **{"updet.head_width": 32, "updet.depth": 2, "updet.feature_width": 32, "updet.attention_bias": False},
            **{"updet.wide_heads": True, "updet.recurrent_token": True},
        },
    ),
    "asn inner": ("asn_attention", {"asn_attention.combine": "inner"}),
    "asn recurrent": ("asn_attention", {"asn_attention.recurrent": True}),
    "asn inner recurrent": ("asn_attention", {"asn_attention.combine": "inner", "asn_attention.recurrent": True}),
    "dt2gs linear": ("dt2gs", {"dt2gs.fuse_relu": False, "dt2gs.subtask_kl_coef": 0.5}),
}
FORMS = {**ENTITY_FORMS, "gru": ("gru", {})}
# Settings of the code released with DT2GS.
REFERENCE = {
    **{"entity.role_flag": False, "entity.further_fields": [], "entity.mask_absent": False},
    **{"entity.heal_mode": "ignore", "entity.init_gain": 0.01, "dt2gs.fuse_relu": False},
    "asn_attention.layer_norm": False,
}
# The same large gain everywhere: the head's small default gain would hide differences.
ORDINARY = {"entity.init_gain": 1.5}


def settings():
    """Return the default configuration, with the sections of all algorithm files."""
    folder = config_files.plugin_config_dir()
    config = config_files.read(folder / "default.yaml")
    for path in sorted((folder / "algs").glob("*.yaml")):
        config = config_files.merge(config_files.read(path), config)
    return copy.deepcopy(config)


def network_args(form="updet", map_name="3m", changes=ORDINARY, seed=1):
    """Build the arguments that a host would pass for a form of a network on a SMAC map."""
    agent, own = FORMS[form]
    env_args = {"map_name": map_name, "state_last_action": False}
    n_agents, n_actions = registry.load(registry.MAP_SIZES["sc2"])(env_args)
    config = settings() | {"env": "sc2", "env_args": env_args, "n_agents": n_agents, "n_actions": n_actions}
    config |= {"agent": agent, "critic_type": f"{agent}_critic", "seed": seed}
    config |= {"obs_last_action": False, "obs_agent_id": False}
    put(config, {**own, **changes})
    return SimpleNamespace(**config)


def layouts_of(args):
    return build_layouts(args.env, args.env_args, args.n_agents, args.n_actions, args.layout)


def new_agent(*which, **how):
    """Build an agent: ``new_agent(form, map_name, changes, seed)``."""
    args = network_args(*which, **how)
    return registry.load(registry.ENTRIES["agent"][args.agent])(layouts_of(args).observation, args)


def new_critic(*which, critic_type="", **how):
    args = network_args(*which, **how)
    args.critic_type = critic_type or args.critic_type
    layouts = layouts_of(args)
    scheme = {"obs": {"vshape": layouts.observation.size}, "state": {"vshape": layouts.state.size}}
    return registry.load(registry.ENTRIES["critic"][args.critic_type])(scheme, args)


def observations_of(map_name, random_views, shape, seed=3, unseen=0.3):
    """Draw observations [*shape, agents, size] of living agents that do not see all units."""
    layout = layouts_of(network_args(map_name=map_name)).observation
    shape = (*shape, layout.n_agents)
    return random_views(layout, int(torch.tensor(shape).prod()), seed, unseen)[0].unflatten(0, shape)


def random_batch(map_name, random_views, episodes, steps, seed=3):
    """Draw the batch fields that a critic reads, from a battle with some dead units."""
    args = network_args(map_name=map_name)
    state = layouts_of(args).state
    torch.manual_seed(seed)
    states = torch.rand(episodes, steps, state.size)
    for block in (state.allies, state.enemies):
        block.units_of(states)[torch.rand(episodes, steps, block.rows) < 0.2] = 0
    available = torch.randint(2, (episodes, steps, args.n_agents, args.n_actions))
    obs = observations_of(map_name, random_views, (episodes, steps), seed)
    return {"state": states, "obs": obs, "avail_actions": available}


def random_entities(width, n_allies, n_enemies, *shape, seed=5):
    """Draw normally distributed tokens; all units are present."""
    torch.manual_seed(seed)
    n = 1 + n_allies + n_enemies
    targets = torch.arange(1 + n_allies, n).expand(*shape, -1)
    return EntityFeatures(torch.randn(*shape, n, width), torch.ones(*shape, n, dtype=torch.bool), targets)


def zeros(agent, *shape):
    """Return the memory of ``shape`` agents at the start of an episode."""
    return torch.zeros(*shape, agent.hidden_width)


def drawn(agent, *shape):
    """Draw noise; the same in every call."""
    return agent.noise(shape, np.random.default_rng(7))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def silent_parameters(module):
    """Return the names of parameters without a gradient. Biases of keys are left out: they change no softmax."""
    return [
        name
        for name, parameter in module.named_parameters()
        if not name.endswith("key.bias") and (parameter.grad is None or not parameter.grad.any())
    ]
