"""Table of maps: teams of SMAC's maps, unit types of SMACv2's map, and sizes."""

from dataclasses import dataclass

from .units import KINDS, Kind

FIRST_ALLY_ID = 1970
# Widths of the walls in the west, south, east and north, in cells. All are different, so a rotated or mirrored grid is
# detected.
BORDERS = (2, 4, 3, 5)


@dataclass(frozen=True)
class Area:
    """Rectangle of cells that units cannot leave."""

    west: int
    south: int
    east: int
    north: int


@dataclass(frozen=True)
class Map:
    """A map with two teams, ``{kind: count}`` each. Teams are empty if the client creates the units."""

    name: str
    allies: dict[str, int]  # in the order of SMAC's unit-type ids for this family of maps
    enemies: dict[str, int]
    # Side length in cells. Square and a multiple of 8, because SMAC swaps the sides when it reshapes rows of bits.
    size: int = 32

    @property
    def area(self) -> Area:
        west, south, east, north = BORDERS
        return Area(west, south, self.size - east, self.size - north)

    @property
    def ally_ids(self) -> dict[str, int]:
        """Unit-type ids of allies, ``{kind: id}``. SMAC's maps have separate unit types for controlled units."""
        return {name: FIRST_ALLY_ID + i for i, name in enumerate(self.allies)}


def mixed(team: dict[str, int]) -> list[Kind]:
    """Return the units of a team in the game's order, which is fixed and not sorted by type."""
    positions = [((i + 0.5) / count, name) for name, count in team.items() for i in range(count)]
    return [KINDS[name] for _, name in sorted(positions)]


def _same(name: str, team: dict[str, int], size: int = 32) -> Map:
    return Map(name, team, team, size)


# The maps of SMAC.
MAPS = {
    entry.name: entry
    for entry in (
        _same("3m", {"marine": 3}),
        _same("8m", {"marine": 8}),
        _same("25m", {"marine": 25}),
        Map("5m_vs_6m", {"marine": 5}, {"marine": 6}),
        Map("8m_vs_9m", {"marine": 8}, {"marine": 9}),
        Map("10m_vs_11m", {"marine": 10}, {"marine": 11}),
        Map("27m_vs_30m", {"marine": 27}, {"marine": 30}),
        _same("MMM", {"marauder": 2, "marine": 7, "medivac": 1}),
        Map("MMM2", {"marauder": 2, "marine": 7, "medivac": 1}, {"marauder": 3, "marine": 8, "medivac": 1}),
        _same("2s3z", {"stalker": 2, "zealot": 3}),
        _same("3s5z", {"stalker": 3, "zealot": 5}),
        Map("3s5z_vs_3s6z", {"stalker": 3, "zealot": 5}, {"stalker": 3, "zealot": 6}),
        Map("3s_vs_3z", {"stalker": 3}, {"zealot": 3}),
        Map("3s_vs_4z", {"stalker": 3}, {"zealot": 4}),
        Map("3s_vs_5z", {"stalker": 3}, {"zealot": 5}),
        _same("1c3s5z", {"colossus": 1, "stalker": 3, "zealot": 5}),
        Map("2m_vs_1z", {"marine": 2}, {"zealot": 1}),
        Map("corridor", {"zealot": 6}, {"zergling": 24}, size=64),
        Map("6h_vs_8z", {"hydralisk": 6}, {"zealot": 8}),
        Map("2s_vs_1sc", {"stalker": 2}, {"spine_crawler": 1}),
        Map("so_many_baneling", {"zealot": 7}, {"baneling": 32}),
        _same("bane_vs_bane", {"baneling": 4, "zergling": 20}),
        Map("2c_vs_64zg", {"colossus": 2}, {"zergling": 64}, size=64),
    )
}

# SMACv2 draws the teams itself. It has only these units and assumes that their ids are in the order of their names.
SMACV2_UNITS = ("baneling", "colossus", "hydralisk", "marauder", "marine", "medivac", "stalker", "zealot", "zergling")
SMACV2_MAP = Map("32x32_flat", dict.fromkeys(SMACV2_UNITS, 0), {})

ALL_MAPS = {**MAPS, SMACV2_MAP.name: SMACV2_MAP}
