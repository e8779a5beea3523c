"""Rules of a battle: units walk, shoot, heal and die. Independent of protocol and opponent.

All events of one game loop are simultaneous. Damage is collected and applied at the end of the loop, so the order of
the units gives no side an advantage, and two units can kill each other.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import combinations
from typing import NamedTuple

from .maps import Area
from .units import Kind

ALLY, ENEMY = 1, 2  # owner ids, as in SMAC

# Per game loop. All except the energy are multiples of 1/16, so health is exact.
SHIELD_REGENERATION = 2 / 16
SHIELD_DELAY = 160  # loops without damage before shields regenerate
HEALING = 9 / 16
HEALTH_PER_ENERGY = 3
ENERGY_REGENERATION = 9 / 256


class Verb(Enum):
    STOP = "stop"
    MOVE = "move"
    ATTACK = "attack"
    HEAL = "heal"


class Order(NamedTuple):
    """Order of a unit. It is valid until it is replaced or done."""

    verb: Verb
    point: tuple[float, float] = (0.0, 0.0)  # of MOVE, in cells
    target: int = 0  # of ATTACK and HEAL, a tag


STOP = Order(Verb.STOP)


@dataclass(eq=False)
class Unit:
    """A unit. Positions are in cells, +x east and +y north; ``facing`` is in radians from east."""

    tag: int
    kind: Kind
    type_id: int  # as in the protocol
    owner: int
    x: float
    y: float
    health: float
    shield: float = 0.0
    energy: float = 0.0
    facing: float = 0.0
    cooldown: int = 0  # loops until it can attack again
    unhurt: int = 0  # loops since the last hit
    order: Order = STOP

    @classmethod
    def fresh(cls, tag: int, kind: Kind, type_id: int, owner: int, x: float, y: float) -> "Unit":
        """Return a unit with full health that faces the other side."""
        facing = 0.0 if owner == ALLY else math.pi
        return cls(tag, kind, type_id, owner, x, y, kind.health, kind.shield, kind.energy, facing)

    def distance(self, other: "Unit") -> float:
        """Return the distance between the centres of two units, in cells."""
        return math.hypot(other.x - self.x, other.y - self.y)

    def reaches(self, other: "Unit") -> bool:
        """Return True if ``other`` is in range of the unit's weapon or healing."""
        return self.distance(other) <= self.kind.reach + self.kind.radius + other.kind.radius

    def can_attack(self, other: "Unit") -> bool:
        """Return True if the weapon can hit ``other``, ignoring the distance."""
        return self.kind.damage > 0 and self.owner != other.owner and (self.kind.hits_air or not other.kind.flies)

    def can_heal(self, other: "Unit") -> bool:
        """Return True if the unit can heal units of ``other``'s kind, ignoring its health."""
        return self.kind.heals and self.owner == other.owner and other.kind.biological


class Battle:
    """Living units by tag, in the game's order."""

    def __init__(self, area: Area, units: Iterable[Unit]) -> None:
        self.area = area
        self.units = {unit.tag: unit for unit in units}

    def team(self, owner: int) -> list[Unit]:
        return [unit for unit in self.units.values() if unit.owner == owner]

    def command(self, tag: int, order: Order) -> bool:
        """Give an order. Return False if the unit does not exist or cannot do it to this target."""
        unit = self.units.get(tag)
        if unit is None:
            return False
        if order.verb in (Verb.ATTACK, Verb.HEAL):
            target = self.units.get(order.target)
            able = unit.can_attack if order.verb is Verb.ATTACK else unit.can_heal
            if target is None or not able(target):
                return False
        unit.order = order
        return True

    def kill(self, tags: Iterable[int]) -> None:
        """Remove units immediately. Tags of dead units are ignored."""
        for tag in tags:
            self.units.pop(tag, None)

    def add(self, unit: Unit) -> None:
        unit.x, unit.y = self._inside(unit.x, unit.y)
        self.units[unit.tag] = unit

    def step(self) -> None:
        """Simulate one game loop."""
        hits: list[tuple[Unit, float]] = []
        for unit in self.units.values():
            unit.cooldown = max(0, unit.cooldown - 1)
            hits += self._act(unit)
        self._separate()
        for unit in self.units.values():
            _regenerate(unit)
        for unit, damage in hits:
            _hurt(unit, damage)
        self.kill([tag for tag, unit in self.units.items() if unit.health <= 0])

    def _act(self, unit: Unit) -> list[tuple[Unit, float]]:
        """Follow the order for one loop. Return the hit units and their damage."""
        verb, point, tag = unit.order
        if verb is Verb.MOVE:
            self._walk(unit, *point)
            if (unit.x, unit.y) == self._inside(*point):
                unit.order = STOP
        elif verb is not Verb.STOP:
            target = self.units.get(tag)
            if target is None:
                unit.order = STOP
                return []
            if not unit.reaches(target):
                self._walk(unit, target.x, target.y)
            if unit.reaches(target):
                unit.facing = math.atan2(target.y - unit.y, target.x - unit.x)
                if verb is Verb.HEAL:
                    _heal(unit, target)
                elif not unit.cooldown:
                    return self._fire(unit, target)
        return []

    def _fire(self, unit: Unit, target: Unit) -> list[tuple[Unit, float]]:
        unit.cooldown = unit.kind.cooldown
        victims = [
            other
            for other in self.units.values()
            if other is target or (unit.can_attack(other) and target.distance(other) < unit.kind.splash)
        ]
        hits = [(victim, float(unit.kind.damage)) for victim in victims]
        return [*hits, (unit, math.inf)] if unit.kind.bursts else hits

    def _inside(self, x: float, y: float) -> tuple[float, float]:
        """Return the nearest position in the area. Its east and north edges belong to the cells outside."""
        edge = 0.01
        area = self.area
        return (
            min(max(x, area.west), area.east - edge),
            min(max(y, area.south), area.north - edge),
        )

    def _walk(self, unit: Unit, x: float, y: float) -> None:
        x, y = self._inside(x, y)
        dx, dy = x - unit.x, y - unit.y
        distance = math.hypot(dx, dy)
        if distance <= unit.kind.speed:
            unit.x, unit.y = x, y
        else:
            unit.x += dx / distance * unit.kind.speed
            unit.y += dy / distance * unit.kind.speed
        if distance:
            unit.facing = math.atan2(dy, dx)

    def _separate(self) -> None:
        """Push overlapping units apart, a little per loop. Flying and ground units do not collide."""
        for one, other in combinations(self.units.values(), 2):
            wanted = one.kind.radius + other.kind.radius
            dx, dy = other.x - one.x, other.y - one.y
            # The cheap test first: most pairs are far apart.
            if abs(dx) >= wanted or abs(dy) >= wanted or one.kind.flies != other.kind.flies:
                continue
            distance = math.hypot(dx, dy)
            if distance >= wanted:
                continue
            # Two units at the same position have no direction between them. A fixed one, north, is reproducible.
            east, north = (dx / distance, dy / distance) if distance else (0.0, 1.0)
            push = (wanted - distance) / 4
            for unit, sign in ((one, -1), (other, 1)):
                if unit.kind.speed:
                    unit.x, unit.y = self._inside(unit.x + sign * push * east, unit.y + sign * push * north)


def _heal(unit: Unit, target: Unit) -> None:
    amount = min(HEALING, target.kind.health - target.health, unit.energy * HEALTH_PER_ENERGY)
    target.health += amount
    unit.energy -= amount / HEALTH_PER_ENERGY


def _hurt(unit: Unit, damage: float) -> None:
    absorbed = min(unit.shield, damage)
    unit.shield -= absorbed
    unit.health -= damage - absorbed
    unit.unhurt = 0


def _regenerate(unit: Unit) -> None:
    unit.unhurt += 1
    if unit.unhurt > SHIELD_DELAY:
        unit.shield = min(unit.kind.shield, unit.shield + SHIELD_REGENERATION)
    unit.energy = min(unit.kind.energy_max, unit.energy + ENERGY_REGENERATION)
