"""Explanation of prompts: which number of an observation is printed as which words.

Each number is changed, and the change of the prompt is observed. The result is therefore correct for any writer.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lolm_plugin.prompts.style import Writer
from lolm_plugin.prompts.template import FragmentTable

UNREAD = "(not in the prompt)"
SILENT = "(nothing now)"  # its entity is absent, or the writer leaves the value out


@dataclass(frozen=True)
class NumberInWords:
    """One number of an observation: ``name`` is its meaning, ``words`` is its text in the prompt."""

    index: int
    value: float
    name: str
    words: str


def explain(writer: Writer, obs: Tensor, available: Tensor, agent: int) -> list[NumberInWords]:
    """Explain every number of an agent's obs [obs_size] with mask ``available`` [n_actions]."""
    changed = [_changes(float(value)) for value in obs]
    rows = [obs]
    for index, values in enumerate(changed):
        for value in values:
            rows.append(obs.clone())
            rows[-1][index] = value
    count, table = len(rows), FragmentTable()
    fragments = writer.write(
        table, torch.stack(rows), available.expand(count, -1), torch.full((count,), agent)
    ).fragments
    differs = fragments[1:] != fragments[0]
    names, explained, start = writer.layout.names(agent), [], 0
    for index, values in enumerate(changed):
        own = differs[start : start + len(values)]
        start += len(values)
        words = _words(table, fragments[0], own)
        explained.append(NumberInWords(index, float(obs[index]), names.get(index, ""), words))
    return explained


def _changes(value: float) -> list[float]:
    """Return the changed values of a number: one small step up and down, and the values of flags."""
    step = 1.0 if value.is_integer() else 0.07
    return [value + step, value - step, 0.0, 1.0, 2.0]


def _words(table: FragmentTable, row: np.ndarray, differs: np.ndarray) -> str:
    """Return the text in ``row`` [width] that the smallest changes alter: differs bool [changes, width].

    A larger change adds or removes an entity with its whole sentence.
    """
    counts = differs.sum(1)
    if not counts.any():
        return UNREAD
    few = (counts > 0) & (counts <= counts[counts > 0].min() + 2)
    said = "".join(table.split(np.where(differs[few].any(0), row, 0))).strip()
    return f'"{said}"' if said else SILENT
