"""Which number of an observation became which words: found by changing each number and looking what else is said.

So it holds whatever a writer does, and cannot disagree with it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lolm_plugin.prompts.style import Writer
from lolm_plugin.prompts.template import FragmentTable

UNREAD = "(not in the prompt)"
SILENT = "(nothing now)"  # what it is about is absent, or not worth a word


@dataclass(frozen=True)
class NumberInWords:
    """One number of an observation: ``name`` is what it is, ``words`` what it became."""

    index: int
    value: float
    name: str
    words: str


def explain(writer: Writer, obs: Tensor, available: Tensor, agent: int) -> list[NumberInWords]:
    """Every number of an agent's obs [obs_size], whose mask is ``available`` [n_actions]."""
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
    """What a number is changed to: a little, in its own steps, and as flags and bits change."""
    step = 1.0 if value.is_integer() else 0.07
    return [value + step, value - step, 0.0, 1.0, 2.0]


def _words(table: FragmentTable, row: np.ndarray, differs: np.ndarray) -> str:
    """What ``row`` [width] says where the changes that alter least alter it: differs bool [changes, width].

    Those that alter more make something else come or go, and with it its whole sentence.
    """
    counts = differs.sum(1)
    if not counts.any():
        return UNREAD
    few = (counts > 0) & (counts <= counts[counts > 0].min() + 2)
    said = "".join(table.split(np.where(differs[few].any(0), row, 0))).strip()
    return f'"{said}"' if said else SILENT
