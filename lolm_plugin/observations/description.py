"""Descriptions of observations: named fields with units and ranges, blocks of entities, and actions.

Prompts (``prompts/automatic.py``), the check of the first episodes (``checks.py``), sample observations and a critic's
features are derived from a description. An index ``at`` counts from the first number of the field's entity. For the
agent's own fields it counts from the start of the observation. Battles can also be decoded (``battle.py``).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FARTHEST = 9999.0  # sample values of numbers without bounds lie between -FARTHEST and FARTHEST
# Allowed deviation from a rule. Smaller: rounding of float32 values up to 1 and of the game's own numbers breaks rules.
# Larger: wrong layouts can pass.
TOLERANCE = 1e-3


class Field:
    """The meaning of some numbers of an entity. Methods read observations [..., size] for all entities of a block."""

    def numbers(self) -> list[tuple[int, str]]:
        """Return index and name of each number that the field reads."""
        return []

    @property
    def n_features(self) -> int:
        """Number of features that a critic reads."""
        return len(self.numbers())

    def features(self, block: "Entities", obs: Tensor) -> list[Tensor]:
        """Return features [..., entities] for a critic, approximately between -1 and 1."""
        return []

    def holds(self, block: "Entities", obs: Tensor) -> Tensor:
        """Return True for each entity whose numbers are as declared: bool [..., entities]."""
        return torch.ones(*obs.shape[:-1], len(block.starts), dtype=torch.bool, device=obs.device)

    def declared(self) -> str:
        """Return the condition that ``holds`` checks, as text."""
        return ""

    def write_sample(self, obs: np.ndarray, start: int, rng: np.random.Generator, full: bool) -> None:
        """Write sample values for the entity at ``start`` into all rows; ``full``: the values with the longest text."""


@dataclass(frozen=True)
class Number(Field):
    """A number between ``low`` and ``high``, printed as ``name`` and the number times ``scale``, with ``decimals``.

    ``unit`` is the text about it in the instruction, such as "a share of the maximum".
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

    def write_sample(self, obs: np.ndarray, start: int, rng: np.random.Generator, full: bool) -> None:
        obs[:, start + self.at] = _made_up(self, len(obs), rng, full)


@dataclass(frozen=True)
class Flag(Field):
    """A flag, printed as ``yes`` if the number is not 0, else as ``no`` (or not at all if ``no`` is empty)."""

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

    def write_sample(self, obs: np.ndarray, start: int, rng: np.random.Generator, full: bool) -> None:
        obs[:, start + self.at] = 1 if full else rng.random(len(obs)) < 0.5


@dataclass(frozen=True)
class Choice(Field):
    """One of ``options``, one-hot encoded from index ``at`` and printed after ``name`` if it has one.

    ``when``: the choice has a meaning only if the number at this index is not 0.
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

    def write_sample(self, obs: np.ndarray, start: int, rng: np.random.Generator, full: bool) -> None:
        count, rows = len(self.options), len(obs)
        option = (np.arange(rows) if full else rng.integers(count, size=rows)) % count
        obs[:, start + self.at : start + self.at + count] = np.eye(count)[option]


@dataclass(frozen=True)
class Offset(Field):
    """A position, printed as an offset from the agent with ``words`` for +x, -x, +y and -y.

    ``x`` and ``y`` are the indices of its two numbers, each between ``low`` and ``high``. Without ``origin`` they are
    offsets. With ``origin``, the indices of the agent's own position in the observation, they are positions.
    ``points`` are fixed positions, one per entity, for entities whose position is not in the observation. ``beside``
    is the text for an entity that is one step away, not diagonally.
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
        """Return the unscaled offset (x, y) from the agent, each [..., entities]."""
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

    def write_sample(self, obs: np.ndarray, start: int, rng: np.random.Generator, full: bool) -> None:
        for at, _ in self.numbers():
            obs[:, start + at] = _made_up(self, len(obs), rng, full)


@dataclass(frozen=True)
class Word(Field):
    """A constant text that does not depend on the observation."""

    text: str


@dataclass(frozen=True)
class Entities:
    """A block of entities of one kind. The numbers of each begin at one of ``starts`` and have the same order.

    An entity is present if any of its numbers ``present_if_nonzero`` is not 0, or always if that is empty. Entities
    have the names ``labels``, or else ``name`` and a number from 0. ``skips_self``: they are the other agents, numbered
    by their ids.
    """

    name: str
    starts: tuple[int, ...]
    fields: tuple[Field, ...]
    present_if_nonzero: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    skips_self: bool = False

    def read(self, obs: Tensor, at: int) -> Tensor:
        """Return the number at index ``at`` of each entity: observations [..., size] -> [..., entities]."""
        return obs[..., torch.tensor(self.starts, dtype=torch.int64, device=obs.device) + at]

    def present(self, obs: Tensor) -> Tensor:
        """Return True for each entity that is present: bool [..., entities]."""
        if not self.present_if_nonzero:
            return torch.ones(*obs.shape[:-1], len(self.starts), dtype=torch.bool, device=obs.device)
        return torch.stack([self.read(obs, at) != 0 for at in self.present_if_nonzero]).any(0)

    def label(self, index: int, agent: int) -> str:
        """Return the name of an entity in the prompt of agent ``agent``."""
        return self.labels[index] if self.labels else f"{self.name} {index + (self.skips_self and index >= agent)}"


@dataclass(frozen=True)
class Targets:
    """A meaning of the actions after the base actions: ``verb`` and one entity of the block named ``entities``.

    The actions have this meaning if any of the agent's own numbers ``when`` is not 0. If ``when`` is empty, they always
    have it. The first match counts.
    """

    verb: str
    entities: str
    when: tuple[int, ...] = ()


class Rule(NamedTuple):
    """A rule, and which observations satisfy it: ``holds`` is bool [rows] or [rows, entities].

    ``cause`` is the most likely reason for a violation. ``found`` returns the numbers of a row and entity as text.
    """

    name: str
    text: str
    cause: str
    holds: Tensor
    found: Callable[[int, int], str] | None = None


@dataclass(frozen=True)
class Ground:
    """Things that fill cells of a grid, such as shelves, as an agent sees them around it. ``lolm watch`` draws them.

    ``cells`` are (dx, dy, indices). The cell at the offset (dx, dy) from the agent has such a thing if the numbers of
    its observation at these indices are all nonzero.
    """

    name: str
    cells: tuple[tuple[int, int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Description:
    """The meaning of a task's observations and actions. A user writes one to add a task.

    Args:
        env: ``--env-config``, for error messages.
        map_name: name of the map or task, for error messages.
        size: length of an observation.
        n_agents: number of agents.
        task: completes "You control one of 2 robots in ...", with its article: "a warehouse of 11 by 10 cells".
        agent: a singular noun without article: "robot".
        goal: what the team wants and how it gets there, in whole sentences.
        fields: the agent's own fields.
        entities: the blocks of other entities.
        actions: names of the base actions, which every agent has and which have no target.
        targets: the meanings of the target actions.
        n_targets: number of target actions. They follow the base actions.
        note: a remark for the log. Empty if a person wrote the description.
        shared_positions: False if an agent's own position counts from its view, so that two agents' do not compare.
        ground: things that fill cells; only ``lolm watch`` reads it.

    Example: two walkers on a grid. An observation is [own x, own y, other's x, other's y], each from 0 to 9::

        def describe(env_args, n_agents, n_actions):
            offset = Offset(("east", "west", "north", "south"), x=0, y=1, low=0, high=9, decimals=0, origin=(0, 1))
            return Description(
                env="gymma",
                map_name=env_args["key"],
                size=4,
                n_agents=n_agents,
                task="a grid of 10 by 10 cells",
                agent="walker",
                goal="Be in one cell.",
                fields=(Number("x", at=0, high=9, decimals=0), Number("y", at=1, high=9, decimals=0)),
                entities=(Entities("walker", starts=(2,), fields=(offset,), skips_self=True),),
                actions=("wait", "west", "east", "south", "north"),
            )

    ``layout.description=MODULE:describe`` selects it. ``tests/cli/test_described_tasks.py`` trains on such a task.
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
    shared_positions: bool = True
    ground: tuple[Ground, ...] = ()

    # Which keys to change if an observation does not fit the description; part of an error.
    advice = "Set env_args to the described task, layout.description to your own description"

    @property
    def n_base_actions(self) -> int:
        """Number of actions without a target."""
        return len(self.actions)

    @property
    def n_actions(self) -> int:
        """Number of all actions."""
        return len(self.actions) + self.n_targets

    @cached_property
    def me(self) -> Entities:
        """The agent's own fields as an entity that is always present."""
        return Entities("own", (0,), self.fields, labels=("own",))

    @property
    def blocks(self) -> tuple[Entities, ...]:
        """The agent's own block, then the blocks of other entities."""
        return (self.me, *self.entities)

    def action_names(self, meaning: int = 0) -> tuple[str, ...]:
        """Return the name of every action. ``targets[meaning]`` names the target actions."""
        if not self.n_targets:
            return self.actions
        targets = self.targets[meaning]
        return (*self.actions, *(f"{targets.verb} {targets.entities} {i}" for i in range(self.n_targets)))

    def meaning(self, obs: Tensor) -> Tensor:
        """Return the index in ``targets`` that target actions mean in each observation [..., size]: int64 [...]."""
        meaning = torch.zeros(obs.shape[:-1], dtype=torch.int64, device=obs.device)
        for number, targets in reversed(list(enumerate(self.targets))):
            fits = (obs[..., list(targets.when)] != 0).any(-1) if targets.when else torch.ones_like(meaning) > 0
            meaning = torch.where(fits, number, meaning)
        return meaning

    def target_entities(self, agent: np.ndarray, meaning: np.ndarray) -> np.ndarray:
        """Return the entity of each target action, counted over all blocks: int64 [rows, n_targets], -1 for none.

        ``agent`` [rows] are the acting agents. ``meaning`` [rows] are the meanings of their target actions.
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
        """Return the kind of each agent with observations [rows, size], as text."""
        return [self.agent] * len(obs)

    def names(self, agent: int) -> dict[int, str]:
        """Return a readable name of each number that agent ``agent`` sees, by index. Unread numbers have no name."""
        names: dict[int, str] = {}
        for block in (*self.entities, self.me):
            numbers = [number for field in block.fields for number in field.numbers()]
            numbers += [(at, "is there") for at in block.present_if_nonzero]
            for i, start in enumerate(block.starts):
                for at, name in numbers:
                    names.setdefault(start + at, f"{block.label(i, agent)}: {name}")
        for field in (field for block in self.entities for field in block.fields if isinstance(field, Offset)):
            names |= dict(zip(field.origin or (), ("own: x", "own: y"), strict=False))
        return names

    def living(self, obs: Tensor) -> Tensor:
        """Return True for observations [..., size] that only a living agent can have. By default, none are known."""
        return torch.zeros(obs.shape[:-1], dtype=torch.bool, device=obs.device)

    def rules(self, obs: Tensor, available: Tensor) -> Iterator[Rule]:
        """Yield one rule per field for living agents' observations [rows, size]: its numbers are as declared."""
        for block in self.blocks:
            present = block.present(obs)
            for field in block.fields:
                yield _field_rule(block, field, obs, present)

    def sample(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sample obs [rows, obs_size], available [rows, n_actions] and agent [rows]; every kind and number occurs."""
        return sample_fields(self, rows)


def sample_fields(description: Description, rows: int, full: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Sample obs [rows, obs_size], available [rows, n_actions] and agent [rows] from the declared fields.

    Numbers lie in their ranges, and entities are present at random. ``full``: all entities are present, flags are set,
    numbers are long, every row shows the next option, and every action is available.
    """
    rng = np.random.default_rng(0)
    obs = np.zeros((rows, description.size), np.float32)
    for block in description.blocks:
        for start in block.starts:
            present = full or not block.present_if_nonzero or rng.random(rows) < 0.7
            before = obs.copy()
            for field in block.fields:
                field.write_sample(obs, start, rng, full)
            obs = np.where(np.reshape(present, (-1, 1)), obs, before)
    available = (rng.random((rows, description.n_actions)) < 0.5) | full
    available[:, 0] |= ~available.any(1)  # an agent without any action has no prompt
    return torch.from_numpy(obs), torch.from_numpy(available), torch.arange(rows) % description.n_agents


def _field_rule(block: Entities, field: Field, obs: Tensor, present: Tensor) -> Rule:
    def found(row: int, index: int) -> str:
        numbers = " ".join(f"{float(block.read(obs[row], at)[index]):g}" for at, _ in field.numbers())
        return f"{block.label(index, len(block.starts))} has {numbers}"

    holds = field.holds(block, obs) | ~present
    return Rule(block.name, field.declared(), "the environment has another version or other settings", holds, found)


def _to_one(low: float, high: float) -> float:
    """Return the factor that scales numbers between ``low`` and ``high`` to at most 1; 1 without finite bounds."""
    largest = max(abs(low), abs(high))
    return 1 / largest if 0 < largest < float("inf") else 1.0


def _within(values: Tensor, low: float, high: float) -> Tensor:
    return (values >= low - TOLERANCE) & (values <= high + TOLERANCE)


def _is_bit(values: Tensor) -> Tensor:
    return (values == 0) | (values == 1)


def _made_up(field: Number | Offset, rows: int, rng: np.random.Generator, full: bool) -> np.ndarray:
    """Return sample values in a number's range. ``full``: its bounds in turn, one of which is the longest text."""
    low, high = (min(max(bound, -FARTHEST), FARTHEST) for bound in (field.low, field.high))
    if not full:
        values = rng.uniform(low, high, rows)
        return values.round() if field.decimals == 0 else values
    # No tokenizer has one token for these digits; some have one for those of 1.00.
    low, high = ((bound - np.sign(bound) * 0.12) if field.decimals else bound for bound in (low, high))
    return np.where(np.arange(rows) % 2, low, high)
