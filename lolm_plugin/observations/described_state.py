"""What a critic reads of a described task: every agent and what it sees as rows of numbers of the same width."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lolm_plugin.observations.description import Choice, Description, Entities, Field, Flag, Number, Place, Word


@dataclass(frozen=True)
class DescribedState:
    """A global state that is all agents' observations, one after the other, as EPyMARL's ``gymma`` has it.

    A row is [which block 1-hot, fields of all blocks], the fields of other blocks being 0. Its width depends on what
    kinds of things there are, not on how many, so that a critic moves between sizes of a task.
    """

    description: Description

    @property
    def size(self) -> int:
        """Numbers of a state."""
        return self.description.n_agents * self.description.size

    @property
    def width(self) -> int:
        """Numbers of a row."""
        blocks = self._blocks()
        return len(blocks) + sum(_width(field) for block in blocks for field in block.fields)

    def tokens(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """States [..., size] -> (rows [..., n, width], present [..., n]); absent rows are zeros."""
        obs = state.unflatten(-1, (self.description.n_agents, self.description.size))
        blocks = self._blocks()
        before, rows, present = len(blocks), [], []
        for number, block in enumerate(blocks):
            columns = [column for field in block.fields for column in _columns(block, field, obs)]
            own = torch.stack(columns, -1) if columns else obs.new_zeros(*obs.shape[:-1], len(block.starts), 0)
            kind = functional.one_hot(torch.tensor(number, device=obs.device), len(blocks)).to(obs.dtype)
            after = self.width - before - own.shape[-1]
            padded = functional.pad(own, (before - len(blocks), after))
            rows.append(torch.cat([kind.expand(*own.shape[:-1], -1), padded], -1))
            present.append(block.present(obs))
            before += own.shape[-1]
        there = torch.cat(present, -1)
        tokens = torch.cat(rows, -2).masked_fill(~there.unsqueeze(-1), 0.0)
        return tokens.flatten(-3, -2), there.flatten(-2)

    def _blocks(self) -> tuple[Entities, ...]:
        return (self.description.me, *self.description.entities)


def _width(field: Field) -> int:
    if isinstance(field, Choice):
        return len(field.options)
    return {Number: 1, Flag: 1, Place: 2, Word: 0}[type(field)]


def _columns(block: Entities, field: Field, obs: Tensor) -> list[Tensor]:
    """The columns [..., entities] of a field, about between -1 and 1."""
    if isinstance(field, Flag):
        return [(block.read(obs, field.at) != 0).to(obs.dtype)]
    if isinstance(field, Choice):
        return [block.read(obs, field.at + i) for i in range(len(field.options))]
    if isinstance(field, Word):
        return []
    largest = max(abs(field.low), abs(field.high))
    scale = 1 / largest if 0 < largest < float("inf") else 1.0
    if isinstance(field, Number):
        return [block.read(obs, field.at) * scale]
    x, y = block.offset(obs, field)
    return [(x * scale).expand(*obs.shape[:-1], -1), (y * scale).expand(*obs.shape[:-1], -1)]
