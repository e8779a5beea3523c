"""Observations and states of every registered environment, decoded on the stand-in CUDA device."""

from typing import Any

import torch
from torch import Tensor

from lolm_plugin import registry
from lolm_plugin.configuration import config_files
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.battle import BattleLayout
from lolm_plugin.observations.entity_features import ActorFeatures, CriticFeatures
from lolm_plugin.paths import BUNDLED

ROWS = 4
MAPS = [
    ("sc2", {"map_name": "MMM2"}),  # healers, shields and several types
    ("smaclite", {"map_name": "MMM2"}),
    ("smax", {"map_name": "3s5z_vs_3s6z"}),
    ("probe", {"map_name": "duel"}),
    ("gymma", {"key": "lbforaging:Foraging-8x8-2p-3f-v3"}),
    ("gymma", {"key": "rware:rware-tiny-2ag-v2"}),
    ("gymma", {"key": "pz-mpe-simple-spread-v3"}),
]


def decode_all() -> None:
    """Decode every map's observations and states. Raises the device's errors; AssertionError for a result elsewhere."""
    config = config_files.resolve("updet_mappo", "probe", BUNDLED / "config").config
    for env, env_args in MAPS:
        n_agents, n_actions = registry.load(registry.MAP_SIZES[env])(env_args)
        _decode(build_layouts(env, env_args, n_agents, n_actions), config["entity"])


def _decode(layouts: Any, entity: dict[str, Any]) -> None:
    description = layouts.observation
    views = [values.to("cuda") for values in description.sample(ROWS * description.n_agents)]
    obs, available, agents = views
    state = torch.rand(ROWS, layouts.state.size).to("cuda")
    results: list[Tensor] = [*layouts.state.entities(state), description.living(obs), description.meaning(obs)]
    results += [rule.holds for rule in description.rules(obs, available)]
    for block in description.blocks:
        results += [block.present(obs), *(column for field in block.fields for column in field.features(block, obs))]
        results += [field.holds(block, obs) for field in block.fields]
    if isinstance(description, BattleLayout):
        by_battle = [values.unflatten(0, (ROWS, description.n_agents)) for values in (obs, available)]
        actor = ActorFeatures(description, entity)(obs, agents)
        critic = CriticFeatures(layouts, entity)(state, *by_battle)
        results += [actor.features, actor.present, actor.targets, critic.features, critic.present, critic.targets]
    assert all(result.is_cuda for result in results), "a result is not where its input is"
