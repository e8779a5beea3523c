"""The one language for what an observation says: named fields with units and ranges, blocks of entities, actions.

Prompts (``prompts/automatic.py``), the check of the first episodes (``checks.py``), made-up observations and what a
critic reads come from a description. ``at`` counts from the first number of the field's entity, of the agent's own
fields from the beginning of the observation. Battles are descriptions that can also be decoded (``battle.py``).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

FARTHEST = 9999.0  # made-up values of numbers without bounds lie between minus this and this
TOLERANCE = 1e-3  # float32 values up to 1, with the rounding of the game's own numbers


class Field:
    """What the numbers of an entity say. The methods read observations [..., size] for all entities of a block."""

    def numbers(self) -> list[tuple[int, str]]:
        """Index and name of each number that the field reads."""
        return []

    @property
    def n_features(self) -> int:
        """How many features a critic reads."""
        return len(self.numbers())

    def features(self, block: "Entities", obs: Tensor) -> list[Tensor]:
        """Features [..., entities] for a critic, about between -1 and 1."""
        return []

    def holds(self, block: "Entities", obs: Tensor) -> Tensor:
        """Whether the numbers are as declared: bool [..., entities]."""
        return torch.ones(*obs.shape[:-1], len(block.starts), dtype=torch.bool, device=obs.device)

    def declared(self) -> str:
        """What ``holds`` checks, in words."""
        return ""

    def make_up(self, obs: np.ndarray, start: int, rng: np.random.Generator, full: bool) -> None:
        """Write made-up values for the entity at ``start`` into all rows; ``full``: the values with the most words."""


@dataclass(frozen=True)
class Number(Field):
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

    def numbers(self) -> list[tuple[int, str]]:
        return [(self.at, self.name)]

    def features(self, block: "Entities", obs: Tensor) -> list[Tensor]:
        return [block.read(obs, self.at) * _to_one(self.low, self.high)]

    def holds(self, block: "Entities", obs: Tensor) -> Tensor:
        return _within(block.read(obs, self.at), self.low, self.high)

    def declared(self) -> str:
        return f"{self.name} lies between {self.low:g} and {self.high:g}"

    def make_up(self, obs: np.ndarray, start: int, rng: np.random.Generator, full: bool) -> None:
        obs[:, start + self.at] = _made_up(self, len(obs), rng, full)


@dataclass(frozen=True)
class Flag(Field):
    """``yes`` where the number is not 0, ``no`` (or nothing) where it is."""

    at: int
    yes: str
    no: str = ""

    def numbers(self) -> list[tuple[int, str]]:
        return [(self.at, self.yes)]

    def features(self, block: "Entities", obs: Tensor) -> list[Tensor]:
        return [(block.read(obs, self.at) != 0).to(obs.dtype)]

    def holds(self, block: "Entities", obs: Tensor) -> Tensor:
        return _is_bit(block.read(obs, self.at))

    def declared(self) -> str:
        return f"{self.yes!r} is 0 or 1"

    def make_up(self, obs: np.ndarray, start: int, rng: np.random.Generator, full: bool) -> None:
        obs[:, start + self.at] = 1 if full else rng.random(len(obs)) < 0.5


@dataclass(frozen=True)
class Choice(Field):
    """One of ``options``, after ``name`` if it has one. Of the numbers from ``at`` on, its own is 1 and the others 0.

    ``when``: it means something only where this number is not 0.
    """

    at: int
    options: tuple[str, ...]
    name: str = ""
    when: int | None = None

    def numbers(self) -> list[tuple[int, str]]:
        return [(self.at + i, f"{self.name} {option}".strip()) for i, option in enumerate(self.options)]

    def features(self, block: "Entities", obs: Tensor) -> list[Tensor]:
        return [block.read(obs, at) for at, _ in self.numbers()]

    def holds(self, block: "Entities", obs: Tensor) -> Tensor:
        bits = torch.stack(self.features(block, obs), -1)
        right = _is_bit(bits).all(-1) & (bits.sum(-1) == 1)
        return right if self.when is None else right | (block.read(obs, self.when) == 0)

    def declared(self) -> str:
        return f"exactly one of {', '.join(self.options)} is 1"

    def make_up(self, obs: np.ndarray, start: int, rng: np.random.Generator, full: bool) -> None:
        count, rows = len(self.options), len(obs)
        option = (np.arange(rows) if full else rng.integers(count, size=rows)) % count
        obs[:, start + self.at : start + self.at + count] = np.eye(count)[option]


@dataclass(frozen=True)
class Offset(Field):
    """Where something is, as an offset from the agent in ``words`` for +x, -x, +y and -y.

    ``x`` and ``y`` are the indices of its numbers, which lie between ``low`` and ``high``. They are offsets already, or
    positions like the agent's own, whose indices in the observation ``origin`` then has. ``points`` instead are fixed
    positions, one an entity, that no number shows. ``beside`` is said of what is one step away, not diagonally.
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

    @property
    def n_features(self) -> int:
        return 2

    def read(self, block: "Entities", obs: Tensor) -> tuple[Tensor, Tensor]:
        """The offset (x, y) from the agent, each [..., entities], not yet scaled."""
        if self.points:
            x, y = (torch.tensor(axis, dtype=obs.dtype, device=obs.device) for axis in zip(*self.points, strict=True))
        else:
            x, y = block.read(obs, self.x), block.read(obs, self.y)
        if self.origin is None:
            return x, y
        return x - obs[..., self.origin[0], None], y - obs[..., self.origin[1], None]

    def numbers(self) -> list[tuple[int, str]]:
        return [] if self.points else [(self.x, "x"), (self.y, "y")]

    def features(self, block: "Entities", obs: Tensor) -> list[Tensor]:
        scale = _to_one(self.low, self.high)
        return [(axis * scale).expand(*obs.shape[:-1], -1) for axis in self.read(block, obs)]

    def holds(self, block: "Entities", obs: Tensor) -> Tensor:
        if self.points:
            return super().holds(block, obs)
        x, y = (_within(block.read(obs, at), self.low, self.high) for at in (self.x, self.y))
        return x & y

    def declared(self) -> str:
        return f"its position lies between {self.low:g} and {self.high:g}"

    def make_up(self, obs: np.ndarray, start: int, rng: np.random.Generator, full: bool) -> None:
        for at, _ in self.numbers():
            obs[:, start + at] = _made_up(self, len(obs), rng, full)


@dataclass(frozen=True)
class Word(Field):
    """Always the same words, whatever the numbers."""

    text: str


@dataclass(frozen=True)
class Entities:
    """Things of one kind; the numbers of each begin at one of ``starts`` and have the same order.

    One is present if any of its numbers ``shown_by`` is not 0; with none, always. They are numbered from 0, or called
    by ``labels``. ``skips_self``: they are the other agents, numbered by their ids.
    """

    name: str
    starts: tuple[int, ...]
    fields: tuple[Field, ...]
    shown_by: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    skips_self: bool = False

    def read(self, obs: Tensor, at: int) -> Tensor:
        """The number at this index of each: observations [..., size] -> [..., entities]."""
        return obs[..., torch.tensor(self.starts, dtype=torch.int64, device=obs.device) + at]

    def present(self, obs: Tensor) -> Tensor:
        """Which of them are present: bool [..., entities]."""
        if not self.shown_by:
            return torch.ones(*obs.shape[:-1], len(self.starts), dtype=torch.bool, device=obs.device)
        return torch.stack([self.read(obs, at) != 0 for at in self.shown_by]).any(0)

    def label(self, index: int, agent: int) -> str:
        """What agent ``agent`` calls one of them."""
        return self.labels[index] if self.labels else f"{self.name} {index + (self.skips_self and index >= agent)}"


@dataclass(frozen=True)
class Targets:
    """Actions after the base actions: ``verb`` and one of the ``entities`` of that name.

    They mean this where any of the agent's own numbers ``when`` is not 0; with none, always. The first match counts.
    """

    verb: str
    entities: str
    when: tuple[int, ...] = ()


class Rule(NamedTuple):
    """A rule, and where observations keep to it: ``holds`` is bool [rows] or [rows, entities].

    ``cause`` is what most likely is wrong where it does not hold. ``found`` tells by row and entity what is there.
    """

    name: str
    text: str
    cause: str
    holds: Tensor
    found: Callable[[int, int], str] | None = None


@dataclass(frozen=True)
class Description:
    """An observation of ``size`` numbers; ``fields`` are the agent's own.

    ``task`` is what is played and ``agent`` what an agent is, both without article; ``goal`` is what the team wants and
    how it gets there, as whole sentences. ``actions`` are those that every agent has. ``n_targets`` more follow, and
    ``targets`` tells what they are about. ``note`` is for people: where the description comes from, if not by hand.
    """

    env: str
    map_name: str
    size: int
    n_agents: int
    task: str
    agent: str
    goal: str
    fields: tuple[Field, ...]
    entities: tuple[Entities, ...]
    actions: tuple[str, ...]
    targets: tuple[Targets, ...] = ()
    n_targets: int = 0
    note: str = ""

    # What to change where an observation is not as described.
    advice = "Set env_args to what is described, layout.description to a description of your own"

    @property
    def n_base_actions(self) -> int:
        """How many actions are about no target."""
        return len(self.actions)

    @property
    def n_actions(self) -> int:
        """All actions."""
        return len(self.actions) + self.n_targets

    @cached_property
    def me(self) -> Entities:
        """The agent's own fields as an entity that is always present."""
        return Entities("own", (0,), self.fields, labels=("own",))

    @property
    def blocks(self) -> tuple[Entities, ...]:
        """The agent, then the others."""
        return (self.me, *self.entities)

    def action_names(self, meaning: int = 0) -> tuple[str, ...]:
        """Words for every action index, target actions by the ``meaning``-th of ``targets``."""
        if not self.n_targets:
            return self.actions
        targets = self.targets[meaning]
        return (*self.actions, *(f"{targets.verb} {targets.entities} {i}" for i in range(self.n_targets)))

    def meaning(self, obs: Tensor) -> Tensor:
        """Which of ``targets`` the target actions of each observation [..., size] mean: int64 [...]."""
        meaning = torch.zeros(obs.shape[:-1], dtype=torch.int64, device=obs.device)
        for number, targets in reversed(list(enumerate(self.targets))):
            fits = (obs[..., list(targets.when)] != 0).any(-1) if targets.when else torch.ones_like(meaning) > 0
            meaning = torch.where(fits, number, meaning)
        return meaning

    def target_entities(self, agent: np.ndarray, meaning: np.ndarray) -> np.ndarray:
        """Which of all entities, counted through, each target action is about: int64 [rows, n_targets], -1 for none.

        ``agent`` [rows] are the acting agents and ``meaning`` [rows] what their target actions mean.
        """
        actions, first = np.arange(self.n_targets), 0
        found = np.full((len(agent), self.n_targets), -1)
        for block in self.entities:
            about = np.broadcast_to(actions, found.shape)
            if block.skips_self:
                me = agent[:, None]
                about = np.where(actions == me, -1, actions - (actions > me))
            about = np.where((about >= 0) & (about < len(block.starts)), first + about, -1)
            for number, targets in enumerate(self.targets):
                if targets.entities == block.name:
                    found = np.where(meaning[:, None] == number, about, found)
            first += len(block.starts)
        return found

    def agent_names(self, obs: Tensor) -> list[str]:
        """What each of the agents with observations [rows, size] is."""
        return [self.agent] * len(obs)

    def names(self, agent: int) -> dict[int, str]:
        """For people: what each number is that agent ``agent`` sees, by index; unread numbers have no name."""
        names: dict[int, str] = {}
        for block in (*self.entities, self.me):
            numbers = [number for field in block.fields for number in field.numbers()]
            numbers += [(at, "is there") for at in block.shown_by]
            for i, start in enumerate(block.starts):
                for at, name in numbers:
                    names.setdefault(start + at, f"{block.label(i, agent)}: {name}")
        for field in (field for block in self.entities for field in block.fields if isinstance(field, Offset)):
            names |= dict(zip(field.origin or (), ("own: x", "own: y"), strict=False))
        return names

    def living(self, obs: Tensor) -> Tensor:
        """Which observations [..., size] can only be a living agent's: none, unless the description knows."""
        return torch.zeros(obs.shape[:-1], dtype=torch.bool, device=obs.device)

    def rules(self, obs: Tensor, available: Tensor) -> Iterator[Rule]:
        """Apply to observations [rows, size] of living agents what they keep to: every number is as declared."""
        for block in self.blocks:
            present = block.present(obs)
            for field in block.fields:
                yield _field_rule(block, field, obs, present)

    def sample(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Made-up obs [rows, obs_size], available [rows, n_actions] and agent [rows]: every kind and number occurs."""
        return sample_fields(self, rows)


def sample_fields(description: Description, rows: int, full: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Make up obs [rows, obs_size], available [rows, n_actions] and agent [rows] from the declared fields.

    Numbers lie in their ranges, entities are present or not. ``full``: everything is present, flags are set, numbers
    are long, every row shows the next option, every action is available.
    """
    rng = np.random.default_rng(0)
    obs = np.zeros((rows, description.size), np.float32)
    for block in description.blocks:
        for start in block.starts:
            present = full or not block.shown_by or rng.random(rows) < 0.7
            before = obs.copy()
            for field in block.fields:
                field.make_up(obs, start, rng, full)
            obs = np.where(np.reshape(present, (-1, 1)), obs, before)
    available = (rng.random((rows, description.n_actions)) < 0.5) | full
    available[:, 0] |= ~available.any(1)  # an agent without any action has no prompt
    return torch.from_numpy(obs), torch.from_numpy(available), torch.arange(rows) % description.n_agents


class State(ABC):
    """What a critic reads of a global state."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Numbers of a state."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Features of an entity."""

    @abstractmethod
    def entities(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """States [rows, size] -> (features [rows, entities, width], present [rows, entities]); absent: zeros."""

    def mismatch(self, state: Tensor, obs: Tensor) -> str:
        """What is wrong with states [rows, size] beside the observations [rows, agents, obs_size]; empty if nothing."""
        return ""


@dataclass(frozen=True)
class DescribedState(State):
    """A global state that is all agents' observations, one after the other, as EPyMARL's ``gymma`` has it.

    A critic reads one row an entity: [which block 1-hot, fields of all blocks], the fields of other blocks being 0. The
    width depends on what kinds of things there are, not on how many, so that a critic moves between sizes of a task.
    """

    description: Description

    @property
    def size(self) -> int:
        return self.description.n_agents * self.description.size

    @property
    def width(self) -> int:
        blocks = self.description.blocks
        return len(blocks) + sum(field.n_features for block in blocks for field in block.fields)

    def mismatch(self, state: Tensor, obs: Tensor) -> str:
        if torch.equal(state, obs.flatten(1)):
            return ""
        return "the state is all observations, one after the other, and it is another"

    def entities(self, state: Tensor) -> tuple[Tensor, Tensor]:
        obs = state.unflatten(-1, (self.description.n_agents, self.description.size))
        blocks = self.description.blocks
        before, features, present = len(blocks), [], []
        for number, block in enumerate(blocks):
            columns = [column for field in block.fields for column in field.features(block, obs)]
            own = torch.stack(columns, -1) if columns else obs.new_zeros(*obs.shape[:-1], len(block.starts), 0)
            kind = functional.one_hot(torch.tensor(number, device=obs.device), len(blocks)).to(obs.dtype)
            after = self.width - before - own.shape[-1]
            padded = functional.pad(own, (before - len(blocks), after))
            features.append(torch.cat([kind.expand(*own.shape[:-1], -1), padded], -1))
            present.append(block.present(obs))
            before += own.shape[-1]
        alive = torch.cat(present, -1)
        return torch.cat(features, -2).masked_fill(~alive.unsqueeze(-1), 0.0).flatten(-3, -2), alive.flatten(-2)


def _field_rule(block: Entities, field: Field, obs: Tensor, present: Tensor) -> Rule:
    def found(row: int, index: int) -> str:
        numbers = " ".join(f"{float(block.read(obs[row], at)[index]):g}" for at, _ in field.numbers())
        return f"{block.label(index, len(block.starts))} has {numbers}"

    holds = field.holds(block, obs) | ~present
    return Rule(block.name, field.declared(), "it is another version or has other settings", holds, found)


def _to_one(low: float, high: float) -> float:
    """What to multiply numbers between ``low`` and ``high`` with, so that the largest is 1."""
    largest = max(abs(low), abs(high))
    return 1 / largest if 0 < largest < float("inf") else 1.0


def _within(values: Tensor, low: float, high: float) -> Tensor:
    return (values >= low - TOLERANCE) & (values <= high + TOLERANCE)


def _is_bit(values: Tensor) -> Tensor:
    return (values == 0) | (values == 1)


def _made_up(field: Number | Offset, rows: int, rng: np.random.Generator, full: bool) -> np.ndarray:
    """Values of a number in its range; ``full``: its ends by turns, of which one is longest in print."""
    low, high = (min(max(bound, -FARTHEST), FARTHEST) for bound in (field.low, field.high))
    if not full:
        values = rng.uniform(low, high, rows)
        return values.round() if field.decimals == 0 else values
    # Digits that no tokenizer has one token for, unlike those of 1.00.
    low, high = ((bound - np.sign(bound) * 0.12) if field.decimals else bound for bound in (low, high))
    return np.where(np.arange(rows) % 2, low, high)
