"""Battles as descriptions that can be decoded: two teams of units, one agent per unit, units as targets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from lolm_plugin.observations.description import (
    TOLERANCE,
    Choice,
    Description,
    Entities,
    Field,
    Number,
    Offset,
    Rule,
    Targets,
    Word,
)
from lolm_plugin.observations.layout import (
    BASE_ACTIONS,
    KINDS,
    N_BASE_ACTIONS,
    BattleState,
    Block,
    Observed,
    Units,
    per_kind,
)
from lolm_plugin.observations.state import State
from lolm_plugin.observations.units import HEALERS, NAMES, UNKNOWN

NOT_IN_PROMPTS = {"can_target", "visible", "dx", "dy"}  # said by the actions, by presence, and by the offset (dx, dy)


# Rules that the observations of living agents satisfy: name -> (rule, most likely cause of a violation).
_SHIFTED = "the vectors have other fields than env_args says, or belong to another map of the same size"
RULES: dict[str, tuple[str, str]] = {
    "moves": ("the first four numbers are the mask of the four moves", _SHIFTED),
    "distances": ("dist is the length of (dx, dy)", _SHIFTED),
    "offsets": ("a visible unit is within sight range", _SHIFTED),
    "shares": ("health, shield and cooldown are shares from 0 to 1", _SHIFTED),
    "own health": ("a living agent's own health is above 0", _SHIFTED),
    "one type bit": (
        "a present unit has exactly one type bit, an absent unit has none",
        "the map has other unit types, or a fork encodes them differently",
    ),
    "target flag": (
        "an enemy's first number equals the mask of the action that attacks it",
        "the mask has the enemies in another order, or these numbers belong to allies",
    ),
    "targets are seen": (
        "an enemy that can be attacked is visible",
        "the mask has the enemies in another order than the observation",
    ),
    "target range": (
        "an enemy that can be attacked is within range",
        "this version divides distances by another sight range, or has other weapon ranges",
    ),
}


@dataclass(frozen=True, kw_only=True)
class BattleLayout(Description):
    """A battle's observation in SMAC's order: [move | enemies | allies | own | trailing].

    ``sight`` and ``shoot_range`` are in map cells: one number, or one per universe index of the observer.

    Args:
        env: ``--env-config``, for error messages.
        map_name: name of the map, for error messages.
        enemies: the block of the enemies' numbers.
        allies: the block of the allies' numbers, without the observer.
        own: the block of the observer's numbers.
        sight: sight range, by which the environment divides all distances.
        shoot_range: range of target actions. None (or NaN for a type) if it is not known.
        further_targets: number of target actions beyond one per enemy. Healers with more allies than enemies have them.
        trailing: number of numbers after the own block, such as the timestep.
        hidden_targets: True if an enemy that is not shown can be in range and attacked.
        exceptions: names of the rules (``RULES``) that this environment does not satisfy.

    Example: two marines against one, with SMAC's ranges::

        marine = index("marine")
        enemies, allies, own = contiguous(
            4,
            (1, ("can_target", "dist", "dx", "dy", "health"), (), marine),
            (1, ("visible", "dist", "dx", "dy", "health"), (), marine),
            (1, ("health",), (), marine),
        )
        BattleLayout("mine", "2m_vs_1m", enemies=enemies, allies=allies, own=own, sight=9.0, shoot_range=6.0)

    ``examples/add_an_env`` adds a whole environment; ``tests/examples/test_add_an_env.py`` runs it.
    """

    enemies: Block
    allies: Block
    own: Block
    sight: float | tuple[float, ...]
    shoot_range: float | tuple[float, ...] | None = None
    further_targets: int = 0
    trailing: int = 0
    hidden_targets: bool = False
    exceptions: frozenset[str] = frozenset()

    # The fields of Description, computed from the blocks.
    size: int = field(init=False)
    n_agents: int = field(init=False)
    task: str = field(init=False, default="a battle")
    agent: str = field(init=False, default="unit")
    goal: str = field(init=False, default="Kill all enemies and stay alive.")
    fields: tuple[Field, ...] = field(init=False)
    entities: tuple[Entities, ...] = field(init=False)
    actions: tuple[str, ...] = field(init=False, default=BASE_ACTIONS)
    targets: tuple[Targets, ...] = field(init=False)
    n_targets: int = field(init=False)

    advice = "Set env_args to the map that is played"

    def __post_init__(self) -> None:
        """Compute the fields of ``Description`` from the blocks."""
        derived = {
            "size": self.own.end + self.trailing,
            "n_agents": self.allies.rows + 1,
            "fields": self._described(self.own, self.own.start),
            "entities": (self._entities("ally", self.allies), self._entities("enemy", self.enemies)),
            "targets": self._targets(),
            "n_targets": self.n_enemies + self.further_targets,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def n_enemies(self) -> int:
        return self.enemies.rows

    @property
    def kinds(self) -> frozenset[int]:
        """Universe indices of all unit types that an observation can show; ``UNKNOWN`` if a block has no type."""
        return frozenset(kind for block in (self.own, self.allies, self.enemies) for kind in block.possible_kinds)

    @property
    def masks_range(self) -> bool:
        """Return True if the action mask offers only targets in range."""
        return "target flag" not in self.exceptions

    @property
    def has_healers(self) -> bool:
        """Return True if an agent of this map can be a healer."""
        return any(kind in HEALERS for kind in self.own.possible_kinds)

    def agent_names(self, obs: Tensor) -> list[str]:
        """Return the unit types of agents with observations [rows, size]."""
        return [KINDS[kind] for kind in self.decode(obs).own.kind[:, 0].tolist()]

    def names(self, agent: int) -> dict[int, str]:
        """Return a readable name of each number that agent ``agent`` sees, by index."""
        names = {i: f"can {action}" for i, action in enumerate(BASE_ACTIONS[2:]) if i < self.enemies.start}
        for side, block in (("enemy", self.enemies), ("ally", self.allies), ("own", self.own)):
            columns = (*block.fields, *(f"is a {NAMES[kind]}" for kind in block.kinds))
            for row in range(block.rows):
                label = {"own": "own", "ally": f"ally {row + (row >= agent)}"}.get(side, f"{side} {row}")
                start = block.start + row * block.width
                names |= {start + i: f"{label}: {column}" for i, column in enumerate(columns)}
        return names

    def living(self, obs: Tensor) -> Tensor:
        """Return True for a living agent's observations [..., obs_size]. A dead agent's are 0 up to the timestep."""
        return (obs[..., : self.own.end] != 0).any(-1)

    def decode(self, obs: Tensor) -> Observed:
        """Decode observations [..., obs_size] into units with named fields."""
        own = self.own.decode(obs, present=self.living(obs).unsqueeze(-1))
        enemies = self.enemies.decode(obs)
        heals = torch.zeros(obs.shape[:-1], dtype=torch.bool, device=obs.device)
        if self.has_healers:
            heals = torch.isin(own.kind[..., 0], torch.tensor(HEALERS, device=obs.device))
            # For a healer, this number says whether it can heal the ally of the same index, nothing about the enemy.
            can_target = enemies.fields["can_target"].masked_fill(heals.unsqueeze(-1), 0.0)
            enemies = replace(enemies, fields={**enemies.fields, "can_target": can_target})
        sight = per_kind(self.sight, own.kind[..., 0])
        return Observed(own, self.allies.decode(obs), enemies, sight, heals)

    def as_published(self) -> Self:
        """Return the layout with enemy type bits as the released code of DT2GS reads them (``Block.published``)."""
        return replace(self, enemies=self.enemies.published(self.allies))

    def rules(self, obs: Tensor, available: Tensor) -> Iterator[Rule]:
        """Yield the rules of ``RULES`` without ``exceptions`` for living agents' observations [rows, size]."""
        seen = self.decode(obs)
        others, everyone = (seen.allies, seen.enemies), (seen.own, seen.allies, seen.enemies)
        present, fields, heals = seen.enemies.present, seen.enemies.fields, seen.heals.unsqueeze(-1)
        flagged = fields["can_target"] > 0
        offered = available[:, N_BASE_ACTIONS : N_BASE_ACTIONS + self.n_enemies]
        always = torch.ones_like(heals)

        def within(teams: Sequence[Units], names: Sequence[str], low: float, high: float) -> Tensor:
            values = [units.fields[name] for units in teams for name in names if name in units.fields]
            return torch.cat([always, *((v >= low - TOLERANCE) & (v <= high + TOLERANCE) for v in values)], -1)

        def is_length(units: Units) -> Tensor:
            length = torch.hypot(units.fields["dx"], units.fields["dy"])
            return (units.fields["dist"] - length).abs() <= TOLERANCE

        def one_bit(block: Block, units: Units) -> Tensor:
            bits = block.type_bits(obs)
            return ((bits == 0) | (bits == 1)).all(-1) & (bits.sum(-1) == units.present)

        blocks = zip((self.own, self.allies, self.enemies), everyone, strict=True)
        reach = torch.full_like(seen.sight, float("inf"))
        if self.shoot_range is not None:
            reach = per_kind(self.shoot_range, seen.own.kind[:, 0])
        cells = fields["dist"] * seen.sight.unsqueeze(-1)
        holds = {
            "moves": (obs[:, :4] > 0) == available[:, 2:N_BASE_ACTIONS],
            "distances": torch.cat([is_length(units) for units in others], -1),
            "offsets": within(others, ("dist", "dx", "dy"), -1, 1),
            "shares": within(everyone, ("health", "shield", "cooldown"), 0, 1),
            "own health": seen.own.fields["health"] > 0 if "health" in seen.own.fields else always,
            "one type bit": torch.cat([always, *(one_bit(block, units) for block, units in blocks if block.kinds)], -1),
            "target flag": (flagged == offered) | ~present | heals,
            "targets are seen": present | ~offered | heals,
            "target range": ~flagged | (cells <= reach.unsqueeze(-1) + 0.01),
        }
        for name, (text, cause) in RULES.items():
            if name not in self.exceptions:
                yield Rule(name, text, cause, holds[name])

    def sample(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sample obs [rows, obs_size], available [rows, n_actions] and agent [rows]: noise with valid type bits.

        The first feature statistics of a training are computed from it. ``sample_fields`` would keep numbers in range.
        """
        rng = np.random.default_rng(0)
        obs = rng.uniform(-1, 1, (rows, self.size)).astype(np.float32)
        for block in (self.enemies, self.allies, self.own):
            shape = (rows, block.rows)
            units = obs[:, block.start : block.end].reshape(*shape, block.width)
            if block.kinds:
                bits = np.eye(len(block.kinds))[rng.integers(len(block.kinds), size=shape)]
                units[..., len(block.fields) : len(block.fields) + len(block.kinds)] = bits
            units *= rng.random((*shape, 1)) < 0.7
            obs[:, block.start : block.end] = units.reshape(rows, -1)
        available = torch.from_numpy(rng.random((rows, self.n_actions)) < 0.5)
        return torch.from_numpy(obs), available, torch.arange(rows) % self.n_agents

    def _entities(self, name: str, block: Block) -> Entities:
        return Entities(
            name,
            starts=tuple(range(block.start, block.end, block.width)),
            fields=self._described(block),
            present_if_nonzero=tuple(range(len(block.fields) + len(block.kinds))),
            skips_self=name == "ally",
        )

    def _described(self, block: Block, start: int = 0) -> tuple[Field, ...]:
        """Return the type, the offset and the other fields of a unit whose numbers begin at ``start``."""
        fields: list[Field] = []
        if block.kinds:
            fields.append(Choice(start + len(block.fields), tuple(NAMES[kind] for kind in block.kinds)))
        elif block.only_kind != UNKNOWN:
            fields.append(Word(NAMES[block.only_kind]))
        sight, unit = (1.0, "shares of your sight") if isinstance(self.sight, tuple) else (self.sight, "in cells")
        if "dx" in block.fields:
            x, y = (start + block.fields.index(name) for name in ("dx", "dy"))
            fields.append(Offset(("east", "west", "north", "south"), x, y, decimals=1, unit=unit, scale=sight))
        for at, name in enumerate(block.fields, start):
            if name == "dist":
                fields.append(Number("distance", at, decimals=1, unit=unit, scale=sight))
            elif name not in NOT_IN_PROMPTS:
                fields.append(Number(name.replace("_", " "), at, unit="a share of the maximum"))
        return tuple(fields)

    def _targets(self) -> tuple[Targets, ...]:
        attack = Targets("attack", "enemy")
        if not self.has_healers:
            return (attack,)
        bits = self.own.start + len(self.own.fields)
        healers = tuple(bits + i for i, kind in enumerate(self.own.kinds) if kind in HEALERS)
        return Targets("heal", "ally", when=healers), attack


@dataclass(frozen=True)
class JointStateLayout(BattleState):
    """A state that is the concatenation of all agents' observations (SMAC's ``obs_instead_of_state``).

    Allies are read from their own blocks. An enemy is read from the first agent that sees it. Positions of other units
    are relative to each observer and are left out.
    """

    observation: BattleLayout

    SHARED = ("health", "shield", "cooldown")  # fields that do not depend on the observer

    @property
    def size(self) -> int:
        return self.observation.n_agents * self.observation.size

    def decode(self, state: Tensor) -> tuple[Units, Units]:
        """Decode states [..., n_agents * obs_size] into (allies, enemies), with own positions if they are shown."""
        observed = self.observation.decode(state.unflatten(-1, (self.observation.n_agents, self.observation.size)))
        own, enemies = observed.own, observed.enemies
        fields = {name: own.fields[name][..., 0] for name in (*self.SHARED, "x", "y") if name in own.fields}
        allies = Units(own.present[..., 0], fields, own.kind[..., 0])
        seen = enemies.present.any(-2)
        first = enemies.present.int().argmax(-2, keepdim=True)  # the first agent that sees this enemy

        def by_first(values: Tensor) -> Tensor:
            return torch.gather(values, -2, first).squeeze(-2)

        found = {name: by_first(enemies.fields[name]) for name in self.SHARED if name in enemies.fields}
        return allies, Units(seen, found, by_first(enemies.kind))

    def as_published(self) -> Self:
        return replace(self, observation=self.observation.as_published())


@dataclass(frozen=True)
class Layouts:
    """Observation and state of a map, with the units of its teams (universe index -> count) if these never change.

    ``swapped_types`` is the key to set if the enemies' types turn out to be exchanged. ``cells`` is the number of map
    cells per unit of the state's x and y, None if the configuration does not say it.
    """

    observation: Description
    state: State
    ally_team: Mapping[int, int] | None = None
    enemy_team: Mapping[int, int] | None = None
    swapped_types: str = ""
    cells: float | None = None

    @property
    def battle(self) -> BattleLayout:
        """Return the observation as a battle. The configuration check refuses other tasks before this is used."""
        assert isinstance(self.observation, BattleLayout), f"{self.observation.map_name} is not a battle"
        return self.observation
