"""Decoded observations and actions of many agents, one array per field. Prompts need no loop over units."""

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
from torch import Tensor

from lolm_plugin.observations.battle import BattleLayout
from lolm_plugin.observations.description import Description
from lolm_plugin.observations.layout import Block, Units
from lolm_plugin.observations.units import HEALERS, NAMES, UNKNOWN

_Part = TypeVar("_Part", "AgentBatch", "UnitBatch", "ActionBatch")


@dataclass(frozen=True)
class AgentBatch:
    """The observing agents. Every field is [rows], with NaN if the environment does not show it.

    ``kind`` is a universe index. Health, shield and cooldown are shares of the maximum, ``x`` and ``y`` of the map.
    ``attack_range`` is in map cells. For a healer it is the healing range.
    """

    number: np.ndarray
    kind: np.ndarray
    health: np.ndarray
    shield: np.ndarray
    cooldown: np.ndarray
    attack_range: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @property
    def heals(self) -> np.ndarray:
        """Return True for healers: bool [rows]."""
        return np.isin(self.kind, HEALERS)


@dataclass(frozen=True)
class UnitBatch:
    """The other units of a side. Every field is [rows, units], with NaN if the environment does not show it.

    ``named`` is True for units that the prompt names. A unit that is not ``seen`` is dead or out of sight, unless it is
    ``in_range``: SMACv2 hides units that can be attacked. ``in_range`` is True if the observer can attack the unit now,
    or heal it if the observer is a healer. Distances and offsets are in map cells.
    """

    side: str  # "ally" or "enemy"
    named: np.ndarray
    number: np.ndarray
    kind: np.ndarray
    seen: np.ndarray
    distance: np.ndarray
    east: np.ndarray
    north: np.ndarray
    health: np.ndarray
    shield: np.ndarray
    cooldown: np.ndarray
    in_range: np.ndarray


@dataclass(frozen=True)
class ActionBatch:
    """Actions: ``available`` bool [rows, actions]; action ``i`` is named ``names[meaning][i]``, ``meaning`` [rows]."""

    names: tuple[tuple[str, ...], ...]
    meaning: np.ndarray
    available: np.ndarray

    @staticmethod
    def of(description: Description, meaning: np.ndarray, available: np.ndarray) -> "ActionBatch":
        """Build the actions of a task. Target actions mean ``description.targets[meaning]``."""
        names = tuple(description.action_names(i) for i in range(max(1, len(description.targets))))
        return ActionBatch(names, meaning, available)


@dataclass(frozen=True)
class SceneBatch:
    """Decoded observations and actions of many agents in battles."""

    me: AgentBatch
    allies: UnitBatch
    enemies: UnitBatch
    actions: ActionBatch

    def __len__(self) -> int:
        return len(self.me.number)

    def take(self, rows: np.ndarray) -> "SceneBatch":
        """Return the scenes of ``rows`` int64 [...]."""
        return SceneBatch(
            _take(self.me, rows), _take(self.allies, rows), _take(self.enemies, rows), _take(self.actions, rows)
        )


def decode(layout: BattleLayout, obs: Tensor, available: Tensor, agent: Tensor, dynamic: bool = True) -> SceneBatch:
    """Decode obs [rows, obs_size], available [rows, n_actions] and agent [rows] into scenes.

    ``dynamic`` leaves out every unit that is dead or out of sight (paper, section 4.2). Otherwise such units are kept
    with zeros, and all prompts of a map have the same sentences.
    """
    observed = layout.decode(obs.cpu())
    can = available.cpu().numpy() > 0
    number = agent.cpu().numpy()
    # The allies' block skips the observer, so ids above its own are the index plus one.
    others = np.arange(layout.n_agents - 1)
    allies = others + (others >= number[:, None])
    enemies = np.broadcast_to(np.arange(layout.n_enemies), (len(number), layout.n_enemies))
    sight = observed.sight.numpy()[:, None]
    own = {name: _field(observed.own, name)[:, 0] for name in ("health", "shield", "cooldown", "x", "y")}
    kind = observed.own.kind[:, 0].numpy()
    heals = observed.heals.numpy()
    # Without action masks, SMACv2 offers every living target. Only the flag shows which are in range.
    present, flagged = observed.enemies.present.numpy(), observed.enemies.fields["can_target"].numpy() > 0
    attackable = _offered(layout, can, enemies) & ~heals[:, None] & np.where(present, flagged, layout.hidden_targets)
    healable = _offered(layout, can, allies) & heals[:, None] & observed.allies.present.numpy() & layout.masks_range
    return SceneBatch(
        me=AgentBatch(number, kind, attack_range=attack_range(layout, kind), **own),
        allies=_units("ally", observed.allies, allies, sight, healable, dynamic),
        enemies=_units("enemy", observed.enemies, enemies, sight, attackable, dynamic),
        actions=ActionBatch.of(layout, _meaning(layout, heals), can),
    )


def fullest(layout: BattleLayout, dynamic: bool) -> SceneBatch:
    """Return scenes, one of which has the longest prompt of this map for any style and tokenizer.

    In each scene, all units are of one kind, or are absent but named (not ``dynamic``). Every number is long, and every
    action except no-op is available.
    """
    kind = np.repeat(sorted(layout.kinds), 1 if dynamic else 2)
    seen = np.tile([True] if dynamic else [True, False], len(layout.kinds))
    rows = len(kind)

    def shown(block: Block, name: str, count: int | None = None) -> np.ndarray:
        return np.full((rows,) if count is None else (rows, count), 0.88 if name in block.fields else np.nan)

    def units(side: str, block: Block) -> UnitBatch:
        shape = (rows, block.rows)
        # Only healers have allies in range. With healers on the map, every kind does here: an upper bound.
        near = np.broadcast_to(seen[:, None] & (side == "enemy" or layout.has_healers), shape)
        return UnitBatch(
            side=side,
            named=np.ones(shape, bool),
            number=np.broadcast_to(np.arange(block.rows), shape),
            kind=np.broadcast_to(kind[:, None], shape),
            seen=np.broadcast_to(seen[:, None], shape),
            distance=np.full(shape, 18.88),
            east=np.full(shape, -18.88),
            north=np.full(shape, -18.88),
            **{name: shown(block, name, block.rows) for name in ("health", "shield", "cooldown")},
            in_range=near,
        )

    own = {name: shown(layout.own, name) for name in ("health", "shield", "cooldown", "x", "y")}
    available = np.broadcast_to(np.arange(layout.n_actions) > 0, (rows, layout.n_actions))
    return SceneBatch(
        me=AgentBatch(np.full(rows, layout.n_agents - 1), kind, attack_range=attack_range(layout, kind), **own),
        allies=units("ally", layout.allies),
        enemies=units("enemy", layout.enemies),
        actions=ActionBatch.of(layout, _meaning(layout, np.isin(kind, HEALERS)), available),
    )


def attack_range(layout: BattleLayout, kind: np.ndarray) -> np.ndarray:
    """Look up the range in map cells of observers of ``kind`` [rows]; NaN if it is not known."""
    reach = layout.shoot_range
    table = reach if isinstance(reach, tuple) else (np.nan if reach is None else reach,) * len(NAMES)
    # A range that does not depend on the kind is also known for an unknown kind.
    return np.array((*table, np.nan if isinstance(reach, tuple) else table[0]))[kind]


def _units(
    side: str, units: Units, number: np.ndarray, sight: np.ndarray, in_range: np.ndarray, dynamic: bool
) -> UnitBatch:
    seen, kind = units.present.numpy(), units.kind.numpy()
    health, shield, cooldown = (_field(units, name) for name in ("health", "shield", "cooldown"))
    # A present unit has health. If it shows none, SMACv2 hides its condition from the agent.
    hidden = seen & (kind == UNKNOWN) & ~(np.abs(health) > 0)
    if hidden.any():
        health, shield = np.where(hidden, np.nan, health), np.where(hidden, np.nan, shield)
    return UnitBatch(
        side=side,
        named=seen | in_range if dynamic else np.ones(seen.shape, bool),
        number=number,
        kind=kind,
        seen=seen,
        distance=_field(units, "dist") * sight,
        east=_field(units, "dx") * sight,
        north=_field(units, "dy") * sight,
        health=health,
        shield=shield,
        cooldown=cooldown,
        in_range=in_range,
    )


def _field(units: Units, name: str) -> np.ndarray:
    """Return a field as float64 [rows, units], for printing as Python does; NaN if there is no such field."""
    if name not in units.fields:
        return np.broadcast_to(np.nan, tuple(units.present.shape))
    return units.fields[name].numpy().astype(np.float64)


def _offered(layout: BattleLayout, available: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Return True if the action about a target number [rows, units] is available: bool [rows, units]."""
    action = layout.n_base_actions + np.minimum(number, layout.n_targets - 1)
    return np.take_along_axis(available, action, axis=1) & (number < layout.n_targets)


def _meaning(layout: BattleLayout, heals: np.ndarray) -> np.ndarray:
    """Return the index in the layout's ``targets``: 0 for healing, the last for attacking."""
    return np.where(heals, 0, len(layout.targets) - 1)


def _take(part: _Part, rows: np.ndarray) -> _Part:
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    return replace(part, **{name: value[rows] for name, value in values.items() if isinstance(value, np.ndarray)})
