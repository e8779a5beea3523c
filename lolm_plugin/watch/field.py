"""Compute the position and health of each unit in each step of a battle, without the game.

Positions come from the state. If the state has none (SMAC's ``obs_instead_of_state``), they are computed from the
offsets that the agents see. Positions of other tasks come from the offsets in their description.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lolm_plugin.observations.battle import BattleLayout, Layouts
from lolm_plugin.observations.description import Description, Entities, Ground, Number, Offset
from lolm_plugin.observations.layout import KINDS, BattleState, Units
from lolm_plugin.observations.units import UNKNOWN
from lolm_plugin.watch import shots

ALLY, ENEMY, THING, GROUND = 0, 1, 2, 3
# Positions of one thing that two agents compute may differ by rounding. A larger difference means that the numbers are
# relative to each agent's view, and then nothing is drawn.
SAME_PLACE = 1e-3


@dataclass(frozen=True)
class Field:
    """Units as columns: agents first. ``x``, ``y``, ``health`` and ``shield`` are [units, time], NaN while absent.

    ``seen`` is bool [time, agents, units]. ``columns`` int64 [agents, entities] is the unit of each entity of an
    agent's observation, -1 for none. ``shots`` are (step, enemy, agent), from ``shots.infer``. ``won`` is None if it
    is not known.
    """

    label: list[str]
    kind: list[str]
    side: list[int]
    x: np.ndarray
    y: np.ndarray
    health: np.ndarray | None
    shield: np.ndarray | None
    seen: np.ndarray
    columns: np.ndarray
    shots: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    won: bool | None = None

    @property
    def agents(self) -> np.ndarray:
        """Return True for each agent and step in which it has a position: bool [time, agents]."""
        return ~np.isnan(self.x[: self.seen.shape[1]]).T


def build(layouts: Layouts, state: Tensor, obs: Tensor) -> Field:
    """Decode the states [time, state_size] and observations [time, agents, obs_size] of one battle."""
    if isinstance(layouts.observation, BattleLayout) and isinstance(layouts.state, BattleState):
        return _battle(layouts.observation, layouts.state, layouts.cells, state, obs)
    return _plane(layouts.observation, obs)


def _battle(layout: BattleLayout, decoder: BattleState, cells: float | None, state: Tensor, obs: Tensor) -> Field:
    teams = decoder.decode(state)
    present = np.concatenate([_array(team.present) > 0 for team in teams])
    kinds = [index for team in teams for index in _kinds(team)]
    n_agents, n_enemies = layout.n_agents, layout.n_enemies
    values = {name: np.concatenate([_field(team, name) for team in teams]) for name in ("x", "y", "health", "shield")}
    located = all(name in team.fields for team in teams for name in ("x", "y"))
    if located:
        values["x"], values["y"] = values["x"] * (cells or 1.0), values["y"] * (cells or 1.0)
    else:
        values["x"], values["y"] = _from_offsets(layout, obs, present)
    alive = {name: np.where(present, value, np.nan) for name, value in values.items()}
    entities = np.concatenate([_others(n_agents), np.tile(n_agents + np.arange(n_enemies), (n_agents, 1))], axis=1)
    enemies_left, allies_left = present[n_agents:, -1].any(), present[:n_agents, -1].any()
    return Field(
        label=[f"{side} {i}" for side, count in (("ally", n_agents), ("enemy", n_enemies)) for i in range(count)],
        kind=[KINDS[index] for index in kinds],
        side=[ALLY] * n_agents + [ENEMY] * n_enemies,
        x=alive["x"],
        y=alive["y"],
        health=alive["health"],
        shield=None if np.isnan(alive["shield"]).all() else alive["shield"],
        seen=_seen(layout, obs, entities, n_agents + n_enemies),
        columns=entities,
        shots=shots.infer(layout, _array(teams[1].fields["cooldown"]), alive, kinds)
        if located and "cooldown" in teams[1].fields
        else [],
        won=bool(allies_left and not enemies_left) if located else None,
    )


def _plane(layout: Description, obs: Tensor) -> Field:
    """Compute positions of agents and things of a described task; without own positions there are none."""
    count, time = layout.n_agents, len(obs)
    own = _own_position(layout)
    x, y = (np.full((count, time), np.nan) for _ in "xy")
    if own:
        x, y = (_array(obs[..., at]) for at in own)
    label, kind, side = [f"{layout.agent} {i}" for i in range(count)], [layout.agent] * count, [ALLY] * count
    columns = []
    for block in layout.entities:
        offset = next((field for field in block.fields if isinstance(field, Offset)), None)
        if block.skips_self and block.name == layout.agent:
            columns.append(_others(count)[:, : len(block.starts)])
            continue
        if not own or offset is None or block.name == layout.agent:
            columns.append(np.full((count, len(block.starts)), -1))
            continue
        places = _places(block, offset, obs, x, y)
        if places is None:
            return _plane_without_positions(layout, obs)
        columns.append(np.tile(len(label) + np.arange(len(block.starts)), (count, 1)))
        x, y = np.concatenate([x, places[0]]), np.concatenate([y, places[1]])
        label += [block.label(i, count) for i in range(len(block.starts))]
        kind += [block.name] * len(block.starts)
        side += [THING] * len(block.starts)
    entities = np.concatenate([np.zeros((count, 0), np.int64), *columns], axis=1)
    seen = _seen(layout, obs, entities, len(label))
    for ground in layout.ground if own else ():
        cells, known, seen_now = _ground(ground, obs, x, y)
        label += [f"{ground.name} {i}" for i in range(len(cells))]
        kind += [ground.name] * len(cells)
        side += [GROUND] * len(cells)
        x = np.concatenate([x, np.where(known, cells[:, :1], np.nan)])
        y = np.concatenate([y, np.where(known, cells[:, 1:], np.nan)])
        seen = np.concatenate([seen, seen_now], axis=2)
    if _y_grows_down(layout):
        y = -y
    return Field(label, kind, side, x, y, None, None, seen, entities)


def _ground(ground: Ground, obs: Tensor, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the cells in which agents saw a thing of the ground: places [cells, 2], known and seen.

    ``known`` bool [cells, time] is what was last seen there. ``seen`` bool [time, agents, cells] is True while an agent
    sees it.
    """
    time, count = obs.shape[:2]
    sightings: dict[tuple[float, float], dict[int, dict[int, bool]]] = {}
    for dx, dy, flags in ground.cells:
        there: np.ndarray = (_array_of(obs[..., list(flags)]) != 0).all(-1)
        for t, agent in np.ndindex(time, count):
            if not math.isnan(x[agent, t]):
                place = (float(x[agent, t]) + dx, float(y[agent, t]) + dy)
                sightings.setdefault(place, {}).setdefault(t, {})[agent] = bool(there[t, agent])
    places = sorted(place for place, times in sightings.items() if any(any(now.values()) for now in times.values()))
    known = np.zeros((len(places), time), bool)
    seen = np.zeros((time, count, len(places)), bool)
    for i, place in enumerate(places):
        for t in range(time):
            now = sightings[place].get(t)
            known[i, t] = any(now.values()) if now else t > 0 and known[i, t - 1]
            for agent, thing in (now or {}).items():
                seen[t, agent, i] = thing
    return np.array(places).reshape(-1, 2), known, seen


def _plane_without_positions(layout: Description, obs: Tensor) -> Field:
    count, nowhere = layout.n_agents, np.full((layout.n_agents, len(obs)), np.nan)
    entities = np.full((count, sum(len(block.starts) for block in layout.entities)), -1)
    label, seen = [f"{layout.agent} {i}" for i in range(count)], _seen(layout, obs, entities, count)
    return Field(label, [layout.agent] * count, [ALLY] * count, nowhere, nowhere, None, None, seen, entities)


def _own_position(layout: Description) -> tuple[int, int] | None:
    """Return the indices of an agent's own x and y in its observation, if they are the same for all agents."""
    if not layout.shared_positions:
        return None
    for block in layout.entities:
        for field in block.fields:
            if isinstance(field, Offset) and field.origin:
                return field.origin
    named = {field.name: field.at for field in layout.fields if isinstance(field, Number)}
    return (named["x"], named["y"]) if {"x", "y"} <= named.keys() else None


def _y_grows_down(layout: Description) -> bool:
    """Return True if y is a row of a grid. In a record y grows upward."""
    offsets = [field for block in layout.entities for field in block.fields if isinstance(field, Offset)]
    return any(offset.words[2] in ("south", "down") for offset in offsets)


def _places(
    block: Entities, offset: Offset, obs: Tensor, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return positions [entities, time] of a block; None if agents that see the same entity disagree."""
    count = obs.shape[1]
    here = np.moveaxis(_array_of(block.present(obs)) > 0, 0, -1)  # [agents, entities, time]
    axes = []
    for own, away in zip((x, y), offset.read(block, obs), strict=True):
        shape = (*obs.shape[:2], len(block.starts))
        offsets = np.moveaxis(np.broadcast_to(away.numpy().astype(np.float64), shape), 0, -1)
        place = np.where(here, own[:count, None] + offsets, np.nan)
        with np.errstate(all="ignore"):
            low, high = (np.where(here, place, edge) for edge in (np.inf, -np.inf))
            if ((high.max(0) - low.min(0))[here.any(0)] > SAME_PLACE).any():
                return None
            axes.append(np.where(here.any(0), low.min(0), np.nan))
    return axes[0], axes[1]


def _seen(layout: Description, obs: Tensor, columns: np.ndarray, units: int) -> np.ndarray:
    """Return which units each agent sees, bool [time, agents, units]. Every agent sees itself."""
    shown = [block.present(obs) for block in layout.entities]
    present = _array_of(torch.cat(shown, -1)) > 0 if shown else np.zeros((*obs.shape[:2], 0), bool)
    seen = np.zeros((*obs.shape[:2], units), bool)
    for agent, entities in enumerate(columns):
        seen[:, agent, agent] = True
        known = np.flatnonzero(entities >= 0)
        seen[:, agent, entities[known]] |= present[:, agent, known]
    return seen


def _from_offsets(layout: BattleLayout, obs: Tensor, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put the offsets that agents see together, in cells: positions [units, time], NaN for a unit no one relates to.

    The first living agent begins at 0. Later steps are shifted so that most units stay where they were.
    """
    seen = layout.decode(obs)
    sight = _array_of(seen.sight)
    places = np.full((2, *present.shape), np.nan)
    for t in range(len(obs)):
        living = np.flatnonzero(present[: layout.n_agents, t])
        if not len(living):
            continue
        places[:, living[0], t] = 0.0
        waiting = [int(living[0])]
        while waiting:
            agent = waiting.pop(0)
            others = [int(i) for i in range(layout.n_agents) if i != agent]
            for team, units in ((seen.allies, others), (seen.enemies, range(layout.n_agents, len(present)))):
                for i, unit in enumerate(units):
                    if team.present[t, agent, i] and np.isnan(places[0, unit, t]):
                        away = [float(team.fields[name][t, agent, i]) * sight[t, agent] for name in ("dx", "dy")]
                        places[:, unit, t] = places[:, agent, t] + away
                        if unit < layout.n_agents:
                            waiting.append(unit)
        if t:
            moved = places[:, :, t] - places[:, :, t - 1]
            if (both := ~np.isnan(moved[0])).any():
                places[:, :, t] -= np.median(moved[:, both], axis=1)[:, None]
    return places[0], places[1]


def _others(count: int) -> np.ndarray:
    """Return the other agents of each agent in the order of their ids: int64 [agents, agents - 1]."""
    return np.array([[i for i in range(count) if i != agent] for agent in range(count)], np.int64).reshape(count, -1)


def _kinds(team: Units) -> list[int]:
    """Return each unit's type. A dead unit shows none, so the first known type counts."""
    kinds = team.kind.numpy()
    known = kinds != UNKNOWN
    return [int(column[here.argmax()]) for column, here in zip(kinds.T, known.T, strict=True)]


def _field(team: Units, name: str) -> np.ndarray:
    values = team.fields.get(name)
    return np.full(tuple(reversed(team.kind.shape)), np.nan) if values is None else _array(values)


def _array(values: Tensor) -> np.ndarray:
    """Return [time, units] as float64 [units, time]."""
    return _array_of(values).T


def _array_of(values: Tensor) -> np.ndarray:
    return values.numpy().astype(np.float64)


def rounded(values: np.ndarray, decimals: int) -> list[list[float | None]]:
    """Round [columns, time] and replace NaN by None."""
    return [[None if value != value else round(value, decimals) + 0.0 for value in row] for row in values.tolist()]
