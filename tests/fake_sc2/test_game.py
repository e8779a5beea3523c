import pytest

from .battle import ALLY, ENEMY, Order, Verb
from .game import FIRST_TAG, Game
from .maps import MAPS, SMACV2_MAP

EVERYTHING = ["3m", "2s3z", "3s5z_vs_3s6z", "MMM2", "bane_vs_bane"]


def picture(game):
    """Return all visible properties of all units."""
    return [
        (unit.tag, unit.type_id, unit.x, unit.y, unit.health, unit.shield, unit.energy, unit.cooldown)
        for unit in game.battle.units.values()
    ]


def play(game, loops):
    """Let every ally attack the first possible enemy. Return the units' properties every 8 loops."""
    pictures = []
    for loop in range(loops):
        if loop % 8 == 0:
            pictures.append(picture(game))
            for unit in game.battle.team(ALLY):
                for enemy in game.battle.team(ENEMY):
                    if game.battle.command(unit.tag, Order(Verb.ATTACK, target=enemy.tag)):
                        break
        game.step()
    return pictures


def kill_all(game):
    game.battle.kill(list(game.battle.units))


@pytest.mark.parametrize("name", EVERYTHING)
def test_the_same_seed_and_orders_give_the_same_game(name):
    games = []
    for _ in range(2):
        game = Game(MAPS[name], seed=5)
        pictures = play(game, 400)
        kill_all(game)
        games.append(pictures + play(game, 100))
    assert games[0] == games[1]
    assert games[0][0] != games[0][-1]


def test_start_positions_differ_between_seeds_and_battles():
    def places(game):
        return {(unit.x, unit.y) for unit in game.battle.units.values()}

    one, other = Game(MAPS["3m"], seed=1), Game(MAPS["3m"], seed=2)
    seen = [places(one), places(other)]
    kill_all(one)
    one.step()
    seen.append(places(one))
    assert len(set.union(*seen)) == 18


def test_a_new_battle_starts_when_no_unit_is_left():
    game = Game(MAPS["2s3z"], seed=1)
    play(game, 200)
    first = set(game.battle.units)
    kill_all(game)
    assert game.battles == 1
    game.step()
    game.step()  # SMAC waits for two loops
    assert game.battles == 2
    assert len(game.battle.team(ALLY)) == len(game.battle.team(ENEMY)) == 5
    assert not first & set(game.battle.units)
    assert min(game.battle.units) > FIRST_TAG > 2**31
    assert all(unit.health == unit.kind.health for unit in game.battle.units.values())
    assert game.loop == 202


@pytest.mark.parametrize("owner", [ALLY, ENEMY])
def test_a_single_team_waits_forever(owner):
    game = Game(MAPS["3m"], seed=1)
    game.battle.kill([unit.tag for unit in game.battle.team(owner)])
    for _ in range(500):
        game.step()
    assert game.battles == 1
    assert len(game.battle.units) == 3


def test_the_enemies_come_and_win_against_who_does_nothing():
    game = Game(MAPS["3m"], seed=1)
    for _ in range(60 * 8):
        game.step()
    assert len(game.battle.team(ENEMY)) == 3
    assert not game.battle.team(ALLY)


def test_allies_have_separate_ids_and_enemies_the_usual_ones():
    battle = Game(MAPS["MMM2"], seed=1).battle
    names = {unit.type_id: unit.kind.name for unit in battle.team(ALLY)}
    assert [names[type_id] for type_id in sorted(names)] == ["marauder", "marine", "medivac"]
    assert max(names) - min(names) == 2
    assert {unit.type_id: unit.kind.name for unit in battle.team(ENEMY)} == {
        51: "marauder",
        48: "marine",
        54: "medivac",
    }


def test_created_units_join_the_battle():
    game = Game(MAPS["2s3z"], seed=1)
    stalker = game.map.ally_ids["stalker"]
    assert game.create(stalker, ALLY, 5.0, 6.0)
    assert game.create(105, ENEMY, 20.0, 20.0)
    assert len(game.battle.units) == 10
    game.step()
    mine, zergling = list(game.battle.units.values())[-2:]
    assert (mine.kind.name, mine.type_id, mine.owner, mine.x, mine.y) == ("stalker", stalker, ALLY, 5.0, 6.0)
    assert (zergling.kind.name, zergling.type_id, zergling.owner) == ("zergling", 105, ENEMY)
    assert not game.create(12345, ENEMY, 20.0, 20.0)
    assert not game.create(105, 3, 20.0, 20.0)
    game.step()
    assert len(game.battle.units) == 12


def test_a_map_without_teams_has_only_created_units():
    game = Game(SMACV2_MAP, seed=1)
    for battle in range(2):
        for _ in range(10):
            game.step()
        assert not game.battle.units
        marine = game.map.ally_ids["marine"]
        assert game.create(marine, ALLY, 8.5, 16.25)
        assert game.create(48, ENEMY, 24.0 - battle, 16.0)
        assert game.create(48, ENEMY, 32.0, 0.0)
        game.step()
        mine, enemy, cornered = game.battle.units.values()
        assert (mine.type_id, mine.owner, mine.x, mine.y) == (marine, ALLY, 8.5, 16.25)
        assert (enemy.type_id, enemy.owner, enemy.x, enemy.y) == (48, ENEMY, 24.0 - battle, 16.0)
        assert (cornered.x, cornered.y) == (game.map.area.east - 0.01, game.map.area.south)
        for _ in range(400):
            game.step()
        assert list(game.battle.units.values()) == [enemy, cornered]  # the enemies approached and won
        kill_all(game)


def test_created_units_may_start_at_the_same_position():
    game = Game(SMACV2_MAP, seed=1)
    for owner, type_id in ((ALLY, game.map.ally_ids["colossus"]), (ENEMY, 4), (ENEMY, 4)):
        game.create(type_id, owner, 16.0, 16.0)
    game.step()
    assert [(unit.x, unit.y, unit.health, unit.shield) for unit in game.battle.units.values()] == [
        (16.0, 16.0, 200, 150)
    ] * 3
