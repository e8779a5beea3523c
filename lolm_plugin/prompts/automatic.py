"""Automatic prompts: instruction, goal, state and actions from the description of an observation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lolm_plugin.observations.description import (
    Choice,
    Description,
    Entities,
    Field,
    Flag,
    Number,
    Offset,
    Word,
    sample_fields,
)
from lolm_plugin.prompts.scene import ActionBatch
from lolm_plugin.prompts.style import Fragments, Listing, Writer
from lolm_plugin.prompts.template import MAX_NUMBER, FragmentTable, Sentence, Words, choose, constant, template, where


@dataclass(frozen=True)
class Form:
    """The texts of a long or short form of the sentences."""

    me: str  # begins the agent's own sentence
    entity: str  # begins the sentence about an entity
    label: str  # the same for an entity with a label
    clause: str  # before each clause
    end: str
    offset: str
    none_seen: str
    actions: Listing
    cue: str


FULL = Form(
    me="Current state:\nYou are {name}",
    entity="{Name} {number}",
    label="{Label}",
    clause=", ",
    end=".\n",
    offset="{across} {east_west} and {along} {north_south} of you",
    none_seen="You see no {name}.\n",
    actions=Listing("Available actions: ", ", ", ".\n"),
    cue="The best action is:",
)
SHORT = Form(
    me="You:",
    entity="{name} {number}:",
    label="{label}:",
    clause=" ",
    end="\n",
    offset="",  # an offset of 0 is left out
    none_seen="",
    actions=Listing("Actions: ", ", ", "\n"),
    cue="Best:",
)


class AutomaticWriter(Writer):
    """Writer of automatic prompts; ``short`` chooses the short form, ``dynamic`` names only present entities."""

    def __init__(self, description: Description, short: bool, dynamic: bool) -> None:
        self.layout = description
        self.form = SHORT if short else FULL
        self.dynamic = dynamic
        self.cue = self.form.cue
        self.prefix = _short_prefix(description) if short else _full_prefix(description)
        self._blocks = [block for block in description.entities if block.starts]

    def write(self, table: FragmentTable, obs: Tensor, available: Tensor, agent: Tensor) -> Fragments:
        """Write the agent, every block of entities, and the actions."""
        description, form = self.layout, self.form
        obs, number = obs.cpu(), agent.cpu().numpy()
        parts: dict[str, Sequence[Sentence]] = {"me": (self._me(obs),)}
        for block in self._blocks:
            present = block.present(obs).numpy()
            named = present if self.dynamic else np.ones_like(present)
            none_seen = template("" if block.labels else form.none_seen, name=block.name).where(~named.any(1))
            parts[f"each {block.name}"] = (self._sentences(block, obs, number, present).where(named), none_seen)
        meaning = description.meaning(obs).numpy()
        parts["actions"] = form.actions.sentences(ActionBatch.of(description, meaning, available.cpu().numpy() > 0))
        parts["cue"] = (constant(form.cue),)
        units = [f"each {block.name}" for block in self._blocks]
        return Fragments.of(table, parts, units, description.target_entities(number, meaning), len(number))

    def sample(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sample numbers in their ranges, with entities present or absent."""
        return sample_fields(self.layout, rows)

    def fullest(self) -> list[str]:
        """Return texts with all entities and their longest numbers, at least once with each option."""
        obs, available, agent = sample_fields(self.layout, rows=64, full=True)
        described = self.describe(obs, available, agent)
        if not self.dynamic:
            described += self.describe(torch.zeros_like(obs), available, agent)
        return ["".join(parts.values()) for parts in described]

    def _me(self, obs: Tensor) -> Sentence:
        """Return the agent's own sentence, of [rows]."""
        me = self.layout.me
        clauses = sum((self._clause(me, field, obs) for field in me.fields), Sentence())
        own = Sentence((slot, value[..., 0] if np.ndim(value) else value) for slot, value in clauses.slots)
        name = f"{'an' if self.layout.agent[0] in 'aeiou' else 'a'} {self.layout.agent}"
        return template(self.form.me, name=name) + own + template(self.form.end)

    def _sentences(self, block: Entities, obs: Tensor, agent: np.ndarray, present: np.ndarray) -> Sentence:
        """Return one sentence per entity, of [rows, entities]."""
        clauses = sum((self._clause(block, field, obs) for field in block.fields), Sentence())
        if not self.dynamic:
            clauses = where(present, clauses, template(f"{self.form.clause}not seen"))
        return self._name(block, agent) + clauses + template(self.form.end)

    def _name(self, block: Entities, agent: np.ndarray) -> Sentence:
        each = np.arange(len(block.starts))[None]
        if block.labels:
            capital = tuple(map(_capital, block.labels))
            return template(self.form.label, label=Words(block.labels, each), Label=Words(capital, each))
        number = each + (each >= agent[:, None]) if block.skips_self else each
        return template(self.form.entity, name=block.name, Name=_capital(block.name), number=number.astype(np.float64))

    def _clause(self, block: Entities, field: Field, obs: Tensor) -> Sentence:
        """Return the text of a field after the clause separator, of [rows, entities]."""
        clause = self.form.clause

        def read(at: int) -> np.ndarray:
            return block.read(obs, at).numpy().astype(np.float64)

        match field:
            case Word():
                return constant(clause + field.text)
            case Number():
                number = _printable(read(field.at) * field.scale)
                return template(f"{clause}{field.name} {{number:.{field.decimals}f}}", number=number)
            case Flag():
                yes, no = (text and clause + text for text in (field.yes, field.no))
                return template("{words}", words=choose(read(field.at) != 0, yes, no))
            case Choice():
                bits = np.stack([read(at) for at, _ in field.numbers()], -1)
                name = f"{field.name} " if field.name else ""
                shown = bits.any(-1) & (True if field.when is None else read(field.when) != 0)
                return template(f"{clause}{name}{{option}}", option=Words(field.options, bits.argmax(-1))).where(shown)
            case Offset():
                shape = (len(obs), len(block.starts))
                x, y = (
                    _printable(np.broadcast_to(axis.numpy().astype(np.float64), shape) * field.scale)
                    for axis in field.read(block, obs)
                )
                return self._offset(field, x, y)
        raise AssertionError(f"no text is defined for {field}")

    def _offset(self, field: Offset, x: np.ndarray, y: np.ndarray) -> Sentence:
        """Return an offset as text; x and y are [rows, entities]."""
        clause, spec = self.form.clause, f":.{field.decimals}f"
        east, west, north, south = field.words
        axes = ((x, east, west), (y, north, south))
        if self.form.offset:
            text = clause + self.form.offset.replace("across", f"across{spec}").replace("along", f"along{spec}")
            sides = [choose(axis >= 0, positive, negative) for axis, positive, negative in axes]
            offset = template(text, across=abs(x), along=abs(y), east_west=sides[0], north_south=sides[1])
        else:
            still = [abs(axis) < 0.5 / 10**field.decimals for axis in (x, y)]
            offset = template(f"{clause}here").where(still[0] & still[1])
            for (axis, positive, negative), unmoved in zip(axes, still, strict=True):
                side = choose(axis > 0, positive, negative)
                offset += template(f"{clause}{{cells{spec}}} {{side}}", cells=abs(axis), side=side).where(~unmoved)
        if field.beside:
            offset += template(f"{clause}{field.beside}").where(np.isclose(abs(x) + abs(y), 1) & np.isclose(x * y, 0))
        return offset


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _printable(numbers: np.ndarray) -> np.ndarray:
    """Clip numbers to the range that prompts can show; NaN becomes 0."""
    return np.clip(np.nan_to_num(numbers), 0.01 - MAX_NUMBER, MAX_NUMBER - 0.01)


def _full_prefix(description: Description) -> str:
    others = f" of {description.n_agents} {description.agent}s" if description.n_agents > 1 else f" {description.agent}"
    return (
        f"Instruction: You control one{others} in {description.task}. Read the current state and choose exactly one of "
        f"the available actions.{_units(description)}\nGoal: {description.goal}\n"
    )


def _short_prefix(description: Description) -> str:
    return f"{_capital(description.task)}. Pick one action for your {description.agent}.\nGoal: {description.goal}\n"


def _units(description: Description) -> str:
    """Return a sentence about every unit of measurement of the numbers."""
    names: dict[str, list[str]] = {}
    for block in description.blocks:
        for field in block.fields:
            if isinstance(field, Number | Offset) and field.unit:
                name = field.name if isinstance(field, Number) else "offsets"
                if name not in names.setdefault(field.unit, []):
                    names[field.unit].append(name)
    sentences = []
    for unit, fields in names.items():
        listed = " and ".join([", ".join(fields[:-1]), fields[-1]] if len(fields) > 1 else fields)
        sentences.append(f" {_capital(listed)} {'are' if len(fields) > 1 or fields == ['offsets'] else 'is'} {unit}.")
    return "".join(sentences)
