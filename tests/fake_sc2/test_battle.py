import math

import pytest

from .battle import (
    ALLY,
    ENEMY,
    ENERGY_REGENERATION,
    HEALING,
    HEALTH_PER_ENERGY,
    SHIELD_DELAY,
    SHIELD_REGENERATION,
    STOP,
    Battle,
    Order,
    Unit,
    Verb,
)
from .maps import Area
from .units import KINDS

AREA = Area(0, 0, 30, 20)


def unit(kind, owner=ALLY, x=10.0, y=10.0, **changes):
    made = Unit.fresh(0, KINDS[kind], KINDS[kind].unit_id, owner, x, y)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def battle(*units):
    """Return a battle of these units with tags 1, 2, ..."""
    for tag, one in enumerate(units, 1):
        one.tag = tag
    return Battle(AREA, units)


def attack(field, one, other):
    assert field.command(one.tag, Order(Verb.ATTACK, target=other.tag))


def pass_loops(field, loops):
    for _ in range(loops):
        field.step()


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (-2, 0), (0, 2), (0, -2), (1.5, -2)])
def test_a_unit_walks_to_its_point_at_its_speed_and_stops(dx, dy):
    marine = unit("marine")
    field = battle(marine)
    field.command(1, Order(Verb.MOVE, point=(10 + dx, 10 + dy)))
    pass_loops(field, 8)
    assert math.hypot(marine.x - 10, marine.y - 10) == pytest.approx(8 * KINDS["marine"].speed)
    assert marine.facing == pytest.approx(math.atan2(dy, dx))
    for _ in range(16):
        before = marine.x, marine.y
        field.step()
        assert math.dist(before, (marine.x, marine.y)) <= KINDS["marine"].speed + 1e-9
    assert (marine.x, marine.y) == (10 + dx, 10 + dy)
    assert marine.order == STOP


def test_units_cannot_leave_the_area():
    marine = unit("marine", x=1.0, y=19.0)
    field = battle(marine)
    field.command(1, Order(Verb.MOVE, point=(-5, 25)))
    pass_loops(field, 50)
    assert marine.x == 0
    assert 19.5 < marine.y < 20
    assert marine.order == STOP


def test_stop_ends_a_walk():
    marine = unit("marine")
    field = battle(marine)
    field.command(1, Order(Verb.MOVE, point=(20, 10)))
    field.step()
    field.command(1, STOP)
    there = marine.x
    pass_loops(field, 8)
    assert marine.x == there > 10


def test_an_attack_in_range_hits_immediately_and_after_each_cooldown():
    marine, target = unit("marine"), unit("marauder", ENEMY, x=7.0, y=7.0)
    field = battle(marine, target)
    attack(field, marine, target)
    field.step()
    assert marine.facing == pytest.approx(-3 / 4 * math.pi)
    assert target.health == 125 - 6
    assert marine.cooldown == 14
    pass_loops(field, 13)
    assert target.health == 125 - 6
    assert marine.cooldown == 1
    field.step()
    assert target.health == 125 - 12
    assert marine.x == 10


def test_the_range_is_measured_between_the_edges():
    edge = 5 + 2 * 0.375
    assert unit("marine").reaches(unit("marine", ENEMY, x=10 + edge))
    assert not unit("marine").reaches(unit("marine", ENEMY, x=10.001 + edge))


@pytest.mark.parametrize("kind", ["marine", "zealot"])
def test_an_attacker_out_of_range_moves_closer_first(kind):
    attacker, target = unit(kind), unit("marauder", ENEMY, x=17.0)
    field = battle(attacker, target)
    attack(field, attacker, target)
    field.step()
    assert attacker.x > 10
    assert target.health == 125
    pass_loops(field, 60)
    assert target.health < 125
    # Just within range, and no closer.
    reach = KINDS[kind].reach + KINDS[kind].radius + KINDS["marauder"].radius
    assert reach - KINDS[kind].speed <= attacker.distance(target) <= reach


def test_damage_reduces_shields_before_health():
    stalker, target = unit("stalker"), unit("zealot", ENEMY, x=13.0, shield=20.0)
    field = battle(stalker, target)
    attack(field, stalker, target)
    field.step()
    assert (target.shield, target.health) == (7, 100)
    pass_loops(field, 30)
    assert (target.shield, target.health) == (0, 94)


def test_shields_regenerate_after_a_delay_and_health_does_not():
    zealot = unit("zealot", shield=49.0, health=50.0)
    field = battle(zealot)
    pass_loops(field, SHIELD_DELAY)
    assert zealot.shield == 49
    pass_loops(field, 4)
    assert zealot.shield == 49 + 4 * SHIELD_REGENERATION
    pass_loops(field, 100)
    assert (zealot.shield, zealot.health) == (50, 50)


def test_damage_delays_regeneration():
    zealot, marine = unit("zealot", shield=20.0), unit("marine", ENEMY, x=13.0)
    field = battle(zealot, marine)
    pass_loops(field, SHIELD_DELAY - 1)
    attack(field, marine, zealot)
    field.step()
    field.command(marine.tag, STOP)
    pass_loops(field, SHIELD_DELAY)
    assert zealot.shield == 14


def test_dead_units_are_removed_and_their_attackers_stop():
    marine, target = unit("marine"), unit("marine", ENEMY, x=12.0, health=6.0)
    field = battle(marine, target)
    attack(field, marine, target)
    field.step()
    assert list(field.units) == [marine.tag]
    field.step()
    assert marine.order == STOP
    assert not field.command(marine.tag, Order(Verb.ATTACK, target=target.tag))
    assert not field.command(target.tag, STOP)


@pytest.mark.parametrize("first", [ALLY, ENEMY])
def test_two_units_can_kill_each_other_in_any_order(first):
    one, other = unit("marine", first, health=6.0), unit("marine", ALLY + ENEMY - first, x=12.0, health=6.0)
    field = battle(one, other)
    attack(field, one, other)
    attack(field, other, one)
    field.step()
    assert not field.units


def test_healing_uses_energy():
    medivac, hurt = unit("medivac"), unit("marine", x=12.0, health=20.0)
    field = battle(medivac, hurt)
    assert field.command(1, Order(Verb.HEAL, target=2))
    pass_loops(field, 8)
    assert hurt.health == 20 + 8 * HEALING
    energy = 50 - 8 * HEALING / HEALTH_PER_ENERGY
    assert energy < medivac.energy < energy + 1
    pass_loops(field, 60)
    assert hurt.health == 45


def test_without_energy_there_is_no_healing():
    medivac, hurt = unit("medivac", energy=1.0), unit("marauder", x=12.0, health=20.0)
    field = battle(medivac, hurt)
    field.command(1, Order(Verb.HEAL, target=2))
    pass_loops(field, 40)
    # Healing used all of its initial and regenerated energy.
    assert 0 <= medivac.energy < 0.1
    assert hurt.health + medivac.energy * HEALTH_PER_ENERGY == 20 + HEALTH_PER_ENERGY * (1 + 40 * ENERGY_REGENERATION)


def test_a_medivac_flies_to_its_target():
    medivac, hurt = unit("medivac"), unit("marine", x=18.0, health=20.0)
    field = battle(medivac, hurt)
    field.command(1, Order(Verb.HEAL, target=2))
    pass_loops(field, 8)
    assert hurt.health == 20
    pass_loops(field, 40)
    assert hurt.health > 20


@pytest.mark.parametrize(
    ("able", "one", "other"),
    [
        (True, unit("marine"), unit("medivac", ENEMY)),
        (False, unit("marauder"), unit("medivac", ENEMY)),
        (False, unit("zealot"), unit("medivac", ENEMY)),
        (False, unit("medivac"), unit("marine", ENEMY)),
        (False, unit("marine"), unit("marine")),
    ],
)
def test_only_some_weapons_hit_flying_units(able, one, other):
    assert battle(one, other).command(1, Order(Verb.ATTACK, target=2)) is able
    assert (one.order != STOP) is able


@pytest.mark.parametrize(
    ("able", "owner", "kind"),
    [(True, ALLY, "marauder"), (False, ENEMY, "marauder"), (False, ALLY, "medivac")],
)
def test_medivacs_heal_biological_units_of_their_team(able, owner, kind):
    assert battle(unit("medivac"), unit(kind, owner)).command(1, Order(Verb.HEAL, target=2)) is able


def test_a_baneling_dies_when_it_attacks_and_hits_all_near_enemies():
    bane, mate = unit("baneling"), unit("zergling", y=11.0)
    near, side, far = (unit("zealot", ENEMY, x=11.0, y=y) for y in (10.0, 12.0, 12.5))
    field = battle(bane, mate, near, side, far)
    attack(field, bane, near)
    field.step()
    assert bane.tag not in field.units
    assert [one.shield for one in (near, side, far)] == [50 - 18, 50 - 18, 50]
    assert mate.health == 35


def test_immobile_units_do_not_move_but_attack():
    crawler, far, near = unit("spine_crawler"), unit("zealot", ENEMY, x=25.0), unit("zealot", ENEMY, x=14.0)
    field = battle(crawler, far, near)
    attack(field, crawler, far)
    pass_loops(field, 20)
    assert (crawler.x, far.shield) == (10, 50)
    attack(field, crawler, near)
    field.step()
    assert near.shield == 25


def test_overlapping_units_are_separated_except_flying_ones():
    one, other, flyer = unit("zealot"), unit("zealot"), unit("medivac")
    field = battle(one, other, flyer)
    pass_loops(field, 40)
    assert one.distance(other) == pytest.approx(2 * KINDS["zealot"].radius, abs=0.01)
    assert (flyer.x, flyer.y) == (10, 10)


def test_immobile_units_are_not_pushed():
    crawler, zealot = unit("spine_crawler"), unit("zealot", x=11.0)
    pass_loops(battle(crawler, zealot), 40)
    assert (crawler.x, crawler.y) == (10, 10)
    assert zealot.x > 11.5


def test_kill_is_immediate_and_ignores_unknown_tags():
    field = battle(unit("marine"), unit("marine", ENEMY))
    field.kill([2, 99, 2])
    assert list(field.units) == [1]
    field.step()
