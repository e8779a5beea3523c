"""Decoded scenes as plain records, for f-strings and for scenes that are written by hand in tests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from lolm_plugin.observations.battle import BattleLayout
from lolm_plugin.observations.layout import BASE_ACTIONS, KINDS
from lolm_plugin.prompts.scene import ActionBatch, AgentBatch, SceneBatch, UnitBatch, decode
from lolm_plugin.prompts.style import PromptStyle


@dataclass(frozen=True)
class SeenUnit:
    """A unit of a ``UnitBatch``. A field that the environment does not show is None."""

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
    """An agent of an ``AgentBatch``."""

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
    """An agent's view of a battle. ``actions`` are the names of its available actions."""

    me: Self
    allies: tuple[SeenUnit, ...]
    enemies: tuple[SeenUnit, ...]
    actions: tuple[str, ...]

    def batch(self) -> SceneBatch:
        """Return the same as a batch of one row."""
        targets = [name for name in self.actions if name not in BASE_ACTIONS]
        if len({name.rsplit(" ", 1)[0] for name in targets}) == 1:
            verb = targets[0].rsplit(" ", 1)[0]
            targets = [f"{verb} {i}" for i in range(1 + max(int(name.rsplit(" ", 1)[1]) for name in targets))]
        names = (*BASE_ACTIONS, *targets)
        available = np.array([[name in self.actions for name in names]])
        return SceneBatch(
            me=AgentBatch(**{name: column[:, 0] for name, column in _columns(Self, [self.me]).items()}),
            allies=_units("ally", self.allies),
            enemies=_units("enemy", self.enemies),
            actions=ActionBatch((names,), np.zeros(1, np.int64), available),
        )


class Words(NamedTuple):
    """The parts of a prompt after its prefix."""

    me: str
    allies: str
    enemies: str
    actions: str
    cue: str

    @property
    def text(self) -> str:
        return "".join(self)


def describe(style: PromptStyle, scene: Scene) -> Words:
    """Return one scene in the words of a style."""
    return Words(**style.describe(scene.batch())[0])


def scenes(layout: BattleLayout, obs: Tensor, available: Tensor, agent: Tensor, dynamic: bool = True) -> list[Scene]:
    """Return one scene per row of obs [rows, obs_size], available [rows, n_actions], agent [rows]."""
    batch = decode(layout, obs, available, agent, dynamic)
    actions = batch.actions
    found = []
    for row in range(len(batch)):
        (me,) = _records(Self, batch.me, np.array([row]))
        allies, enemies = (
            tuple(_records(SeenUnit, units, (row, np.flatnonzero(units.named[row]))))
            for units in (batch.allies, batch.enemies)
        )
        names = actions.names[int(actions.meaning[row])]
        words = tuple(name for name, can in zip(names, actions.available[row], strict=True) if can)
        found.append(Scene(me, allies, enemies, words))
    return found


def _records(of: type, batch: AgentBatch | UnitBatch, where: Any) -> Iterator[Any]:
    """Yield a record for every entry of the arrays that ``where`` selects."""
    arrays = {field.name: getattr(batch, field.name) for field in fields(of) if field.name != "side"}
    shared = {"side": batch.side} if isinstance(batch, UnitBatch) else {}
    for values in zip(*(array[where].tolist() for array in arrays.values()), strict=True):
        record = {name: None if value != value else value for name, value in zip(arrays, values, strict=True)}
        yield of(**{**record, "kind": KINDS[record["kind"]], **shared})


def _units(side: str, units: Sequence[SeenUnit]) -> UnitBatch:
    return UnitBatch(side, np.ones((1, len(units)), bool), **_columns(SeenUnit, units))


def _columns(of: type, records: Sequence[Any]) -> dict[str, np.ndarray]:
    """Return the fields of records as arrays [1, records]."""
    values = {field.name: [getattr(record, field.name) for record in records] for field in fields(of)}
    values |= {"kind": [KINDS.index(record.kind) for record in records]}
    types = {"number": int, "kind": int, "seen": bool, "in_range": bool}
    return {name: np.array([column], types.get(name, float)) for name, column in values.items() if name != "side"}
