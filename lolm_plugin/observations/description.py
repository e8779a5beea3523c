"""What an observation says, declared: named fields with units and ranges, blocks of entities, actions.

From this alone come prompts (``prompts/automatic.py``), what a critic reads (``described_state.py``) and the check of
the first episodes (``description_checks.py``). Fields name what stands where; ``at`` counts from the beginning of
their entity's numbers, of the agent's own fields from the beginning of the observation.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Number:
    """``name`` and the number, times ``scale``, to so many ``decimals``; it lies between ``low`` and ``high``.

    ``unit`` is what the instruction says about it, such as "a share of the maximum".
    """

    name: str
    at: int
    low: float = 0.0
    high: float = 1.0
    decimals: int = 2
    unit: str = ""
    scale: float = 1.0


@dataclass(frozen=True)
class Flag:
    """``yes`` where the number is not 0, ``no`` (or nothing) where it is."""

    at: int
    yes: str
    no: str = ""


@dataclass(frozen=True)
class Choice:
    """One of ``options``, after ``name`` if it has one: of the numbers from ``at`` on, its own is 1 and the others 0.

    ``when``: it means something only where this number is not 0.
    """

    at: int
    options: tuple[str, ...]
    name: str = ""
    when: int | None = None


@dataclass(frozen=True)
class Place:
    """Where something is, said as an offset from the agent in ``words`` for +x, -x, +y and -y.

    ``x`` and ``y`` are the places of its numbers, which lie between ``low`` and ``high``. They are offsets already, or
    positions like the agent's own, which ``origin`` (two places in the observation) then are. ``points`` instead are
    positions that no number tells, one an entity. ``beside`` is said of what is one step away, not diagonally.
    """

    words: tuple[str, str, str, str]
    x: int = 0
    y: int = 0
    low: float = -1.0
    high: float = 1.0
    decimals: int = 2
    unit: str = ""
    scale: float = 1.0
    origin: tuple[int, int] | None = None
    points: tuple[tuple[float, float], ...] = ()
    beside: str = ""


@dataclass(frozen=True)
class Word:
    """Always the same, and told by no number."""

    text: str


Field = Number | Flag | Choice | Place | Word


@dataclass(frozen=True)
class Entities:
    """Things of one kind; the numbers of each begin at one of ``starts`` and are laid out alike.

    One is there if any of its numbers ``shown_by`` is not 0; with none, always. They are numbered from 0, or called by
    ``labels``. ``skips_self``: they are the other agents, numbered by their ids.
    """

    name: str
    starts: tuple[int, ...]
    fields: tuple[Field, ...]
    shown_by: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    skips_self: bool = False

    def read(self, obs: Tensor, at: int) -> Tensor:
        """That number of each: observations [..., size] -> [..., entities]."""
        return obs[..., torch.tensor(self.starts, dtype=torch.int64, device=obs.device) + at]

    def present(self, obs: Tensor) -> Tensor:
        """Which are there: bool [..., entities]."""
        if not self.shown_by:
            return torch.ones(*obs.shape[:-1], len(self.starts), dtype=torch.bool, device=obs.device)
        return torch.stack([self.read(obs, at) != 0 for at in self.shown_by]).any(0)

    def offset(self, obs: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """A place as offset (x, y) from the agent, each [..., entities], not yet scaled."""
        if place.points:
            x, y = (torch.tensor(axis, dtype=obs.dtype, device=obs.device) for axis in zip(*place.points, strict=True))
        else:
            x, y = self.read(obs, place.x), self.read(obs, place.y)
        if place.origin is None:
            return x, y
        return x - obs[..., place.origin[0], None], y - obs[..., place.origin[1], None]


@dataclass(frozen=True)
class Targets:
    """Actions after the base actions: ``verb`` and one of the ``entities`` of that name.

    They mean this where any of the agent's own numbers ``when`` is not 0; with none, always. The first that fits
    counts.
    """

    verb: str
    entities: str
    when: tuple[int, ...] = ()


@dataclass(frozen=True)
class Description:
    """An observation of ``size`` numbers.

    ``task`` is what is played and ``agent`` what an agent is, both without article; ``goal`` is what the team wants and
    how it gets there, as whole sentences. ``actions`` are those that every agent has; ``n_targets`` more of which
    ``targets`` tells what they are about. ``note`` is for people: where the description comes from, if not by hand.
    """

    env: str
    map_name: str
    size: int
    n_agents: int
    task: str
    agent: str
    goal: str
    own: tuple[Field, ...]
    entities: tuple[Entities, ...]
    actions: tuple[str, ...]
    targets: tuple[Targets, ...] = ()
    n_targets: int = 0
    note: str = ""

    @property
    def n_base_actions(self) -> int:
        return len(self.actions)

    @property
    def n_actions(self) -> int:
        return len(self.actions) + self.n_targets

    @cached_property
    def me(self) -> Entities:
        """The agent's own fields as an entity that is always there."""
        return Entities("you", (0,), self.own)

    def action_names(self, meaning: int = 0) -> tuple[str, ...]:
        """Words for every action index, the targets as the ``meaning``-th of ``targets`` has them."""
        if not self.n_targets:
            return self.actions
        chosen = self.targets[meaning]
        return (*self.actions, *(f"{chosen.verb} {chosen.entities} {i}" for i in range(self.n_targets)))

    def names(self, agent: int) -> dict[int, str]:
        """For people: what each number is that agent ``agent`` sees, by its place; what nothing reads has no name."""
        names: dict[int, str] = {}
        for block in (*self.entities, self.me):
            for i, start in enumerate(block.starts):
                number = i + (block.skips_self and i >= agent)
                label = "own" if block is self.me else block.labels[i] if block.labels else f"{block.name} {number}"
                parts = [part for field in block.fields for part in _parts(field)]
                for at, name in (*parts, *((at, "is there") for at in block.shown_by)):
                    names.setdefault(start + at, f"{label}: {name}")
        for field in (field for block in self.entities for field in block.fields if isinstance(field, Place)):
            names |= dict(zip(field.origin or (), ("own: x", "own: y"), strict=False))
        return names

    def meaning(self, obs: Tensor) -> Tensor:
        """Which of ``targets`` the target actions of each observation [..., size] mean: int64 [...]."""
        meaning = torch.zeros(obs.shape[:-1], dtype=torch.int64, device=obs.device)
        for number, targets in reversed(list(enumerate(self.targets))):
            fits = (obs[..., list(targets.when)] != 0).any(-1) if targets.when else torch.ones_like(meaning) > 0
            meaning = torch.where(fits, number, meaning)
        return meaning


def _parts(field: Field) -> list[tuple[int, str]]:
    if isinstance(field, Number):
        return [(field.at, field.name)]
    if isinstance(field, Flag):
        return [(field.at, field.yes)]
    if isinstance(field, Choice):
        return [(field.at + i, f"{field.name} {option}".strip()) for i, option in enumerate(field.options)]
    if isinstance(field, Word):
        return []
    return [] if field.points else [(field.x, "x"), (field.y, "y")]
