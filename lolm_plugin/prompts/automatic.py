"""Prompts that nobody wrote: instruction, goal, state and actions from the description of an observation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lolm_plugin.observations.described_views import described_views
from lolm_plugin.observations.description import Choice, Description, Entities, Field, Flag, Number, Place, Word
from lolm_plugin.prompts.columns import ActionColumns
from lolm_plugin.prompts.phrases import MAX_NUMBER, Phrase, Words, choose, either, phrase
from lolm_plugin.prompts.template import Listing
from lolm_plugin.prompts.writer import Writer, Written


@dataclass(frozen=True)
class Form:
    """How long the sentences are."""

    me: str  # what an agent's own sentence begins with
    entity: str  # and another's
    clause: str  # before each clause
    end: str
    place: str
    nobody: str
    actions: Listing
    cue: str


FULL = Form(
    me="Current state:\nYou are {name}",
    entity="{Name} {number}",
    clause=", ",
    end=".\n",
    place="{across} {east_west} and {along} {north_south} of you",
    nobody="You see no {name}.\n",
    actions=Listing("Available actions: ", ", ", ".\n"),
    cue="The best action is:",
)
SHORT = Form(
    me="You:",
    entity="{name} {number}:",
    clause=" ",
    end="\n",
    place="",  # leaves out what is 0
    nobody="",
    actions=Listing("Actions: ", ", ", "\n"),
    cue="Best:",
)


class AutomaticWriter(Writer):
    """``short`` leaves out what a small model can do without; ``dynamic`` names only what is there."""

    def __init__(self, description: Description, short: bool, dynamic: bool) -> None:
        self.layout: Description = description
        self.form = SHORT if short else FULL
        self.dynamic = dynamic
        self.cue = self.form.cue
        self._blocks = [block for block in description.entities if block.starts]
        assert len(description.targets) <= 2, "a listing has two sets of words for actions"
        self.beginning = _short_beginning(description) if short else _full_beginning(description)

    def write(self, obs: Tensor, available: Tensor, agent: Tensor) -> Written:
        """The agent, every kind of entities, the actions."""
        description, form = self.layout, self.form
        obs, number = obs.cpu(), agent.cpu().numpy()
        can = available.cpu().numpy() > 0
        parts: dict[str, Sequence[Phrase]] = {"me": (self._me(obs),)}
        for block in self._blocks:
            named = self._named(block, obs)
            nobody = phrase("" if block.labels else form.nobody, name=block.name).where(~named.any(1))
            parts[_part(block)] = (self._sentences(block, obs, number).where(named), nobody)
        meaning = description.meaning(obs).numpy()
        words = (description.action_names(0), description.action_names(len(description.targets) - 1))
        parts["actions"] = form.actions.phrases(ActionColumns(words, meaning > 0, can))
        parts["cue"] = (phrase(form.cue),)
        return Written(parts, tuple(_part(block) for block in self._blocks), self._targets(number, meaning))

    def varied(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers in their ranges, things there or not."""
        return described_views(self.layout, rows)

    def fullest(self) -> list[str]:
        """Everything is there with its longest numbers, once with each of its options."""
        views = described_views(self.layout, rows=64, full=True)
        texts = ["".join(parts.values()) for parts in self.describe(*views)]
        if not self.dynamic:
            obs, available, agent = views
            texts += ["".join(parts.values()) for parts in self.describe(torch.zeros_like(obs), available, agent)]
        return texts

    def names(self, agent: int) -> Mapping[int, str]:
        """As the description has them."""
        return self.layout.names(agent)

    def _named(self, block: Entities, obs: Tensor) -> np.ndarray:
        """Which of them have a sentence: bool [rows, entities]."""
        present = block.present(obs).numpy()
        return present if self.dynamic else np.ones_like(present)

    def _me(self, obs: Tensor) -> Phrase:
        """The agent's own sentence: a phrase of [rows]."""
        me = self.layout.me
        clauses = sum((self._clause(me, field, obs) for field in me.fields), Phrase())
        own = Phrase((column, value[..., 0] if np.ndim(value) else value) for column, value in clauses)
        name = f"{'an' if self.layout.agent[0] in 'aeiou' else 'a'} {self.layout.agent}"
        return phrase(self.form.me, name=name) + own + phrase(self.form.end)

    def _sentences(self, block: Entities, obs: Tensor, agent: np.ndarray) -> Phrase:
        """One sentence an entity: a phrase of [rows, entities]."""
        clauses = sum((self._clause(block, field, obs) for field in block.fields), Phrase())
        if not self.dynamic:
            gone = phrase(f"{self.form.clause}not seen")
            clauses = either(block.present(obs).numpy(), clauses, gone)
        return self._name(block, agent) + clauses + phrase(self.form.end)

    def _name(self, block: Entities, agent: np.ndarray) -> Phrase:
        each = np.arange(len(block.starts))
        if block.labels:
            words = tuple(_capital(label) if self.form is FULL else label for label in block.labels)
            return phrase("{label}" + (":" if self.form is SHORT else ""), label=Words(words, each[None]))
        number = each + (each >= agent[:, None]) if block.skips_self else each[None]
        template = self.form.entity.replace("{name}", block.name).replace("{Name}", _capital(block.name))
        return phrase(template, number=number.astype(np.float64))

    def _clause(self, block: Entities, field: Field, obs: Tensor) -> Phrase:
        """What a field says, with what comes before it: a phrase of [rows, entities]."""
        lead = self.form.clause

        def read(at: int) -> np.ndarray:
            return block.read(obs, at).numpy().astype(np.float64)

        if isinstance(field, Word):
            return phrase(f"{lead}{field.text}")
        if isinstance(field, Number):
            return phrase(
                f"{lead}{field.name} {{number:.{field.decimals}f}}", number=_sayable(read(field.at) * field.scale)
            )
        if isinstance(field, Flag):
            set_, said = read(field.at) != 0, tuple(text and lead + text for text in (field.no, field.yes))
            return phrase("{words}", words=Words(said, set_.astype(np.int64)))
        if isinstance(field, Choice):
            bits = np.stack([read(field.at + i) for i in range(len(field.options))], -1)
            name = f"{field.name} " if field.name else ""
            told = bits.any(-1) & (True if field.when is None else read(field.when) != 0)
            return phrase(f"{lead}{name}{{option}}", option=Words(field.options, bits.argmax(-1))).where(told)
        x, y = (
            np.broadcast_to(axis.numpy().astype(np.float64), (len(obs), len(block.starts)))
            for axis in block.offset(obs, field)
        )
        return self._place(field, _sayable(x * field.scale), _sayable(y * field.scale))

    def _place(self, field: Place, x: np.ndarray, y: np.ndarray) -> Phrase:
        """An offset in words: x and y [rows, entities]."""
        lead, spec = self.form.clause, f":.{field.decimals}f"
        east, west, north, south = field.words
        axes = ((x, east, west), (y, north, south))
        if self.form is FULL:
            template = lead + self.form.place.replace("across", f"across{spec}").replace("along", f"along{spec}")
            sides = [choose(axis >= 0, positive, negative) for axis, positive, negative in axes]
            offset = phrase(template, across=abs(x), along=abs(y), east_west=sides[0], north_south=sides[1])
        else:
            still = [abs(axis) < 0.5 / 10**field.decimals for axis in (x, y)]
            offset = phrase(f"{lead}here").where(still[0] & still[1])
            for (axis, positive, negative), unmoved in zip(axes, still, strict=True):
                side = choose(axis > 0, positive, negative)
                offset += phrase(f"{lead}{{cells{spec}}} {{side}}", cells=abs(axis), side=side).where(~unmoved)
        if field.beside:
            offset += phrase(f"{lead}{field.beside}").where(np.isclose(abs(x) + abs(y), 1) & np.isclose(x * y, 0))
        return offset

    def _targets(self, agent: np.ndarray, meaning: np.ndarray) -> np.ndarray:
        """Which of all entities, counted through, each target action is about: int64 [rows, n_targets]."""
        description = self.layout
        actions, first, starts = np.arange(description.n_targets), 0, {}
        for block in description.entities:
            starts[block.name] = (first, block)
            first += len(block.starts)
        found = np.full((len(agent), description.n_targets), -1)
        for number, targets in enumerate(description.targets):
            first, block = starts[targets.entities]
            which = np.broadcast_to(actions, found.shape)
            if block.skips_self:
                me = agent[:, None]
                which = np.where(actions == me, -1, actions - (actions > me))
            about = np.where((which >= 0) & (which < len(block.starts)), first + which, -1)
            found = np.where(meaning[:, None] == number, about, found)
        return found


def _part(block: Entities) -> str:
    """The name of a block's part of a prompt."""
    return f"each {block.name}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sayable(numbers: np.ndarray) -> np.ndarray:
    """Numbers that there are words for."""
    return np.clip(np.nan_to_num(numbers), 0.01 - MAX_NUMBER, MAX_NUMBER - 0.01)


def _full_beginning(description: Description) -> str:
    others = f" of {description.n_agents} {description.agent}s" if description.n_agents > 1 else f" {description.agent}"
    return (
        f"Instruction: You control one{others} in {description.task}. Read the current state and choose exactly one of "
        f"the available actions.{_units(description)}\nGoal: {description.goal}\n"
    )


def _short_beginning(description: Description) -> str:
    return f"{_capital(description.task)}. Pick one action for your {description.agent}.\nGoal: {description.goal}\n"


def _units(description: Description) -> str:
    """A sentence about every unit that numbers have."""
    names: dict[str, list[str]] = {}
    for block in (description.me, *description.entities):
        for field in block.fields:
            if isinstance(field, Number | Place) and field.unit:
                name = field.name if isinstance(field, Number) else "offsets"
                if name not in names.setdefault(field.unit, []):
                    names[field.unit].append(name)
    sentences = []
    for unit, fields in names.items():
        listed = " and ".join([", ".join(fields[:-1]), fields[-1]] if len(fields) > 1 else fields)
        sentences.append(f" {_capital(listed)} {'are' if len(fields) > 1 or fields == ['offsets'] else 'is'} {unit}.")
    return "".join(sentences)
