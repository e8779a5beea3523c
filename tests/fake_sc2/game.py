"""A game on one map: battle after battle, as the trigger in SMAC's maps starts them or the client makes them."""

import math
import random
from itertools import count

from . import computer
from .battle import ALLY, ENEMY, Battle, Unit
from .maps import Map, mixed
from .units import KINDS, Kind

APART = 7.0  # cells from the middle of the map to either team
SPACING = 1.2  # cells between neighbours of a team
JITTER = 0.4  # cells a unit may stand off its place, either way
# Tags need all 64 bits, as those of the game do.
FIRST_TAG = 1 << 32


class Game:
    """Everything the players can see and do; the same seed and the same orders give the same game."""

    def __init__(self, map_: Map, seed: int) -> None:
        self.map, self.seed = map_, seed
        self.loop = 0  # game loops since the start
        self.battles = 0
        # A tag is never used twice, in no battle: an order or a kill meant for the dead reaches nobody.
        self._tags = count(FIRST_TAG)
        self._requested: list[Unit] = []
        self._begin()

    def step(self) -> None:
        """One game loop. When nobody is left the next loop starts a new battle; a team alone waits for ever.

        On a map without teams that is a battle of nobody, until units are made on request.
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
        """A new unit at that place in cells, or at the nearest where units can be; it is there after the next loop.

        Returns:
            False when there is no such type on this map or no such player.
        """
        kinds = {kind.unit_id: kind for kind in KINDS.values()}
        kinds |= {ally_id: KINDS[name] for name, ally_id in self.map.ally_ids.items()}
        if type_id not in kinds or owner not in (ALLY, ENEMY):
            return False
        self._requested.append(Unit.fresh(next(self._tags), kinds[type_id], type_id, owner, x, y))
        return True

    def _begin(self) -> None:
        self.battles += 1
        # A string is a seed whose meaning does not change from process to process.
        rng = random.Random(f"{self.seed} {self.battles}")
        allies = self._team(ALLY, mixed(self.map.allies), rng)
        enemies = self._team(ENEMY, mixed(self.map.enemies), rng)
        self.battle = Battle(self.map.area, [*allies, *enemies])

    def _team(self, owner: int, kinds: list[Kind], rng: random.Random) -> list[Unit]:
        """A square of units, the allies in the west."""
        middle = self.map.size / 2
        west = middle + (APART if owner == ENEMY else -APART)
        side = math.ceil(math.sqrt(len(kinds)))
        units = []
        for place, kind in enumerate(kinds):
            column, row = divmod(place, side)
            x = west + (column - (side - 1) / 2) * SPACING + rng.uniform(-JITTER, JITTER)
            y = middle + (row - (side - 1) / 2) * SPACING + rng.uniform(-JITTER, JITTER)
            type_id = self.map.ally_ids[kind.name] if owner == ALLY else kind.unit_id
            units.append(Unit.fresh(next(self._tags), kind, type_id, owner, x, y))
        return units
