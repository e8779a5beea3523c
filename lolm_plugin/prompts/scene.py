"""What one agent sees, as plain values ready to be put into words."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice, repeat
from typing import Any

import numpy as np
from torch import Tensor

from lolm_plugin.observations.layout import Block, ObservationLayout
from lolm_plugin.observations.units import HEALERS
from lolm_plugin.prompts.columns import KINDS, ActionColumns, SceneColumns, SelfColumns, UnitColumns, attack_range, look


@dataclass(frozen=True)
class SeenUnit:
    """Another unit. Distances are in map cells from the observer, health and shield fractions of the maximum.

    ``health``, ``shield`` and ``cooldown`` are None where the environment does not show them. A unit that is not
    ``seen`` is dead or out of sight, unless it is ``in_range``: SMACv2 hides units that can be attacked. ``in_range``
    tells whether the observer can attack it now, or heal it if it is a healer's ally.
    """

    side: str  # "ally" or "enemy"
    number: int
    kind: str
    seen: bool
    distance: float
    east: float
    north: float
    health: float | None
    shield: float | None
    cooldown: float | None
    in_range: bool = False


@dataclass(frozen=True)
class Self:
    """The observing agent; ``x`` and ``y`` are fractions of the map where the environment tells them.

    ``attack_range`` is in map cells (a healer's healing range), None where it is not known.
    """

    number: int
    kind: str
    health: float | None
    shield: float | None
    cooldown: float | None
    x: float | None
    y: float | None
    attack_range: float | None = None


@dataclass(frozen=True)
class Scene:
    """All that one agent sees and may do; ``actions`` are the words for its available actions."""

    me: Self
    allies: tuple[SeenUnit, ...]
    enemies: tuple[SeenUnit, ...]
    actions: tuple[str, ...]

    def columns(self) -> SceneColumns:
        """The same as one row of columns."""
        every = np.ones((1, len(self.actions)), bool)
        return SceneColumns(
            me=SelfColumns(**{name: column[:, 0] for name, column in _columns(Self, [self.me]).items()}),
            allies=_unit_columns("ally", self.allies),
            enemies=_unit_columns("enemy", self.enemies),
            actions=ActionColumns((self.actions, self.actions), np.zeros(1, bool), every),
        )


def kind_name(kind: int) -> str:
    """Words for a universe index."""
    return KINDS[kind]


def scenes(
    layout: ObservationLayout, obs: Tensor, available: Tensor, agent: Tensor, dynamic: bool = True
) -> list[Scene]:
    """One scene per row of obs [rows, obs_size], available [rows, n_actions], agent [rows]; see ``look``."""
    columns = look(layout, obs, available, agent, dynamic)
    actions = columns.actions
    return [
        Scene(
            me=me,
            allies=allies,
            enemies=enemies,
            actions=tuple(name for name, can in zip(actions.names[heals], available, strict=True) if can),
        )
        for me, allies, enemies, heals, available in zip(
            _records(Self, columns.me, slice(None)),
            _named(columns.allies),
            _named(columns.enemies),
            actions.heals.tolist(),
            actions.available.tolist(),
            strict=True,
        )
    ]


def fullest_scenes(layout: ObservationLayout, dynamic: bool) -> list[Scene]:
    """Scenes of which one is as long as this map allows, whatever the style and the tokenizer.

    In each, every unit is of one kind, or is absent but named (not ``dynamic``); every number is long and
    every action available.
    """
    return [
        _fullest(layout, kind, seen)
        for kind in sorted(layout.kinds)
        for seen in ((True,) if dynamic else (True, False))
    ]


def _fullest(layout: ObservationLayout, kind: int, seen: bool) -> Scene:
    def shown(block: Block, *names: str) -> dict[str, float | None]:
        return {name: 0.88 if name in block.fields else None for name in names}

    def unit(side: str, number: int, block: Block) -> SeenUnit:
        conditions = shown(block, "health", "shield", "cooldown")
        # Only a healer has allies in range; which kinds these are is not known here.
        near = seen and (side == "enemy" or layout.has_healers)
        return SeenUnit(side, number, kind_name(kind), seen, 18.88, -18.88, -18.88, **conditions, in_range=near)

    conditions = shown(layout.own, "health", "shield", "cooldown", "x", "y")
    (reach,) = attack_range(layout, np.array([kind])).tolist()
    conditions["attack_range"] = None if math.isnan(reach) else reach
    return Scene(
        me=Self(layout.n_agents - 1, kind_name(kind), **conditions),
        allies=tuple(unit("ally", i, layout.allies) for i in range(layout.n_agents - 1)),
        enemies=tuple(unit("enemy", j, layout.enemies) for j in range(layout.n_enemies)),
        actions=layout.action_names(heals=kind in HEALERS)[1:],
    )


def _records(of: type, columns: SelfColumns | UnitColumns, where: np.ndarray | slice) -> Iterator[Any]:
    """A record for every entry of the columns [...] that ``where`` picks."""

    def plain(name: str) -> Iterable:
        if name == "side":
            return repeat(columns.side)
        values = getattr(columns, name)[where].tolist()
        return map(kind_name, values) if name == "kind" else (None if value != value else value for value in values)

    return map(of, *(plain(field.name) for field in fields(of)))


def _named(units: UnitColumns) -> list[tuple[SeenUnit, ...]]:
    """The named units of every row."""
    records = _records(SeenUnit, units, units.named)
    return [tuple(islice(records, count)) for count in units.named.sum(1).tolist()]


def _unit_columns(side: str, units: Sequence[SeenUnit]) -> UnitColumns:
    return UnitColumns(side, np.ones((1, len(units)), bool), **_columns(SeenUnit, units))


def _columns(of: type, records: Sequence[Any]) -> dict[str, np.ndarray]:
    """The fields of records as columns [1, records]."""
    values = {field.name: [getattr(record, field.name) for record in records] for field in fields(of)}
    values |= {"kind": [KINDS.index(record.kind) for record in records]}
    types = {"number": int, "kind": int, "seen": bool, "in_range": bool}
    return {name: np.array([column], types.get(name, float)) for name, column in values.items() if name != "side"}
