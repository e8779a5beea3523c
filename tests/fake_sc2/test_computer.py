import pytest

from .battle import ALLY, ENEMY, STOP, Battle, Order, Unit, Verb
from .computer import ATTENTION, command
from .maps import Area
from .units import KINDS


def unit(tag, kind, owner, x, **changes):
    made = Unit.fresh(tag, KINDS[kind], KINDS[kind].unit_id, owner, x, 10.0)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def orders(*units):
    """Return the battle after each enemy had one turn."""
    battle = Battle(Area(0, 0, 60, 20), units)
    for loop in range(ATTENTION):
        command(battle, loop)
    return battle


def test_enemies_attack_the_nearest_ally_in_range():
    marine, far, near = unit(1, "marine", ENEMY, 20), unit(2, "marine", ALLY, 15), unit(3, "marine", ALLY, 16)
    orders(marine, far, near)
    assert marine.order == Order(Verb.ATTACK, target=3)
    assert far.order == near.order == STOP


def test_enemies_walk_to_the_nearest_ally_out_of_range():
    marine = unit(1, "marine", ENEMY, 30)
    orders(marine, unit(2, "marine", ALLY, 5), unit(3, "marine", ALLY, 6))
    assert marine.order == Order(Verb.MOVE, point=(6, 10))


def test_a_target_is_kept_while_it_is_in_range():
    marine = unit(1, "marine", ENEMY, 20, order=Order(Verb.ATTACK, target=2))
    target = unit(2, "marine", ALLY, 15)
    battle = orders(marine, target, unit(3, "marine", ALLY, 16))
    assert marine.order.target == 2
    target.x = 10
    for loop in range(ATTENTION):
        command(battle, loop)
    assert marine.order.target == 3


@pytest.mark.parametrize(("kind", "wanted"), [("marine", Order(Verb.ATTACK, target=2)), ("marauder", STOP)])
def test_a_unit_that_cannot_be_hit_is_not_a_target(kind, wanted):
    enemy = unit(1, kind, ENEMY, 20)
    orders(enemy, unit(2, "medivac", ALLY, 18))
    assert enemy.order == wanted


def test_a_medivac_heals_the_nearest_hurt_and_follows_the_healthy():
    medivac, healthy = unit(1, "medivac", ENEMY, 20), unit(2, "marine", ENEMY, 18)
    orders(medivac, healthy, unit(3, "marine", ENEMY, 14, health=20.0), unit(4, "marine", ENEMY, 10, health=5.0))
    assert medivac.order == Order(Verb.HEAL, target=3)
    orders(medivac, healthy)
    assert medivac.order == Order(Verb.MOVE, point=(18, 10))
    orders(medivac)
    assert medivac.order == STOP


def test_units_choose_orders_at_different_times():
    marines = [unit(tag, "marine", ENEMY, 20) for tag in range(1, 4)]
    battle = Battle(Area(0, 0, 60, 20), [*marines, unit(9, "marine", ALLY, 18)])
    moments = {}
    for loop in range(ATTENTION):
        command(battle, loop)
        for marine in marines:
            if marine.order != STOP:
                moments.setdefault(marine.tag, loop)
    assert len(set(moments.values())) == 3
