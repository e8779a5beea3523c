"""From the flat vectors a host hands over to named entities, for whole tensors at once.

A layout says where each field of each unit lies. It is built from the configuration alone, because
controllers and learners never see the environment, and checked against the sizes in the scheme.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.units import HEALERS, NAMES, UNKNOWN

# Actions that every environment has; after them one per target.
BASE_ACTIONS = ("no-op", "stop", "move north", "move south", "move east", "move west")
N_BASE_ACTIONS = len(BASE_ACTIONS)


@dataclass(frozen=True)
class Units:
    """Units of one kind with their fields, whatever the leading dimensions ``[...]``.

    ``present`` [..., units] is false for a unit that is dead or out of sight. ``fields`` maps a name
    (``health``, ``dx``, ...) to [..., units]. ``kind`` [..., units] is the index in the unit universe,
    ``UNKNOWN`` where the observation does not tell.
    """

    present: Tensor
    fields: Mapping[str, Tensor]
    kind: Tensor


@dataclass(frozen=True)
class Observed:
    """What agents see: ``own`` has one unit, ``allies`` n_agents - 1 (self skipped), ``enemies`` n_enemies."""

    own: Units
    allies: Units
    enemies: Units
    sight: Tensor  # [...], the observer's sight range: multiply dist, dx and dy by it to get cells
    heals: Tensor  # bool [...]: the observer's target actions mean allies, not enemies


@dataclass(frozen=True)
class Block:
    """``rows`` units of ``width`` numbers each, contiguous from ``start``: fields, type bits, then what is not read.

    ``kinds`` are the universe indices behind the one-hot type bits; with no type bits, ``only_kind`` is the
    type of every unit of the block. ``unread`` is how many further numbers end each row.
    """

    start: int
    rows: int
    fields: tuple[str, ...]
    kinds: tuple[int, ...] = ()
    only_kind: int = UNKNOWN
    unread: int = 0

    @property
    def width(self) -> int:
        return len(self.fields) + len(self.kinds) + self.unread

    @property
    def end(self) -> int:
        return self.start + self.rows * self.width

    def rows_of(self, flat: Tensor) -> Tensor:
        """Flat vectors [..., size] -> [..., rows, width]."""
        return flat[..., self.start : self.end].unflatten(-1, (self.rows, self.width))

    def type_bits(self, flat: Tensor) -> Tensor:
        """Flat vectors [..., size] -> the one-hot type bits [..., rows, kinds]."""
        return self.rows_of(flat)[..., len(self.fields) : len(self.fields) + len(self.kinds)]

    def decode(self, flat: Tensor, present: Tensor | None = None) -> Units:
        """Flat vectors [..., size] -> this block's units.

        A row of zeros is a unit that is not there, unless ``present`` [..., rows] tells.
        """
        rows = self.rows_of(flat)
        if present is None:
            present = (rows != 0).any(-1)
        fields = {name: rows[..., i] for i, name in enumerate(self.fields)}
        if self.kinds:
            bits = self.type_bits(flat)
            table = torch.tensor(self.kinds, device=flat.device)
            kind = torch.where(bits.any(-1), table[bits.argmax(-1)], UNKNOWN)
        else:
            kind = torch.full(present.shape, self.only_kind, device=flat.device)
        return Units(present, fields, torch.where(present, kind, UNKNOWN))


@dataclass(frozen=True)
class ObservationLayout:
    """Where one agent's observation keeps what: [move | enemies | allies | own | trailing], SMAC's order.

    ``sight`` and ``shoot_range`` are in map cells: a number, or one per universe index where they depend on the
    observer's own type. ``sight`` divides all distances; ``shoot_range`` is how far a target action reaches, None
    (or NaN for a type) where that is not known. ``further_targets`` are target actions beyond one per enemy, which
    healers with more allies than enemies have. ``trailing`` counts the numbers after the own block, such as the
    timestep.
    ``hidden_targets``: an enemy without a row may be in range all the same, so that it can be attacked unseen.
    ``exceptions`` names the probes (``probes.py``) whose rule this environment does not keep.
    """

    env: str
    map_name: str
    n_agents: int
    n_enemies: int
    enemies: Block
    allies: Block
    own: Block
    sight: float | tuple[float, ...]
    shoot_range: float | tuple[float, ...] | None = None
    further_targets: int = 0
    trailing: int = 0
    hidden_targets: bool = False
    exceptions: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        return self.own.end + self.trailing

    @property
    def n_base_actions(self) -> int:
        return N_BASE_ACTIONS

    @property
    def n_targets(self) -> int:
        return self.n_enemies + self.further_targets

    @property
    def n_actions(self) -> int:
        return N_BASE_ACTIONS + self.n_targets

    @property
    def kinds(self) -> frozenset[int]:
        """Universe indices of all units that an observation can name, ``UNKNOWN`` included where a type is not told."""
        blocks = (self.own, self.allies, self.enemies)
        return frozenset(kind for block in blocks for kind in (block.kinds or (block.only_kind,)))

    @property
    def masks_range(self) -> bool:
        """Tell whether the action mask offers only targets in range."""
        return "target flag" not in self.exceptions

    @property
    def has_healers(self) -> bool:
        """Whether an agent of this map can be a unit that heals."""
        return any(kind in HEALERS for kind in (self.own.kinds or (self.own.only_kind,)))

    def action_names(self, heals: bool | int) -> tuple[str, ...]:
        """Words for every action index of an agent that attacks, or of one that ``heals`` (``Observed.heals``)."""
        target = "heal ally" if heals else "attack enemy"
        return (*BASE_ACTIONS, *(f"{target} {i}" for i in range(self.n_targets)))

    def names(self, agent: int) -> dict[int, str]:
        """For people: what each number is that agent ``agent`` sees, by its place."""
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


class StateReader(Protocol):
    """What reads the global state: ``StateLayout``, or ``JointStateLayout`` where it is all observations."""

    @property
    def size(self) -> int: ...

    def decode(self, state: Tensor) -> tuple[Units, Units]:
        """States [..., state_size] -> (allies, enemies)."""
        ...


@dataclass(frozen=True)
class StateLayout:
    """Where the global state keeps what: ally rows, enemy rows, then what is not read (last actions, timestep)."""

    allies: Block
    enemies: Block
    size: int

    def decode(self, state: Tensor) -> tuple[Units, Units]:
        """States [..., state_size] -> (allies, enemies), absolute."""
        return _split_energy(self.allies.decode(state)), self.enemies.decode(state)


@dataclass(frozen=True)
class Layouts:
    """Both layouts of a map and, where its teams never change, how many units of each universe index they have.

    ``swapped_types`` is the key to set where the enemies turn out to have each other's types. ``cells`` is how many
    map cells one unit of the state's x and y is, None where the configuration does not tell.
    """

    observation: ObservationLayout
    state: StateReader
    ally_team: Mapping[int, int] | None = None
    enemy_team: Mapping[int, int] | None = None
    swapped_types: str = ""
    cells: float | None = None


def per_kind(values: float | tuple[float, ...], kind: Tensor) -> Tensor:
    """A number, or one per universe index, looked up for ``kind`` [...]; of unknown units the largest known one."""
    if isinstance(values, tuple):
        return torch.tensor((*values, max(value for value in values if value == value)), device=kind.device)[kind]
    return torch.full(kind.shape, values, device=kind.device)


def contiguous(start: int, *blocks: tuple[int, Sequence[str], Sequence[int], int]) -> list[Block]:
    """Blocks laid end to end from ``start``; each given as (rows, fields, kinds, only_kind)."""
    laid = []
    for rows, fields, kinds, only_kind in blocks:
        laid.append(Block(start, rows, tuple(fields), tuple(kinds), only_kind))
        start = laid[-1].end
    return laid


def check_sizes(layouts: Layouts, scheme: Mapping[str, Mapping], n_actions: int) -> None:
    """Raise ConfigError unless the host's sizes are the layout's.

    Sizes can agree by chance across maps, so this is the first check and not the only one (``probes.py``).
    """
    layout = layouts.observation
    found = {
        "observation": (scheme["obs"]["vshape"], layout.size),
        "state": (scheme["state"]["vshape"], layouts.state.size),
        "number of actions": (n_actions, layout.n_actions),
    }
    for what, (host, ours) in found.items():
        if host != ours:
            raise ConfigError(
                f"The {what} of env={layout.env} map_name={layout.map_name} has size {host} but its layout says "
                f"{ours}: the environment was changed by another env_args key or another version; "
                f"set env_args back to those in config/envs/{layout.env}.yaml."
            )


def _split_energy(allies: Units) -> Units:
    """Healers have no weapon: where others keep their weapon cooldown, SMAC puts their energy."""
    if "cooldown" not in allies.fields:
        return allies
    column = allies.fields["cooldown"]
    heals = torch.isin(allies.kind, torch.tensor(HEALERS, device=column.device))
    split = {"cooldown": column.masked_fill(heals, 0.0), "energy": column.masked_fill(~heals, 0.0)}
    return replace(allies, fields={**allies.fields, **split})
