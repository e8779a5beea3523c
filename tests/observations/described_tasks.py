"""Tasks with built-in descriptions, and random episodes of them."""

import numpy as np
import torch

from lolm_plugin.envs import gymma
from lolm_plugin.observations import build_layouts
from lolm_plugin.randomness import keyed_generator

KEYS = (
    "lbforaging:Foraging-8x8-2p-3f-v3",
    "lbforaging:Foraging-2s-10x10-3p-3f-coop-v3",
    "rware:rware-tiny-2ag-v2",
    "rware:rware-medium-3ag-hard-v2",
    "pz-mpe-simple-spread-v3",
)


def description(key):
    """Return the built-in description of a task."""
    return layouts(key).observation


def layouts(key, **options):
    return build_layouts("gymma", {"key": key}, *gymma.sizes({"key": key}), options)


def episode(key, steps=24, seed=0):
    """Yield the environment after reset and after each of some random steps."""
    env = gymma.make_env(key=key, time_limit=steps + 1, seed=seed)
    env.reset()
    yield env
    for step in range(steps):
        actions = keyed_generator(seed, "test", step).integers(env.get_total_actions(), size=env.n_agents)
        _, _, terminated, truncated, _ = env.step(actions)
        if terminated or truncated:
            break
        yield env
    env.close()


def seen(env):
    """Return obs [agents, size], available [agents, actions] and agent ids."""
    obs = torch.from_numpy(np.array(env.get_obs()))
    return obs, torch.tensor(env.get_avail_actions()), torch.arange(env.n_agents)
