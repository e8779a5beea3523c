"""Many scenes at once: an array per field, so that prompts are written without a loop over rows or units."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lolm_plugin.observations.layout import N_BASE_ACTIONS, ObservationLayout, Units
from lolm_plugin.observations.units import HEALERS, NAMES, UNKNOWN

KINDS: tuple[str, ...] = (*NAMES, "unknown unit")  # words by universe index; UNKNOWN is the last


@dataclass(frozen=True)
class SelfColumns:
    """``scene.Self`` of many rows: every field [rows], NaN for what is not told; ``kind`` is a universe index."""

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
        """Tell healers from fighters: bool [rows]."""
        return np.isin(self.kind, HEALERS)


@dataclass(frozen=True)
class UnitColumns:
    """``scene.SeenUnit`` of many rows: every field [rows, units], NaN for what is not told.

    ``kind`` is a universe index. ``named`` tells which units the prompt names at all, ``in_range`` which of them the
    observer can attack now, or heal if it is a healer.
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
class ActionColumns:
    """``available`` bool [rows, actions]; the words for action ``i`` are ``names[heals][i]``, ``heals`` bool [rows]."""

    names: tuple[tuple[str, ...], tuple[str, ...]]
    heals: np.ndarray
    available: np.ndarray


@dataclass(frozen=True)
class SceneColumns:
    """``scene.Scene`` of many rows."""

    me: SelfColumns
    allies: UnitColumns
    enemies: UnitColumns
    actions: ActionColumns

    def __len__(self) -> int:
        return len(self.me.number)


def look(
    layout: ObservationLayout, obs: Tensor, available: Tensor, agent: Tensor, dynamic: bool = True
) -> SceneColumns:
    """What each row sees: obs [rows, obs_size], available [rows, n_actions], agent [rows].

    ``dynamic`` leaves out every unit that is dead or out of sight (paper, section 4.2); without it
    they stay, with zeros, so that all prompts of a map have the same sentences.
    """
    observed = layout.decode(obs.cpu())
    can = available.cpu().numpy() > 0
    number = agent.cpu().numpy()
    # Ally rows skip the observer, so the ids after its own are one higher.
    others = np.arange(layout.n_agents - 1)
    allies = others + (others >= number[:, None])
    enemies = np.broadcast_to(np.arange(layout.n_enemies), (len(number), layout.n_enemies))
    sight = observed.sight.numpy()[:, None]
    own = {name: _field(observed.own, name)[:, 0] for name in ("health", "shield", "cooldown", "x", "y")}
    kind = observed.own.kind[:, 0].numpy()
    heals = observed.heals.numpy()[:, None]
    # Where SMACv2 plays without action masks, every living target is offered, and only the flag tells the range.
    present, flagged = observed.enemies.present.numpy(), observed.enemies.fields["can_target"].numpy() > 0
    attackable = _offered(layout, can, enemies) & ~heals & np.where(present, flagged, layout.hidden_targets)
    healable = _offered(layout, can, allies) & heals & observed.allies.present.numpy() & layout.masks_range
    return SceneColumns(
        me=SelfColumns(number, kind, attack_range=attack_range(layout, kind), **own),
        allies=_units("ally", observed.allies, allies, sight, healable, dynamic),
        enemies=_units("enemy", observed.enemies, enemies, sight, attackable, dynamic),
        actions=ActionColumns((layout.action_names(False), layout.action_names(True)), observed.heals.numpy(), can),
    )


def _units(
    side: str, units: Units, number: np.ndarray, sight: np.ndarray, in_range: np.ndarray, dynamic: bool
) -> UnitColumns:
    seen, kind = units.present.numpy(), units.kind.numpy()
    health, shield, cooldown = (_field(units, name) for name in ("health", "shield", "cooldown"))
    # Nobody who is there has no health: SMACv2 hides what it does not want an agent to know.
    hidden = seen & (kind == UNKNOWN) & ~(np.abs(health) > 0)
    if hidden.any():
        health, shield = np.where(hidden, np.nan, health), np.where(hidden, np.nan, shield)
    return UnitColumns(
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
    """Float64 [rows, units]: the numbers that Python would print; NaN where the environment has no such field."""
    if name not in units.fields:
        return np.broadcast_to(np.nan, tuple(units.present.shape))
    return units.fields[name].numpy().astype(np.float64)


def _offered(layout: ObservationLayout, available: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Look up whether the action about each target number [rows, units] is available: bool [rows, units]."""
    action = N_BASE_ACTIONS + np.minimum(number, layout.n_targets - 1)
    return np.take_along_axis(available, action, axis=1) & (number < layout.n_targets)


def attack_range(layout: ObservationLayout, kind: np.ndarray) -> np.ndarray:
    """Look up the range in map cells of observers of ``kind`` [rows]; NaN where it is not known."""
    reach = layout.shoot_range
    table = reach if isinstance(reach, tuple) else (np.nan if reach is None else reach,) * len(NAMES)
    # A range that does not depend on the kind is known for an unknown kind, too.
    return np.array((*table, np.nan if isinstance(reach, tuple) else table[0]))[kind]
