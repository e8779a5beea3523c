"""Layouts of SMAC and its relatives: the same order of fields, which flags switch on and off.

Sources: ``get_obs_agent`` and ``get_state_dict`` of SMAC and SMACv2, ``SMACliteEnv``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lolm_plugin.observations.battle import BattleLayout, JointStateLayout, Layouts
from lolm_plugin.observations.layout import N_BASE_ACTIONS, Block, StateLayout
from lolm_plugin.observations.units import UNIVERSE, UNKNOWN, index

SIGHT = 9.0  # map cells, every unit
SHOOT_RANGE = 6.0  # map cells within which the mask offers targets, melee units included
MOVE, PATHING, HEIGHT = 4, 8, 9  # numbers about moving: the mask, walkable points around, their heights


@dataclass(frozen=True)
class Battle:
    """The two teams of a battle: units by name and count, allies in the order of their ids."""

    allies: Mapping[str, int]
    enemies: Mapping[str, int]

    @property
    def n_agents(self) -> int:
        return sum(self.allies.values())

    @property
    def n_enemies(self) -> int:
        return sum(self.enemies.values())

    @property
    def n_targets(self) -> int:
        """Number of target actions: one per enemy. Healers use the same actions."""
        return self.n_enemies


@dataclass(frozen=True)
class Side:
    """One team: number of units, whether they have shields, and the meaning of its type bits.

    ``kinds`` are universe indices. Without type bits, ``only_kind`` is the type of every unit.
    """

    count: int
    shields: bool
    kinds: tuple[int, ...] = ()
    only_kind: int = UNKNOWN

    @property
    def shield(self) -> tuple[str, ...]:
        """The field that only shielded units have."""
        return ("shield",) if self.shields else ()


@dataclass(frozen=True)
class Flags:
    """Flags for the contents of an environment's vectors, named as SMAC's arguments."""

    obs_all_health: bool = True
    obs_own_health: bool = True
    obs_last_action: bool = False
    obs_pathing_grid: bool = False
    obs_terrain_height: bool = False
    obs_timestep_number: bool = False
    obs_instead_of_state: bool = False
    obs_own_pos: bool = False
    state_last_action: bool = True
    state_timestep_number: bool = False

    @classmethod
    def of(cls, env_args: Mapping[str, Any]) -> "Flags":
        """Return the flags in ``env_args``, with SMAC's defaults for missing ones."""
        return cls(**{name: bool(env_args[name]) for name in cls.__dataclass_fields__ if name in env_args})


def battle_layouts(
    env: str,
    map_name: str,
    sides: tuple[Side, Side],
    flags: Flags,
    n_targets: int,
    abilities: Sequence[str] = (),
    **more: Any,
) -> Layouts:
    """Build the layouts of a battle between ``sides`` (allies, enemies).

    ``abilities`` are further fields of the allies' block and the own block. ``more`` is passed to ``BattleLayout``.
    """
    allies, enemies = sides

    def block(start: int, side: Side, rows: int, *fields: str, unread: int = 0) -> Block:
        return Block(start, rows, fields, side.kinds, side.only_kind, unread)

    def condition(side: Side, shown: bool = True) -> tuple[str, ...]:
        return ("health", *side.shield) if shown else ()

    own_health = flags.obs_own_health or flags.obs_all_health
    own_position = ("x", "y") if flags.obs_own_pos else ()
    last_action = (N_BASE_ACTIONS + n_targets) * flags.obs_last_action
    where = ("dist", "dx", "dy")
    start = MOVE + PATHING * flags.obs_pathing_grid + HEIGHT * flags.obs_terrain_height
    shown = condition(enemies, flags.obs_all_health)
    enemy_block = block(start, enemies, enemies.count, "can_target", *where, *shown)
    shown = (*condition(allies, flags.obs_all_health), *abilities)
    ally_block = block(enemy_block.end, allies, allies.count - 1, "visible", *where, *shown, unread=last_action)
    shown = (*condition(allies, own_health), *abilities, *own_position)
    observation = BattleLayout(
        env,
        map_name,
        enemies=enemy_block,
        allies=ally_block,
        own=block(ally_block.end, allies, 1, *shown),
        further_targets=n_targets - enemies.count,
        trailing=int(flags.obs_timestep_number),
        **more,
    )
    if flags.obs_instead_of_state:
        return Layouts(observation, JointStateLayout(observation))
    ally_block = block(0, allies, allies.count, "health", "cooldown", "x", "y", *allies.shield, *abilities)
    enemy_block = block(ally_block.end, enemies, enemies.count, "health", "x", "y", *enemies.shield)
    unread = allies.count * observation.n_actions * flags.state_last_action + flags.state_timestep_number
    return Layouts(observation, StateLayout(ally_block, enemy_block, unread))


def map_layouts(
    env: str, map_name: str, battle: Battle, kinds: tuple[tuple[int, ...], tuple[int, ...]], flags: Flags
) -> Layouts:
    """Build the layouts of a map with fixed teams; ``kinds`` are those of the type bits of (allies, enemies)."""
    teams = (battle.allies, battle.enemies)
    allies, enemies = (_side(team, bits) for team, bits in zip(teams, kinds, strict=True))
    ally_team, enemy_team = ({index(name): count for name, count in team.items()} for team in teams)
    layouts = battle_layouts(
        env, map_name, (allies, enemies), flags, battle.n_targets, sight=SIGHT, shoot_range=SHOOT_RANGE
    )
    return replace(layouts, ally_team=ally_team, enemy_team=enemy_team)


def _side(team: Mapping[str, int], kinds: tuple[int, ...]) -> Side:
    count, shields = sum(team.values()), has_shields(team)
    return Side(count, shields, kinds) if kinds else Side(count, shields, only_kind=index(*team))


def has_shields(team: Mapping[str, int]) -> bool:
    """Return True if a unit of a team (name -> count) is Protoss. Protoss units have shields."""
    return any(UNIVERSE[index(name)].max_shield for name in team)
