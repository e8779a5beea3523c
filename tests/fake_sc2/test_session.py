"""Requests and responses without a network, including requests that SMAC does not make."""

import pytest

from .maps import MAPS, SMACV2_UNITS

MOVE, ATTACK, STOP, HEAL = 16, 23, 4, 386


class Client:
    """A client that sends requests by keyword and returns the response of the same name."""

    def __init__(self, fault=None):
        from s2clientprotocol import sc2api_pb2

        from .session import Session

        self.pb, self.session = sc2api_pb2, Session(fault)

    def send(self, **request):
        response = self.raw(**request)
        assert not response.error
        return getattr(response, next(iter(request)))

    def raw(self, **request):
        return self.session.answer(self.pb.Request(id=3, **request))

    def create(self, name, **options):
        setup = [{"type": self.pb.Participant}, {"type": self.pb.Computer, "race": 3, "difficulty": 7}]
        request = {"local_map": {"map_path": f"SMAC_Maps/{name}.SC2Map"}, "player_setup": setup, **options}
        return self.send(create_game=request)

    def start(self, name, **options):
        self.create(name, random_seed=1, **options)
        self.send(join_game={"race": 1, "options": {"raw": True}})
        return self

    def units(self, owner=None):
        units = self.send(observation={}).observation.raw_data.units
        return [unit for unit in units if owner in (None, unit.owner)]

    def order(self, unit, ability, **target):
        command = {"ability_id": ability, "unit_tags": [unit.tag], **target}
        return list(self.send(action={"actions": [{"action_raw": {"unit_command": command}}]}).result)


@pytest.fixture
def client():
    return Client()


def test_every_response_has_the_games_status(client):
    pb = client.pb
    assert client.raw(ping={}).status == pb.launched
    client.create("3m")
    assert client.raw(ping={}).status == pb.init_game
    client.send(join_game={"race": 1})
    response = client.raw(step={"count": 5})
    assert (response.status, response.id, response.step.simulation_loop) == (pb.in_game, 3, 5)
    assert client.raw(leave_game={}).status == pb.launched
    assert client.raw(quit={}).status == pb.quit


@pytest.mark.parametrize("request_", ["step", "observation", "game_info", "save_replay", "join_game", "restart_game"])
def test_requests_that_need_a_game_fail_without_one(client, request_):
    assert "game" in client.raw(**{request_: {}}).error[0]


def test_unknown_requests_are_errors(client):
    assert "replay_info" in client.raw(replay_info={}).error[0]


def test_an_unknown_map_cannot_be_created(client):
    assert client.create("4m").error == client.pb.ResponseCreateGame.InvalidMapPath
    assert client.raw(ping={}).status == client.pb.launched


def test_all_maps_are_available(client):
    paths = client.send(available_maps={}).local_map_paths
    assert sorted(paths) == sorted(f"SMAC_Maps/{name}.SC2Map" for name in (*MAPS, "32x32_flat"))


def test_the_grid_is_walkable_only_in_the_playable_area(client):
    info = client.start("3m").send(game_info={})
    raw = info.start_raw
    (x0, y0), (x1, y1) = ((p.x, p.y) for p in (raw.playable_area.p0, raw.playable_area.p1))
    assert 0 < x0 < x1 < raw.map_size.x == 32
    assert 0 < y0 < y1 < raw.map_size.y == 32
    for y in range(32):
        for x in range(32):
            byte, bit = divmod(y * 32 + x, 8)
            walkable = raw.pathing_grid.data[byte] >> (7 - bit) & 1
            assert walkable == (x0 <= x < x1 and y0 <= y < y1)
    assert len(raw.terrain_height.data) == 32 * 32
    assert [player.type for player in info.player_info] == [client.pb.Participant, client.pb.Computer]
    assert [player.race_actual for player in info.player_info] == [1, 3]


def test_all_properties_of_a_unit_are_shown(client):
    client.start("MMM2")
    medivac = next(unit for unit in client.units(2) if unit.unit_type == 54)
    assert (medivac.health, medivac.health_max, medivac.shield_max) == (150, 150, 0)
    assert (medivac.energy, medivac.energy_max, medivac.radius) == (50, 200, 0.75)
    assert medivac.is_flying
    assert medivac.pos.z > 0
    assert medivac.alliance == 4
    zealot = Client().start("2s3z").units(1)[0]
    assert (zealot.health, zealot.shield, zealot.shield_max, zealot.alliance) == (100, 50, 50, 1)
    assert not zealot.is_flying


def test_orders_are_executed_and_invalid_ones_reported(client):
    from s2clientprotocol import error_pb2

    client.start("3m")
    mine, enemy = client.units(1)[0], client.units(2)[0]
    point = {"x": mine.pos.x, "y": mine.pos.y + 2}
    assert client.order(mine, MOVE, target_world_space_pos=point) == [error_pb2.Success]
    client.send(step={"count": 8})
    assert client.units(1)[0].pos.y > mine.pos.y + 1
    assert client.order(mine, STOP) == [error_pb2.Success]
    assert client.order(mine, ATTACK, target_unit_tag=enemy.tag) == [error_pb2.Success]
    assert client.units(1)[0].engaged_target_tag == enemy.tag
    assert client.order(mine, ATTACK, target_unit_tag=mine.tag) == [error_pb2.Error]
    assert client.order(mine, HEAL, target_unit_tag=mine.tag) == [error_pb2.Error]
    assert client.order(enemy, STOP) == [error_pb2.Error]
    assert client.order(mine, MOVE) == [error_pb2.NotSupported]
    assert client.order(mine, 999) == [error_pb2.NotSupported]
    assert client.order(mine, STOP, queue_command=True) == [error_pb2.NotSupported]


def test_debug_kills_and_creates(client):
    units = client.start("3m").units()
    client.send(debug={"debug": [{"kill_unit": {"tag": [units[0].tag, 12345]}}]})
    assert len(client.units()) == 5
    new = {"unit_type": 73, "owner": 2, "pos": {"x": 20, "y": 21}, "quantity": 2}
    client.send(debug={"debug": [{"create_unit": new}]})
    assert len(client.units()) == 5
    client.send(step={"count": 1})
    zealots = [unit for unit in client.units(2) if unit.unit_type == 73]
    assert [(unit.pos.x, unit.pos.y) for unit in zealots] == [(20, 21)] * 2
    assert client.raw(debug={"debug": [{"create_unit": {**new, "unit_type": 1}}]}).error
    assert client.raw(debug={"debug": [{"game_state": 1}]}).error


def test_a_restart_repeats_the_same_game(client):
    before = client.start("2s3z").units()
    client.send(step={"count": 100})
    assert client.units() != before
    client.send(restart_game={})
    assert client.units() == before


def test_faults_count_the_loops_of_all_games():
    class Recorder:
        loops = ()

        def check(self, loop):
            self.loops += (loop,)

    recorder = Recorder()
    client = Client(recorder).start("3m")
    client.send(step={"count": 2})
    client.send(restart_game={})
    assert client.send(step={"count": 2}).simulation_loop == 2
    assert recorder.loops == (1, 2, 3, 4)


def test_without_a_seed_every_game_differs(client):
    def first_unit():
        client.create("3m")
        client.send(join_game={"race": 1})
        return client.units()[0].pos.x

    assert first_unit() != first_unit()


def test_the_data_names_every_type_on_the_map(client):
    client.start("MMM2")
    names = {unit.unit_id: unit.name for unit in client.send(data={}).units}
    assert {names[unit.unit_type] for unit in client.units(1)} == {"RL_marauder", "RL_marine", "RL_medivac"}
    assert {names[unit.unit_type] for unit in client.units(2)} == {"marauder", "marine", "medivac"}


def test_the_units_of_smacv2_have_the_last_ids_of_the_data(client):
    """SMACv2 computes their first id as the number of types minus nine."""
    client.start("32x32_flat")
    types = client.send(data={}).units
    assert [entry.unit_id for entry in types] == list(range(len(types)))
    assert [entry.name for entry in types[-9:]] == [f"RL_{name}" for name in SMACV2_UNITS]
    assert all(entry.available == bool(entry.name) for entry in types)


def test_the_teams_of_smacv2_are_created_and_killed_repeatedly(client):
    client.start("32x32_flat")
    first = len(client.send(data={}).units) - 9
    for _ in range(2):
        assert not client.units()
        new = [
            {"create_unit": {"unit_type": unit_type, "owner": owner, "pos": {"x": x, "y": 16}, "quantity": 1}}
            for owner, x, unit_types in ((1, 8, range(first, first + 9)), (2, 24, (9, 4, 107, 51, 48, 54, 74, 73, 105)))
            for unit_type in unit_types
        ]
        client.send(debug={"debug": new})
        client.send(step={"count": 1})
        units = client.units()
        asked = [command["create_unit"] for command in new]
        assert [(unit.unit_type, unit.owner, unit.pos.x, unit.pos.y) for unit in units] == [
            (unit["unit_type"], unit["owner"], unit["pos"]["x"], 16) for unit in asked
        ]
        assert [unit.health_max for unit in units[:9]] == [unit.health_max for unit in units[9:]]
        client.send(debug={"debug": [{"kill_unit": {"tag": [unit.tag for unit in units]}}]})
        client.send(step={"count": 2})


def test_smacs_maps_have_only_their_unit_types(client):
    client.start("3m")
    types = client.send(data={}).units
    assert types[-1].name == "RL_marine"
    unknown = {"unit_type": len(types), "owner": 1, "pos": {"x": 9, "y": 9}, "quantity": 1}
    assert client.raw(debug={"debug": [{"create_unit": unknown}]}).error
