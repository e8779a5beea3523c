"""Made-up observations, to try a tokenizer on before any battle."""

import numpy as np
import torch
from torch import Tensor

from lolm_plugin.observations.described_views import described_views
from lolm_plugin.observations.description import Description
from lolm_plugin.observations.layout import ObservationLayout


def varied_views(layout: ObservationLayout | Description, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Obs [rows, obs_size], available [rows, n_actions] and agent [rows]: every kind and number that can be, or not."""
    if isinstance(layout, Description):
        return described_views(layout, rows)
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (rows, layout.size)).astype(np.float32)
    for block in (layout.enemies, layout.allies, layout.own):
        shape = (rows, block.rows)
        units = obs[:, block.start : block.end].reshape(*shape, block.width)
        if block.kinds:
            bits = np.eye(len(block.kinds))[rng.integers(len(block.kinds), size=shape)]
            units[..., len(block.fields) : len(block.fields) + len(block.kinds)] = bits
        units *= rng.random((*shape, 1)) < 0.7
        obs[:, block.start : block.end] = units.reshape(rows, -1)
    available = torch.from_numpy(rng.random((rows, layout.n_actions)) < 0.5)
    return torch.from_numpy(obs), available, torch.arange(rows) % layout.n_agents
