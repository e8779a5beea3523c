"""What one agent sees, as plain values ready to be put into words."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lolm_plugin.observations.layout import N_BASE_ACTIONS, Block, ObservationLayout, Observed, Units
from lolm_plugin.observations.units import HEALERS, NAMES, UNKNOWN


@dataclass(frozen=True)
class SeenUnit:
    """Another unit. Distances are in map cells from the observer, health and shield fractions of the maximum.

    ``health``, ``shield`` and ``cooldown`` are None where the environment does not show them. A unit that is not
    ``seen`` is dead or out of sight, unless it is ``in_range``: SMACv2 hides units that can be attacked. In other
    environments ``in_range`` is not told.
    """

    side: str  # "ally" or "enemy"
    number: int
    kind: str
    seen: bool
    distance: float
    east: float
    north: float
    health: float | None
    shield: float | None
    cooldown: float | None
    in_range: bool = False


@dataclass(frozen=True)
class Self:
    """The observing agent; ``x`` and ``y`` are fractions of the map where the environment tells them."""

    number: int
    kind: str
    health: float | None
    shield: float | None
    cooldown: float | None
    x: float | None
    y: float | None


@dataclass(frozen=True)
class Scene:
    """All that one agent sees and may do; ``actions`` are the words for its available actions."""

    me: Self
    allies: tuple[SeenUnit, ...]
    enemies: tuple[SeenUnit, ...]
    actions: tuple[str, ...]


def kind_name(kind: int) -> str:
    """Words for a universe index."""
    return "unknown unit" if kind == UNKNOWN else NAMES[kind]


def scenes(
    layout: ObservationLayout, obs: Tensor, available: Tensor, agent: Tensor, dynamic: bool = True
) -> list[Scene]:
    """One scene per row of obs [rows, obs_size], available [rows, n_actions], agent [rows].

    ``dynamic`` leaves out every unit that is dead or out of sight (paper, section 4.2); without it
    they stay, with zeros, so that all prompts of a map have the same sentences.
    """
    observed = layout.decode(obs)
    sight = observed.sight.tolist()
    allies, enemies = _columns(observed.allies), _columns(observed.enemies)
    own, heals = _columns(observed.own), observed.heals.tolist()
    names = {healer: layout.action_names(healer) for healer in (False, True)}
    in_range = _in_range(layout, observed, available).tolist()
    nobody = [False] * layout.n_agents
    rows = []
    for row, (number, mask) in enumerate(zip(agent.tolist(), available.tolist(), strict=True)):
        # Ally rows skip the observer, so the ids after its own are one higher.
        ally_numbers = [i for i in range(layout.n_agents) if i != number]
        rows.append(
            Scene(
                me=_self(own, row, number),
                allies=_seen("ally", allies, row, ally_numbers, sight[row], dynamic, nobody),
                enemies=_seen("enemy", enemies, row, range(layout.n_enemies), sight[row], dynamic, in_range[row]),
                actions=tuple(name for name, can in zip(names[heals[row]], mask, strict=True) if can),
            )
        )
    return rows


def fullest_scenes(layout: ObservationLayout, dynamic: bool) -> list[Scene]:
    """Scenes of which one is as long as this map allows, whatever the style and the tokenizer.

    In each, every unit is of one kind, or is absent but named (not ``dynamic``); every number is long and
    every action available.
    """
    return [
        _fullest(layout, kind, seen)
        for kind in sorted(layout.kinds)
        for seen in ((True,) if dynamic else (True, False))
    ]


def _fullest(layout: ObservationLayout, kind: int, seen: bool) -> Scene:
    def shown(block: Block, *names: str) -> dict[str, float | None]:
        return {name: 0.88 if name in block.fields else None for name in names}

    def unit(side: str, number: int, block: Block) -> SeenUnit:
        conditions = shown(block, "health", "shield", "cooldown")
        return SeenUnit(side, number, kind_name(kind), seen, 18.88, -18.88, -18.88, **conditions)

    conditions = shown(layout.own, "health", "shield", "cooldown", "x", "y")
    return Scene(
        me=Self(layout.n_agents - 1, kind_name(kind), **conditions),
        allies=tuple(unit("ally", i, layout.allies) for i in range(layout.n_agents - 1)),
        enemies=tuple(unit("enemy", j, layout.enemies) for j in range(layout.n_enemies)),
        actions=layout.action_names(heals=kind in HEALERS)[1:],
    )


def _in_range(layout: ObservationLayout, observed: Observed, available: Tensor) -> Tensor:
    """Enemies bool [rows, n_enemies] that can be attacked, where these may be hidden."""
    if not layout.hidden_targets:
        return torch.zeros_like(observed.enemies.present)
    offered = available[:, N_BASE_ACTIONS : N_BASE_ACTIONS + layout.n_enemies] > 0
    return offered & ~observed.heals.unsqueeze(-1)


def _columns(units: Units) -> dict[str, list[list]]:
    """Units [rows, units] as nested lists: Python reads lists far faster than tensor elements."""
    columns = {name: value.tolist() for name, value in units.fields.items()}
    return {**columns, "present": units.present.tolist(), "kind": units.kind.tolist()}


def _self(own: dict[str, list[list]], row: int, number: int) -> Self:
    def field(name: str) -> float | None:
        return own[name][row][0] if name in own else None

    kind = kind_name(own["kind"][row][0])
    return Self(number, kind, *(field(name) for name in ("health", "shield", "cooldown", "x", "y")))


def _seen(
    side: str,
    units: dict[str, list[list]],
    row: int,
    numbers: list[int] | range,
    sight: float,
    dynamic: bool,
    in_range: list[bool],
) -> tuple[SeenUnit, ...]:
    seen = []
    for i, number in enumerate(numbers):
        present = units["present"][row][i]
        if dynamic and not present and not in_range[i]:
            continue
        shown = {f: units[f][row][i] if f in units else None for f in ("health", "shield", "cooldown")}
        kind = units["kind"][row][i]
        if present and kind == UNKNOWN and not shown["health"]:
            # Nobody who is there has no health: SMACv2 hides what it does not want an agent to know.
            shown |= {"health": None, "shield": None}
        seen.append(
            SeenUnit(
                side=side,
                number=number,
                kind=kind_name(kind),
                seen=present,
                distance=units["dist"][row][i] * sight,
                east=units["dx"][row][i] * sight,
                north=units["dy"][row][i] * sight,
                **shown,
                in_range=in_range[i],
            )
        )
    return tuple(seen)
