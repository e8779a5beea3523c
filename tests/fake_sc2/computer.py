"""Built-in opponent: units attack the nearest ally; medivacs heal and follow the others.

It is weak: a unit chooses a new order only every ``ATTENTION`` game loops.
"""

from .battle import ALLY, ENEMY, STOP, Battle, Order, Unit, Verb

ATTENTION = 16  # game loops between two choices of a unit


def command(battle: Battle, loop: int) -> None:
    """Give orders to the enemies whose turn it is in this game loop."""
    allies, enemies = battle.team(ALLY), battle.team(ENEMY)
    for unit in enemies:
        # The turns of neighbouring tags are far apart.
        if (loop + 5 * unit.tag) % ATTENTION == 0:
            unit.order = _heal(unit, enemies) if unit.kind.heals else _attack(unit, battle, allies)


def _attack(unit: Unit, battle: Battle, allies: list[Unit]) -> Order:
    target = battle.units.get(unit.order.target)
    # A target is kept while it is in range: changing it at every turn would spread the damage.
    if unit.order.verb is Verb.ATTACK and target is not None and unit.reaches(target):
        return unit.order
    targets = [ally for ally in allies if unit.can_attack(ally)]
    if not targets:
        return STOP
    nearest = min(targets, key=unit.distance)
    return Order(Verb.ATTACK, target=nearest.tag) if unit.reaches(nearest) else _go(nearest)


def _heal(unit: Unit, enemies: list[Unit]) -> Order:
    patients = [other for other in enemies if unit.can_heal(other)]
    hurt = [other for other in patients if other.health < other.kind.health]
    if hurt:
        return Order(Verb.HEAL, target=min(hurt, key=unit.distance).tag)
    return _go(min(patients, key=unit.distance)) if patients else STOP


def _go(to: Unit) -> Order:
    return Order(Verb.MOVE, point=(to.x, to.y))
