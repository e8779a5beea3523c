"""From the flat vectors a host hands over to named entities, for whole tensors at once.

A layout says where each field of each unit lies. It is built from the configuration alone, because
controllers and learners never see the environment, and checked against the sizes in the scheme.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.units import UNKNOWN

N_BASE_ACTIONS = 6  # no-op, stop, north, south, east, west; then one action per enemy


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


@dataclass(frozen=True)
class Block:
    """``rows`` units of ``len(fields) + len(kinds)`` numbers each, contiguous from ``start``.

    ``kinds`` are the universe indices behind the one-hot type bits that end each row; with no type bits,
    ``only_kind`` is the type of every unit of the block.
    """

    start: int
    rows: int
    fields: tuple[str, ...]
    kinds: tuple[int, ...] = ()
    only_kind: int = UNKNOWN

    @property
    def width(self) -> int:
        return len(self.fields) + len(self.kinds)

    @property
    def end(self) -> int:
        return self.start + self.rows * self.width

    def decode(self, flat: Tensor) -> Units:
        """Flat vectors [..., size] -> this block's units; a row of zeros is a unit that is not there."""
        rows = flat[..., self.start : self.end].unflatten(-1, (self.rows, self.width))
        present = (rows != 0).any(-1)
        fields = {name: rows[..., i] for i, name in enumerate(self.fields)}
        if self.kinds:
            bits = rows[..., len(self.fields) :]
            table = torch.tensor(self.kinds, device=flat.device)
            kind = torch.where(bits.any(-1), table[bits.argmax(-1)], UNKNOWN)
        else:
            kind = torch.full(present.shape, self.only_kind, device=flat.device)
        return Units(present, fields, torch.where(present, kind, UNKNOWN))


@dataclass(frozen=True)
class ObservationLayout:
    """Where one agent's observation keeps what: [move 4 | enemies | allies | own], SMAC's order.

    ``sight`` is a number, or one per universe index where the divisor of distances depends on the
    observer's own type.
    """

    env: str
    map_name: str
    n_agents: int
    n_enemies: int
    enemies: Block
    allies: Block
    own: Block
    sight: float | tuple[float, ...]

    @property
    def size(self) -> int:
        return self.own.end

    @property
    def n_actions(self) -> int:
        return N_BASE_ACTIONS + self.n_enemies

    def decode(self, obs: Tensor) -> Observed:
        """Observations [..., obs_size] -> named entities."""
        own = self.own.decode(obs)
        if isinstance(self.sight, tuple):
            table = torch.tensor((*self.sight, 1.0), device=obs.device)
            sight = table[own.kind[..., 0]]
        else:
            sight = torch.full(obs.shape[:-1], self.sight, device=obs.device)
        return Observed(own, self.allies.decode(obs), self.enemies.decode(obs), sight)


@dataclass(frozen=True)
class StateLayout:
    """Where the global state keeps what: ally rows, enemy rows."""

    allies: Block
    enemies: Block
    size: int

    def decode(self, state: Tensor) -> tuple[Units, Units]:
        """States [..., state_size] -> (allies, enemies), absolute."""
        return self.allies.decode(state), self.enemies.decode(state)


@dataclass(frozen=True)
class Layouts:
    observation: ObservationLayout
    state: StateLayout


def contiguous(start: int, *blocks: tuple[int, Sequence[str], Sequence[int], int]) -> list[Block]:
    """Blocks laid end to end from ``start``; each given as (rows, fields, kinds, only_kind)."""
    laid = []
    for rows, fields, kinds, only_kind in blocks:
        laid.append(Block(start, rows, tuple(fields), tuple(kinds), only_kind))
        start = laid[-1].end
    return laid


def check_sizes(layouts: Layouts, scheme: Mapping[str, Mapping], n_actions: int) -> None:
    """Raise ConfigError unless the host's sizes are the layout's.

    Sizes can agree by chance across maps, so this is the first check and not the only one.
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
