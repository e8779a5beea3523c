"""The game's side of the protocol: responses to the requests of pysc2, SMAC and SMACv2."""

import random
from pathlib import PurePosixPath

from s2clientprotocol import common_pb2, data_pb2, error_pb2, raw_pb2, sc2api_pb2

from .battle import ALLY, Order, Unit, Verb
from .faults import Fault
from .game import Game
from .maps import ALL_MAPS, FIRST_ALLY_ID, Map
from .units import KINDS, Kind

VERSION = ("4.10.0", 75689)
VERBS = {4: Verb.STOP, 16: Verb.MOVE, 23: Verb.ATTACK, 386: Verb.HEAL}  # by ability id
FLAT = 127  # constant terrain height, in 0..255
FLYING_HEIGHT = 3.75  # cells above ground


class Refused(Exception):
    """A request is not valid in this state. The message is sent to the client."""


class Session:
    """Session of one client, with at most one game at a time."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.status = sc2api_pb2.launched
        self.loops = 0  # game loops since the process started, over all games
        self._fault = fault
        self._create: sc2api_pb2.RequestCreateGame | None = None
        self._race = common_pb2.Random  # of the client
        self._game: Game | None = None

    def answer(self, request: sc2api_pb2.Request) -> sc2api_pb2.Response:
        """Return the response to a request. An invalid request gets an error and changes nothing."""
        name = request.WhichOneof("request")
        response = sc2api_pb2.Response(id=request.id)
        handle = getattr(self, f"_on_{name}", None)
        try:
            if handle is None:
                raise Refused(f"the fake game does not know the request {name}")
            handle(getattr(request, name), getattr(response, name))
            getattr(response, name).SetInParent()
        except Refused as refused:
            response.error.append(str(refused))
        response.status = self.status
        return response

    @property
    def game(self) -> Game:
        if self._game is None or self.status != sc2api_pb2.in_game:
            raise Refused("no game is being played")
        return self._game

    def _on_ping(self, request, response) -> None:
        response.game_version, response.base_build = VERSION
        response.data_build = VERSION[1]
        response.data_version = ""

    def _on_available_maps(self, request, response) -> None:
        response.local_map_paths.extend(f"SMAC_Maps/{name}.SC2Map" for name in ALL_MAPS)

    def _on_create_game(self, request, response) -> None:
        if PurePosixPath(request.local_map.map_path).stem not in ALL_MAPS:
            response.error = response.InvalidMapPath
            response.error_details = f"{request.local_map.map_path} is none of {', '.join(ALL_MAPS)}"
            return
        self._create, self._game = request, None
        self.status = sc2api_pb2.init_game

    def _on_join_game(self, request, response) -> None:
        if self.status != sc2api_pb2.init_game:
            raise Refused("there is no game to join")
        self._race = request.race
        response.player_id = ALLY
        self._start()

    def _on_restart_game(self, request, response) -> None:
        self._game = Game(self.game.map, self.game.seed)

    def _on_leave_game(self, request, response) -> None:
        self._game, self.status = None, sc2api_pb2.launched

    def _on_quit(self, request, response) -> None:
        self.status = sc2api_pb2.quit

    def _on_game_info(self, request, response) -> None:
        response.map_name = self.game.map.name
        response.local_map_path = self._create.local_map.map_path
        response.options.raw = True
        for player_id, setup in enumerate(self._create.player_setup, ALLY):
            race = self._race if player_id == ALLY else setup.race
            player = response.player_info.add(player_id=player_id, type=setup.type)
            player.race_requested = player.race_actual = race
            if setup.type == sc2api_pb2.Computer:
                player.difficulty = setup.difficulty
        _describe_map(self.game.map, response.start_raw)

    def _on_step(self, request, response) -> None:
        for _ in range(request.count):
            self.game.step()
            self.loops += 1
            if self._fault:
                self._fault.check(self.loops)
        response.simulation_loop = self.game.loop

    def _on_observation(self, request, response) -> None:
        seen = response.observation
        seen.game_loop = self.game.loop
        seen.player_common.player_id = ALLY
        seen.raw_data.player.camera.SetInParent()
        # The whole map is visible, as on SMAC's maps.
        for unit in self.game.battle.units.values():
            _describe_unit(unit, seen.raw_data.units.add())

    def _on_action(self, request, response) -> None:
        for action in request.actions:
            if action.action_raw.HasField("unit_command"):
                response.result.append(self._obey(action.action_raw.unit_command))

    def _obey(self, command: raw_pb2.ActionRawUnitCommand) -> int:
        verb = VERBS.get(command.ability_id)
        needed = {Verb.MOVE: "target_world_space_pos", Verb.ATTACK: "target_unit_tag", Verb.HEAL: "target_unit_tag"}
        if verb is None or (verb in needed and not command.HasField(needed[verb])) or command.queue_command:
            return error_pb2.NotSupported
        point = command.target_world_space_pos
        order = Order(verb, (point.x, point.y), command.target_unit_tag)
        battle = self.game.battle
        for tag in command.unit_tags:
            mine = tag in battle.units and battle.units[tag].owner == ALLY
            if not mine or not battle.command(tag, order):
                return error_pb2.Error
        return error_pb2.Success

    def _on_debug(self, request, response) -> None:
        for command in request.debug:
            if command.HasField("kill_unit"):
                self.game.battle.kill(command.kill_unit.tag)
            elif command.HasField("create_unit"):
                new = command.create_unit
                for _ in range(new.quantity):
                    if not self.game.create(new.unit_type, new.owner, new.pos.x, new.pos.y):
                        raise Refused(f"{self.game.map.name} has no unit type {new.unit_type} for player {new.owner}")
            else:
                raise Refused(f"the fake game does not know the debug command {command.WhichOneof('command')}")

    def _on_data(self, request, response) -> None:
        for ability_id, verb in VERBS.items():
            response.abilities.add(ability_id=ability_id, link_name=verb.value, hotkey="", available=True)
        # Every id from 0 on has an entry, and the map's own types are the last ones: SMACv2 finds them by counting.
        for type_id in range(FIRST_ALLY_ID):
            response.units.add(unit_id=type_id)
        for kind in KINDS.values():
            _describe_type(kind.name, kind, response.units[kind.unit_id])
        for name, type_id in self.game.map.ally_ids.items():
            _describe_type(f"RL_{name}", KINDS[name], response.units.add(unit_id=type_id))

    def _on_query(self, request, response) -> None:
        """Return an empty response."""

    def _on_save_replay(self, request, response) -> None:
        game = self.game
        response.data = f"fake replay: {game.map.name}, seed {game.seed}, {game.loop} game loops".encode()

    def _start(self) -> None:
        map_ = ALL_MAPS[PurePosixPath(self._create.local_map.map_path).stem]
        # Without a seed every game is different, as in the real one.
        seed = self._create.random_seed if self._create.HasField("random_seed") else random.getrandbits(32)
        self._game, self.status = Game(map_, seed), sc2api_pb2.in_game


def _describe_map(map_: Map, raw: raw_pb2.StartRaw) -> None:
    area, cells = map_.area, range(map_.size)
    raw.map_size.x = raw.map_size.y = map_.size
    raw.playable_area.p0.x, raw.playable_area.p0.y = area.west, area.south
    raw.playable_area.p1.x, raw.playable_area.p1.y = area.east, area.north
    # One bit per cell, 1 if units can walk there; most significant bit first, row by row from the south.
    bits = "".join(str(int(area.west <= x < area.east and area.south <= y < area.north)) for y in cells for x in cells)
    walkable = int(bits, 2).to_bytes(map_.size * map_.size // 8, "big")
    for grid, bits_per_pixel, data in (
        (raw.pathing_grid, 1, walkable),
        (raw.placement_grid, 1, walkable),
        (raw.terrain_height, 8, bytes([FLAT]) * map_.size**2),
    ):
        grid.bits_per_pixel, grid.data = bits_per_pixel, data
        grid.size.x = grid.size.y = map_.size


def _describe_type(name: str, kind: Kind, raw: data_pb2.UnitTypeData) -> None:
    raw.name, raw.available, raw.sight_range = name, True, 9
    raw.race = common_pb2.Race.Value(kind.race)
    raw.movement_speed = kind.speed * 16  # cells per second


def _describe_unit(unit: Unit, raw: raw_pb2.Unit) -> None:
    kind = unit.kind
    raw.display_type = raw_pb2.Visible
    raw.alliance = raw_pb2.Self if unit.owner == ALLY else raw_pb2.Enemy
    raw.tag, raw.unit_type, raw.owner = unit.tag, unit.type_id, unit.owner
    raw.pos.x, raw.pos.y, raw.pos.z = unit.x, unit.y, FLYING_HEIGHT if kind.flies else 0.0
    raw.facing, raw.radius, raw.build_progress = unit.facing, kind.radius, 1.0
    raw.health, raw.health_max = unit.health, kind.health
    raw.shield, raw.shield_max = unit.shield, kind.shield
    raw.energy, raw.energy_max = unit.energy, kind.energy_max
    raw.is_flying, raw.weapon_cooldown = kind.flies, unit.cooldown
    raw.is_powered = raw.is_active = False
    if unit.order.verb in (Verb.ATTACK, Verb.HEAL):
        raw.engaged_target_tag = unit.order.target
