"""Table of units. Lengths are in cells, times in game loops (16 per second at normal speed).

Numbers are rounded from version 4.10. Not included: armour, bonus damage, upgrades, all abilities except healing, and
the flight time of shots.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A unit type. Without ``damage`` it has no weapon."""

    name: str
    unit_id: int  # of enemies; allies have separate ids, see maps.py
    race: str
    health: int
    shield: int = 0
    damage: int = 0  # sum over all hits of one attack
    reach: float = 0.1  # range of weapon or healing, between the edges of two units
    cooldown: int = 0  # between two attacks; at most SMAC's maximum, so that its fractions stay in 0..1
    speed: float = 0.14  # cells per loop
    radius: float = 0.5
    splash: float = 0.0  # all hostile units within this distance of the target are hit, too
    energy: int = 0  # at the start
    energy_max: int = 0
    flies: bool = False
    hits_air: bool = False
    bursts: bool = False  # dies when it attacks
    biological: bool = True

    @property
    def heals(self) -> bool:
        return self.energy_max > 0


KINDS = {
    kind.name: kind
    for kind in (
        Kind("marine", 48, "Terran", 45, damage=6, reach=5, cooldown=14, radius=0.375, hits_air=True),
        Kind("marauder", 51, "Terran", 125, damage=10, reach=6, cooldown=24, radius=0.5625),
        Kind(
            "medivac",
            54,
            "Terran",
            150,
            reach=4,
            speed=0.156,
            radius=0.75,
            energy=50,
            energy_max=200,
            flies=True,
            biological=False,
        ),
        Kind("zealot", 73, "Protoss", 100, 50, damage=16, cooldown=19),
        Kind(
            "stalker",
            74,
            "Protoss",
            80,
            80,
            damage=13,
            reach=6,
            cooldown=30,
            speed=0.184,
            radius=0.625,
            hits_air=True,
            biological=False,
        ),
        Kind(
            "colossus",
            4,
            "Protoss",
            200,
            150,
            damage=20,
            reach=7,
            cooldown=24,
            radius=1.0,
            splash=0.8,
            biological=False,
        ),
        Kind("zergling", 105, "Zerg", 35, damage=5, cooldown=11, speed=0.184, radius=0.375),
        Kind("baneling", 9, "Zerg", 30, damage=18, reach=0.25, cooldown=1, speed=0.156, splash=2.2, bursts=True),
        Kind("hydralisk", 107, "Zerg", 90, damage=12, reach=5, cooldown=10, radius=0.625, hits_air=True),
        Kind("spine_crawler", 98, "Zerg", 300, damage=25, reach=7, cooldown=30, speed=0.0, radius=1.125),
    )
}
