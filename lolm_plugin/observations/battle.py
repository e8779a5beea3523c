"""Battles as descriptions that can be decoded: two teams of units, one agent a unit, targets that are units."""

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
    State,
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
from lolm_plugin.observations.units import HEALERS, NAMES, UNKNOWN

NOT_IN_PROMPTS = {"can_target", "visible", "dx", "dy"}  # the actions tell the first; the last two are the offset


# What the observations of living agents keep to: name -> rule, and what most likely is wrong where it is broken.
_SHIFTED = "the vectors have other fields than env_args says, or belong to another map of the same size"
RULES: dict[str, tuple[str, str]] = {
    "moves": ("the first four numbers are the mask of the four moves", _SHIFTED),
    "distances": ("dist is the length of (dx, dy)", _SHIFTED),
    "offsets": ("whoever is seen is within sight", _SHIFTED),
    "shares": ("health, shield and cooldown are shares from 0 to 1", _SHIFTED),
    "own health": ("a living agent's own health is above 0", _SHIFTED),
    "one type bit": (
        "a unit has exactly one type bit, an absent one has none",
        "the map has other unit types, or a fork encodes them otherwise",
    ),
    "target flag": (
        "an enemy's first number is the mask of attacking it",
        "the enemies are in another order in the mask, or the rows belong to allies",
    ),
    "targets are seen": (
        "who can be attacked is seen",
        "the enemies are in another order in the mask than in the rows",
    ),
    "target range": (
        "who can be attacked is within range",
        "this version divides distances by another sight range, or has other weapon ranges",
    ),
}


@dataclass(frozen=True, kw_only=True)
class BattleLayout(Description):
    """A battle's observation: [move | enemies | allies | own | trailing], SMAC's order.

    ``sight`` and ``shoot_range`` are in map cells: a number, or one per universe index where they depend on the
    observer's own type. ``sight`` divides all distances; ``shoot_range`` is how far a target action reaches, None
    (or NaN for a type) where that is not known. ``further_targets`` are target actions beyond one per enemy, which
    healers with more allies than enemies have. ``trailing`` counts the numbers after the own block, such as the
    timestep.
    ``hidden_targets``: an enemy without a row may be in range all the same, so that it can be attacked unseen.
    ``exceptions`` names the rules (``RULES``) that this environment does not keep.
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

    # What a description says follows from the blocks.
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

    advice = "Set env_args to what is played"

    def __post_init__(self) -> None:
        """Describe the blocks."""
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
        """Universe indices of all units that an observation can name, with ``UNKNOWN`` where a type is not shown."""
        return frozenset(kind for block in (self.own, self.allies, self.enemies) for kind in block.possible_kinds)

    @property
    def masks_range(self) -> bool:
        """Whether the action mask offers only targets in range."""
        return "target flag" not in self.exceptions

    @property
    def has_healers(self) -> bool:
        """Whether an agent of this map can be a unit that heals."""
        return any(kind in HEALERS for kind in self.own.possible_kinds)

    def agent_names(self, obs: Tensor) -> list[str]:
        """The unit types of agents with observations [rows, size]."""
        return [KINDS[kind] for kind in self.decode(obs).own.kind[:, 0].tolist()]

    def names(self, agent: int) -> dict[int, str]:
        """For people: what each number is that agent ``agent`` sees, by index."""
        names = {i: f"can {action}" for i, action in enumerate(BASE_ACTIONS[2:]) if i < self.enemies.start}
        for side, block in (("enemy", self.enemies), ("ally", self.allies), ("own", self.own)):
            columns = (*block.fields, *(f"is a {NAMES[kind]}" for kind in block.kinds))
            for row in range(block.rows):
                label = {"own": "own", "ally": f"ally {row + (row >= agent)}"}.get(side, f"{side} {row}")
                start = block.start + row * block.width
                names |= {start + i: f"{label}: {column}" for i, column in enumerate(columns)}
        return names

    def living(self, obs: Tensor) -> Tensor:
        """Whether each observation [..., obs_size] is a living agent's: a dead agent's is zeros up to the timestep."""
        return (obs[..., : self.own.end] != 0).any(-1)

    def decode(self, obs: Tensor) -> Observed:
        """Observations [..., obs_size] -> named entities."""
        own = self.own.decode(obs, present=self.living(obs).unsqueeze(-1))
        enemies = self.enemies.decode(obs)
        heals = torch.zeros(obs.shape[:-1], dtype=torch.bool, device=obs.device)
        if self.has_healers:
            heals = torch.isin(own.kind[..., 0], torch.tensor(HEALERS, device=obs.device))
            # For a healer this column says whether it can heal the ally of that number: nothing about the enemy.
            can_target = enemies.fields["can_target"].masked_fill(heals.unsqueeze(-1), 0.0)
            enemies = replace(enemies, fields={**enemies.fields, "can_target": can_target})
        sight = per_kind(self.sight, own.kind[..., 0])
        return Observed(own, self.allies.decode(obs), enemies, sight, heals)

    def as_published(self) -> Self:
        """The same with the enemies' type bits as the released code of DT2GS reads them (``Block.published``)."""
        return replace(self, enemies=self.enemies.published(self.allies))

    def rules(self, obs: Tensor, available: Tensor) -> Iterator[Rule]:
        """Apply to observations [rows, size] of living agents what battles keep to: relations between numbers."""
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
        """Made-up obs [rows, obs_size], available [rows, n_actions] and agent [rows]: noise with valid type bits.

        The first feature statistics of trainings come from this very noise; ``sample_fields`` keeps numbers in range.
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
            shown_by=tuple(range(len(block.fields) + len(block.kinds))),
            skips_self=name == "ally",
        )

    def _described(self, block: Block, start: int = 0) -> tuple[Field, ...]:
        """The type, the offset and the other fields of a unit whose numbers begin at ``start``."""
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
    """A state that is all agents' observations, one after the other (SMAC's ``obs_instead_of_state``).

    Reads the team from the agents' own blocks, and an enemy from the first agent that sees it. Positions of others are
    relative to each observer, so they are left out.
    """

    observation: BattleLayout

    SHARED = ("health", "shield", "cooldown")  # what means the same whoever looks

    @property
    def size(self) -> int:
        return self.observation.n_agents * self.observation.size

    def decode(self, state: Tensor) -> tuple[Units, Units]:
        """States [..., n_agents * obs_size] -> (allies, enemies); own positions where the environment shows them."""
        observed = self.observation.decode(state.unflatten(-1, (self.observation.n_agents, self.observation.size)))
        own, enemies = observed.own, observed.enemies
        fields = {name: own.fields[name][..., 0] for name in (*self.SHARED, "x", "y") if name in own.fields}
        allies = Units(own.present[..., 0], fields, own.kind[..., 0])
        seen = enemies.present.any(-2)
        first = enemies.present.int().argmax(-2, keepdim=True)  # of the agents, who sees this enemy

        def by_first(values: Tensor) -> Tensor:
            return torch.gather(values, -2, first).squeeze(-2)

        found = {name: by_first(enemies.fields[name]) for name in self.SHARED if name in enemies.fields}
        return allies, Units(seen, found, by_first(enemies.kind))

    def as_published(self) -> Self:
        return replace(self, observation=self.observation.as_published())


@dataclass(frozen=True)
class Layouts:
    """Observation and state of a map and, where its teams never change, their units (universe index -> count).

    ``swapped_types`` is the key to set where the enemies turn out to have each other's types. ``cells`` is how many
    map cells one unit of the state's x and y is, None where the configuration does not say.
    """

    observation: Description
    state: State
    ally_team: Mapping[int, int] | None = None
    enemy_team: Mapping[int, int] | None = None
    swapped_types: str = ""
    cells: float | None = None

    @property
    def battle(self) -> BattleLayout:
        """The observation of a battle, for what plays nothing else; the configuration check refuses it elsewhere."""
        assert isinstance(self.observation, BattleLayout), f"{self.observation.map_name} is no battle"
        return self.observation
