"""Made-up observations of a described task: to try a tokenizer on, and to find the longest prompt."""

import numpy as np
import torch
from torch import Tensor

from lolm_plugin.observations.description import Choice, Description, Field, Flag, Number, Place

FARTHEST = 9999.0  # of numbers without bounds


def described_views(description: Description, rows: int, full: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Obs [rows, obs_size], available [rows, n_actions] and agent [rows]: numbers in their ranges, things there or not.

    ``full``: everything is there, flags are set, numbers are long, every row shows the next option, all is available.
    """
    rng = np.random.default_rng(0)
    obs = np.zeros((rows, description.size), np.float32)
    for block in (description.me, *description.entities):
        for start in block.starts:
            there = full or not block.shown_by or rng.random(rows) < 0.7
            before = obs.copy()
            for field in block.fields:
                _fill(obs, field, start, rng, full)
            obs = np.where(np.reshape(there, (-1, 1)), obs, before)
    available = (rng.random((rows, description.n_actions)) < 0.5) | full
    available[:, 0] |= ~available.any(1)  # nobody reads a prompt of an agent that can do nothing
    return torch.from_numpy(obs), torch.from_numpy(available), torch.arange(rows) % description.n_agents


def _fill(obs: np.ndarray, field: Field, start: int, rng: np.random.Generator, full: bool) -> None:
    """Write one field of one entity into all rows."""
    rows = len(obs)
    if isinstance(field, Number):
        obs[:, start + field.at] = _numbers(field, rows, rng, full)
    elif isinstance(field, Flag):
        obs[:, start + field.at] = 1 if full else rng.random(rows) < 0.5
    elif isinstance(field, Choice):
        option = (np.arange(rows) if full else rng.integers(len(field.options), size=rows)) % len(field.options)
        obs[:, start + field.at : start + field.at + len(field.options)] = np.eye(len(field.options))[option]
    elif isinstance(field, Place) and not field.points:
        for at in (field.x, field.y):
            obs[:, start + at] = _numbers(field, rows, rng, full)


def _numbers(field: Number | Place, rows: int, rng: np.random.Generator, full: bool) -> np.ndarray:
    """Values of a number in its range; ``full``: its ends by turns, of which one is longest in print."""
    low, high = (min(max(bound, -FARTHEST), FARTHEST) for bound in (field.low, field.high))
    if not full:
        values = rng.uniform(low, high, rows)
        return values.round() if field.decimals == 0 else values
    # Digits that no tokenizer has one token for, unlike those of 1.00.
    low, high = ((bound - np.sign(bound) * 0.12) if field.decimals else bound for bound in (low, high))
    return np.where(np.arange(rows) % 2, low, high)
