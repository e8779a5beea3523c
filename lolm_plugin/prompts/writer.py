"""Who puts observations into words: what a prompter asks, whatever the words come from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from lolm_plugin.prompts.phrases import Phrase
from lolm_plugin.prompts.pieces import Pieces


class Written(NamedTuple):
    """Prompts of many rows: ``parts`` by name, each one or more phrases of [rows] or [rows, units].

    ``units`` names the parts whose first phrase has one sentence a unit; ``target`` int64 [rows, n_targets] says which
    of these units, counted through, a target action is about, -1 for none. ``ends_turn``: the newline before the last
    part is left out, as chat templates do at the end of a turn.
    """

    parts: dict[str, Sequence[Phrase]]
    units: tuple[str, ...]
    target: np.ndarray
    ends_turn: bool = False

    def blocks(self, pieces: Pieces, rows: int) -> dict[str, list[np.ndarray]]:
        """The pieces of every part, one array int64 [rows, width] for each of its phrases."""
        laid = {name: pieces.blocks(phrases, rows) for name, phrases in self.parts.items()}
        if self.ends_turn:
            *before, _ = laid
            _drop_newline([(laid[name], i) for name in before for i in range(len(laid[name]))], pieces, rows)
        return laid

    def texts(self, pieces: Pieces, rows: int) -> list[dict[str, str]]:
        """Every row's parts in words."""
        laid = {name: np.concatenate(blocks, axis=1) for name, blocks in self.blocks(pieces, rows).items()}
        return [{name: "".join(pieces.split(part[row])) for name, part in laid.items()} for row in range(rows)]


def _drop_newline(blocks: Sequence[tuple[list[np.ndarray], int]], pieces: Pieces, rows: int) -> None:
    """Replace the last piece of each row by the one without its newline, in the last block that has one."""
    left = np.ones(rows, bool)
    for part, i in reversed(blocks):
        block = part[i]
        here = left & (block > 0).any(1)
        if here.any():
            part[i] = block = block.copy()
            last = block.shape[1] - 1 - (block > 0)[:, ::-1].argmax(1)
            block[here, last[here]] = pieces.without_newline(block[here, last[here]])
        left &= ~here


class Readable(Protocol):
    """What a prompter has to know of a layout, whatever kind of task it is of."""

    map_name: str
    n_agents: int

    @property
    def size(self) -> int: ...

    @property
    def n_base_actions(self) -> int: ...

    @property
    def n_targets(self) -> int: ...

    def action_names(self, meaning: int, /) -> tuple[str, ...]: ...


class Writer(ABC):
    """Puts what agents see into words.

    ``beginning`` is the same for every agent and timestep, so that it is computed once; it ends in a newline and no
    part begins with a space, so that joining the token ids of the two is the same as tokenising the joined text.
    ``cue`` is the text of the last part. ``adds_bos``: the prompt begins with the tokenizer's begin-of-text token.
    """

    layout: Readable
    beginning: str
    cue: str
    adds_bos: bool = True

    @abstractmethod
    def write(self, obs: Tensor, available: Tensor, agent: Tensor) -> Written:
        """What changes: obs [rows, obs_size], available [rows, n_actions], agent [rows]."""

    @abstractmethod
    def varied(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Made-up obs, available and agent: every kind and number that can be, or not."""

    @abstractmethod
    def fullest(self) -> list[str]:
        """Texts of what changes of which one is as long as this task allows, whatever the tokenizer."""

    @abstractmethod
    def names(self, agent: int) -> Mapping[int, str]:
        """For people: what each number of the observation of agent ``agent`` is, by its place."""

    def describe(self, obs: Tensor, available: Tensor, agent: Tensor) -> list[dict[str, str]]:
        """Every row's parts in words."""
        return self.write(obs, available, agent).texts(Pieces(), len(obs))
