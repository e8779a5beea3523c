"""A game on one map. Battles are started by a trigger, as on SMAC's maps, or created by the client."""

import math
import random
from itertools import count

from . import computer
from .battle import ALLY, ENEMY, Battle, Unit
from .maps import Map, mixed
from .units import KINDS, Kind

APART = 7.0  # cells from the centre of the map to each team
SPACING = 1.2  # cells between neighbours of a team
JITTER = 0.4  # largest random offset of a unit's position, in cells
# Tags need 64 bits, like those of the real game.
FIRST_TAG = 1 << 32


class Game:
    """State of a game. The same seed and the same orders give the same game."""

    def __init__(self, map_: Map, seed: int) -> None:
        self.map, self.seed = map_, seed
        self.loop = 0  # game loops since the start
        self.battles = 0
        # A tag is never reused, not even in another battle, so an order or a kill for a dead unit has no effect.
        self._tags = count(FIRST_TAG)
        self._requested: list[Unit] = []
        self._begin()

    def step(self) -> None:
        """Simulate one game loop. If no unit is left, start a new battle; a single team waits forever.

        On a map without teams the new battle is empty until the client creates units.
        """
        self.loop += 1
        if not self.battle.units:
            self._begin()
        else:
            computer.command(self.battle, self.loop)
            self.battle.step()
        for unit in self._requested:
            self.battle.add(unit)
        self._requested.clear()

    def create(self, type_id: int, owner: int, x: float, y: float) -> bool:
        """Create a unit at this position (cells) or the nearest valid one. It appears after the next loop.

        Returns:
            False if the type does not exist on this map or the player does not exist.
        """
        kinds = {kind.unit_id: kind for kind in KINDS.values()}
        kinds |= {ally_id: KINDS[name] for name, ally_id in self.map.ally_ids.items()}
        if type_id not in kinds or owner not in (ALLY, ENEMY):
            return False
        self._requested.append(Unit.fresh(next(self._tags), kinds[type_id], type_id, owner, x, y))
        return True

    def _begin(self) -> None:
        self.battles += 1
        # A string seed gives the same draws in every process.
        rng = random.Random(f"{self.seed} {self.battles}")
        allies = self._team(ALLY, mixed(self.map.allies), rng)
        enemies = self._team(ENEMY, mixed(self.map.enemies), rng)
        self.battle = Battle(self.map.area, [*allies, *enemies])

    def _team(self, owner: int, kinds: list[Kind], rng: random.Random) -> list[Unit]:
        """Return a team in a square formation, allies in the west."""
        middle = self.map.size / 2
        west = middle + (APART if owner == ENEMY else -APART)
        side = math.ceil(math.sqrt(len(kinds)))
        units = []
        for number, kind in enumerate(kinds):
            column, row = divmod(number, side)
            x = west + (column - (side - 1) / 2) * SPACING + rng.uniform(-JITTER, JITTER)
            y = middle + (row - (side - 1) / 2) * SPACING + rng.uniform(-JITTER, JITTER)
            type_id = self.map.ally_ids[kind.name] if owner == ALLY else kind.unit_id
            units.append(Unit.fresh(next(self._tags), kind, type_id, owner, x, y))
        return units
