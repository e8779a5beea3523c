"""The unit universe: one table of unit types for all environments and both sides.

Type bits differ from map to map, and in SMAC even between allies and enemies. Layouts translate them into this
universe. Prompts, entity tokens and critics therefore see the same marine on every map.
Statistics are StarCraft II's. ``max_shield`` shows which units have shields.
"""

from typing import NamedTuple

from lolm_plugin.errors import ConfigError


class Unit(NamedTuple):
    name: str
    max_health: float
    max_shield: float = 0.0
    heals: bool = False  # its target actions are about allies


UNIVERSE: tuple[Unit, ...] = (
    Unit("marine", 45),
    Unit("medivac", 150, heals=True),
    Unit("marauder", 125),
    Unit("stalker", 80, 80),
    Unit("zealot", 100, 50),
    Unit("colossus", 200, 150),
    Unit("zergling", 35),
    Unit("baneling", 30),
    Unit("hydralisk", 80),
    Unit("spine crawler", 300),
)
NAMES: tuple[str, ...] = tuple(unit.name for unit in UNIVERSE)
HEALERS: tuple[int, ...] = tuple(i for i, unit in enumerate(UNIVERSE) if unit.heals)
UNKNOWN = len(UNIVERSE)  # index of a unit whose type the observation does not show


def index(name: str) -> int:
    """Return the universe index of a unit name; raise ConfigError if it is unknown."""
    if name not in NAMES:
        raise ConfigError(f"Unit {name!r} is unknown; use one of: {', '.join(NAMES)}.")
    return NAMES.index(name)


def indices(*names: str) -> tuple[int, ...]:
    """Return the universe indices of several unit names, in their order."""
    return tuple(index(name) for name in names)
