"""Blocks of units in flat vectors: the index of each field of each unit. Methods read whole tensors at once.

Layouts are built from the configuration alone, because controllers and learners never see the environment. They are
checked against the sizes in the scheme (``checks.py``).
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from lolm_plugin.observations.state import State
from lolm_plugin.observations.units import HEALERS, NAMES, UNKNOWN

# Actions of every battle. One action per target follows.
BASE_ACTIONS = ("no-op", "stop", "move north", "move south", "move east", "move west")
N_BASE_ACTIONS = len(BASE_ACTIONS)
KINDS: tuple[str, ...] = (*NAMES, "unknown unit")  # names by universe index; the last is for UNKNOWN


@dataclass(frozen=True)
class Units:
    """Units of a block with their fields, with any leading dimensions ``[...]``.

    ``present`` [..., units] is false for a unit that is dead or out of sight. ``fields`` maps a name
    (``health``, ``dx``, ...) to [..., units]. ``kind`` [..., units] is the index in the unit universe,
    ``UNKNOWN`` if the observation does not show it.
    """

    present: Tensor
    fields: Mapping[str, Tensor]
    kind: Tensor


@dataclass(frozen=True)
class Observed:
    """Decoded observations: ``own`` has one unit, ``allies`` n_agents - 1 (self skipped), ``enemies`` n_enemies."""

    own: Units
    allies: Units
    enemies: Units
    sight: Tensor  # [...], the observer's sight range: multiply dist, dx and dy by it to get cells
    heals: Tensor  # bool [...]: the observer's target actions are about allies, not enemies


@dataclass(frozen=True)
class Block:
    """``rows`` units of ``width`` numbers each, contiguous from ``start``: fields, type bits, then unread numbers.

    ``kinds`` are the universe indices of the one-hot type bits. Without type bits, ``only_kind`` is the type of every
    unit of the block. ``unread`` is the count of unread numbers at the end of each unit.
    """

    start: int
    rows: int
    fields: tuple[str, ...]
    kinds: tuple[int, ...] = ()
    only_kind: int = UNKNOWN
    unread: int = 0

    @property
    def width(self) -> int:
        return len(self.fields) + len(self.kinds) + self.unread

    @property
    def end(self) -> int:
        return self.start + self.rows * self.width

    @property
    def possible_kinds(self) -> tuple[int, ...]:
        """Universe indices that a unit of the block can have; ``UNKNOWN`` if the type is not shown."""
        return self.kinds or (self.only_kind,)

    def published(self, allies: "Block") -> "Block":
        """Return this block of enemies with type bits in the allies' order, as in the released code of DT2GS.

        On SMAC's maps with Stalkers and Zealots, this exchanges the two types. If the two sides have different types,
        nothing changes.
        """
        return replace(self, kinds=allies.kinds) if set(self.kinds) == set(allies.kinds) else self

    def units_of(self, flat: Tensor) -> Tensor:
        """Return the numbers of each unit [..., rows, width] in flat vectors [..., size]."""
        return flat[..., self.start : self.end].unflatten(-1, (self.rows, self.width))

    def type_bits(self, flat: Tensor) -> Tensor:
        """Return the one-hot type bits [..., rows, kinds] in flat vectors [..., size]."""
        return self.units_of(flat)[..., len(self.fields) : len(self.fields) + len(self.kinds)]

    def decode(self, flat: Tensor, present: Tensor | None = None) -> Units:
        """Decode flat vectors [..., size] into this block's units.

        A unit of zeros is absent, unless ``present`` [..., rows] is given.
        """
        rows = self.units_of(flat)
        if present is None:
            present = (rows != 0).any(-1)
        fields = {name: rows[..., i] for i, name in enumerate(self.fields)}
        if self.kinds:
            bits = self.type_bits(flat)
            table = torch.tensor(self.kinds, device=flat.device)
            kind = torch.where(bits.any(-1), table[bits.argmax(-1)], UNKNOWN)
        else:
            kind = torch.full(present.shape, self.only_kind, device=flat.device)
        return Units(present, fields, torch.where(present, kind, UNKNOWN))


class BattleState(State):
    """A global state that decodes to the units of both teams. A critic's features are the same on every map."""

    FEATURES = ("health", "shield", "cooldown", "x", "y")
    WIDTH = 1 + len(FEATURES) + len(KINDS)  # side, features, type one-hot

    @property
    def width(self) -> int:
        return self.WIDTH

    @abstractmethod
    def decode(self, state: Tensor) -> tuple[Units, Units]:
        """Decode states [..., size] into (allies, enemies)."""

    @abstractmethod
    def as_published(self) -> Self:
        """Return the state with enemy type bits as the released code of DT2GS reads them (``Block.published``)."""

    def entities(self, state: Tensor) -> tuple[Tensor, Tensor]:
        allies, enemies = self.decode(state)
        features = torch.cat([self._features(allies, 1.0), self._features(enemies, -1.0)], dim=1)
        return features, torch.cat([allies.present, enemies.present], dim=1)

    def _features(self, units: Units, side: float) -> Tensor:
        """Return features [rows, units, width] of units [rows, units]; ``side`` is 1 for allies and -1 for enemies."""
        missing = torch.zeros(units.kind.shape, device=units.kind.device)
        known = dict(units.fields)
        if "energy" in known:  # a healer has no weapon, so its cooldown feature is free for its energy
            known["cooldown"] = known["cooldown"] + known["energy"]
        fields = [known.get(name, missing) for name in self.FEATURES]
        kind = functional.one_hot(units.kind, UNKNOWN + 1).to(missing.dtype)
        features = torch.cat([torch.stack([torch.full_like(missing, side), *fields], dim=-1), kind], dim=-1)
        return features * units.present.unsqueeze(-1)


@dataclass(frozen=True)
class StateLayout(BattleState):
    """A global state of the allies' block, the enemies' block, then unread numbers."""

    allies: Block
    enemies: Block
    unread: int = 0  # numbers after the blocks: last actions, timestep

    @property
    def size(self) -> int:
        return max(self.allies.end, self.enemies.end) + self.unread

    def decode(self, state: Tensor) -> tuple[Units, Units]:
        """Decode states [..., state_size] into (allies, enemies) with absolute positions."""
        return _split_energy(self.allies.decode(state)), self.enemies.decode(state)

    def as_published(self) -> Self:
        return replace(self, enemies=self.enemies.published(self.allies))


def per_kind(values: float | tuple[float, ...], kind: Tensor) -> Tensor:
    """Look up one value for all units, or one per universe index, for ``kind`` [...]; unknown units get the largest."""
    if isinstance(values, tuple):
        return torch.tensor((*values, max(value for value in values if value == value)), device=kind.device)[kind]
    return torch.full(kind.shape, values, device=kind.device)


def contiguous(start: int, *blocks: tuple[int, Sequence[str], Sequence[int], int]) -> list[Block]:
    """Return blocks end to end from ``start``; each is given as (rows, fields, kinds, only_kind)."""
    placed = []
    for rows, fields, kinds, only_kind in blocks:
        placed.append(Block(start, rows, tuple(fields), tuple(kinds), only_kind))
        start = placed[-1].end
    return placed


def _split_energy(allies: Units) -> Units:
    """Split the cooldown field: SMAC writes a healer's energy there, because a healer has no weapon."""
    if "cooldown" not in allies.fields:
        return allies
    column = allies.fields["cooldown"]
    heals = torch.isin(allies.kind, torch.tensor(HEALERS, device=column.device))
    split = {"cooldown": column.masked_fill(heals, 0.0), "energy": column.masked_fill(~heals, 0.0)}
    return replace(allies, fields={**allies.fields, **split})
