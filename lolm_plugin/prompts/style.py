"""Prompt writers: their interface, the prompt styles for battles, and prompts as text fragments."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from lolm_plugin import registry
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.battle import BattleLayout
from lolm_plugin.observations.description import Description
from lolm_plugin.prompts import scene as scenes
from lolm_plugin.prompts.scene import ActionBatch, AgentBatch, SceneBatch, UnitBatch
from lolm_plugin.prompts.template import FragmentTable, Sentence, Words, choose, constant, template

Parts = Mapping[str, Sequence[Sentence]]  # parts in order; sentences of [rows] or [rows, units]


@dataclass(frozen=True)
class Fragments:
    """Prompts as fragments int64 [rows, width] of a table, 0 for no text; ``parts`` are the columns of each part.

    ``units`` int64 [units, 2] are the first column of the sentence about each unit and the column after its last.
    ``target`` int64 [rows, n_targets] is the index in ``units`` that a target action is about, -1 for none.
    """

    fragments: np.ndarray
    parts: Mapping[str, slice]
    units: np.ndarray
    target: np.ndarray

    @staticmethod
    def of(table: FragmentTable, parts: Parts, units: Sequence[str], target: np.ndarray, rows: int) -> "Fragments":
        """Build fragments of ``parts``; ``units`` names the parts whose first sentence is one per unit."""
        blocks, slices, spans, column = [], {}, [np.zeros((0, 2), np.int64)], 0
        for name, sentences in parts.items():
            begin = column
            for sentence in sentences:
                blocks.append(table.fragments(sentence, rows))
                if sentence is sentences[0] and name in units and sentence.slots:
                    ends = column + np.arange(0, blocks[-1].shape[1] + 1, len(sentence.slots))
                    spans.append(np.stack([ends[:-1], ends[1:]], axis=1))
                column += blocks[-1].shape[1]
            slices[name] = slice(begin, column)
        return Fragments(np.concatenate(blocks, axis=1), slices, np.concatenate(spans), target)

    def texts(self, table: FragmentTable) -> list[dict[str, str]]:
        """Return each row's parts as text."""
        return [
            {name: "".join(table.split(row[columns])) for name, columns in self.parts.items()} for row in self.fragments
        ]


class Writer(ABC):
    """Interface of prompt writers.

    ``prefix`` is the same for every agent and timestep, so it is computed once. It ends in a newline, and no part
    begins with a space. The token ids of the two can therefore be joined. ``cue`` is the text of the last part.
    ``adds_bos``: the prompt begins with the tokenizer's begin-of-text token.
    """

    layout: Description
    prefix: str
    cue: str
    adds_bos: bool = True

    @abstractmethod
    def write(self, table: FragmentTable, obs: Tensor, available: Tensor, agent: Tensor) -> Fragments:
        """Write the text after the prefix for obs [rows, obs_size], available [rows, n_actions] and agent [rows]."""

    @abstractmethod
    def sample(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sample obs, available and agent of [rows]: every kind and number occurs and is missing."""

    @abstractmethod
    def fullest(self) -> list[str]:
        """Return texts after the prefix, one of which is the longest of this task for any tokenizer."""

    def describe(self, obs: Tensor, available: Tensor, agent: Tensor) -> list[dict[str, str]]:
        """Return each row's parts as text."""
        table = FragmentTable()
        return self.write(table, obs, available, agent).texts(table)


class Listing(NamedTuple):
    """The list of available actions: ``begin``, names joined by ``between``, ``end``; ``spoken`` may shorten a name."""

    begin: str
    between: str
    end: str
    spoken: Callable[[str], str] = str

    def sentences(self, actions: ActionBatch) -> tuple[Sentence, Sentence]:
        """Return the names [rows, actions] and the end [rows] as sentences."""
        words = tuple(
            before + self.spoken(name)
            for names in actions.names
            for name in names
            for before in (self.between, self.begin)
        )
        first = actions.available & (actions.available.cumsum(1) == 1)
        index = np.arange(actions.available.shape[1]) + len(actions.names[0]) * actions.meaning[:, None]
        none = ~actions.available.any(1)
        return (
            template("{name}", name=Words(words, 2 * index + first)).where(actions.available),
            template("{end}", end=choose(none, self.begin + self.end, self.end)),
        )


class PromptStyle(ABC):
    r"""Base class of prompt styles for battles: four texts and two sentences, about the agent and about another unit.

    The prefix ``instruction + goal`` is the same for every agent and timestep, so it is computed once. Both end in a
    newline, and no part begins with a space. The token ids of prefix and parts can therefore be joined.

    Attributes:
        instruction: the first text.
        goal: the second text.
        short: True if automatic prompts (``prompt.source=auto``) have the short form.
        none_seen: text if no unit of a ``{side}`` is named.
        actions: the list of available actions.
        cue: the last text, after which the model answers.

    Example::

        class LinesStyle(PromptStyle):
            instruction = "Battle. Pick one action.\n"
            goal = "Goal: win and stay alive.\n"
            actions = Listing("Actions: ", ", ", "\n")
            cue = "Best:"

            def me(self, me):
                return template("You: {kind}{hp}\n", kind=kinds(me.kind), hp=if_present(" hp {health:.2f}", me))

            def unit(self, unit):
                seen = template(": {kind} {east:.1f} east {north:.1f} north\n", unit, kind=kinds(unit.kind))
                return template("{side} {number}", unit) + where(unit.seen, seen, template(": not seen\n"))

    ``examples/add_a_prompt_style`` adds a style to the registry, and ``tests/examples/test_add_a_prompt_style.py`` runs
    it.
    """

    instruction: str
    goal: str
    short: bool = False
    none_seen: str = ""
    actions: Listing
    cue: str

    @abstractmethod
    def me(self, me: AgentBatch) -> Sentence:
        """Return the sentence about the observing agent.

        Args:
            me: the agents, each field [rows].

        Returns:
            A sentence of [rows] that ends in a newline.
        """

    @abstractmethod
    def unit(self, unit: UnitBatch) -> Sentence:
        """Return the sentence about each other unit of a side.

        Args:
            unit: the units in the order of their numbers, each field [rows, units].

        Returns:
            A sentence of [rows, units] that ends in a newline. The caller leaves out units that are not ``named``.
        """

    def parts(self, scene: SceneBatch) -> Parts:
        """Return the sentences of every part."""
        return {
            "me": (self.me(scene.me),),
            "allies": self._side(scene.allies),
            "enemies": self._side(scene.enemies),
            "actions": self.choices(scene),
            "cue": (constant(self.cue),),
        }

    def choices(self, scene: SceneBatch) -> tuple[Sentence, ...]:
        """Return the available actions as a list. A style that names some of them in other parts overrides this."""
        return self.actions.sentences(scene.actions)

    def fullest(self, layout: BattleLayout, dynamic: bool) -> SceneBatch:
        """Return scenes, one of which has the longest prompt of this style on the map."""
        return scenes.fullest(layout, dynamic)

    def describe(self, scene: SceneBatch) -> list[dict[str, str]]:
        """Return each row's parts as text: everything after the prefix."""
        table = FragmentTable()
        return Fragments.of(table, self.parts(scene), (), np.zeros((len(scene), 0)), len(scene)).texts(table)

    def _side(self, units: UnitBatch) -> tuple[Sentence, ...]:
        named = self.unit(units).where(units.named)
        return named, template(self.none_seen, side=units.side).where(~units.named.any(1))


class BattleWriter(Writer):
    """Writer of battles in a prompt style; ``dynamic`` names only living, visible units."""

    def __init__(self, layout: BattleLayout, style: PromptStyle, dynamic: bool) -> None:
        self.layout: BattleLayout = layout
        self.style = style
        self.dynamic = dynamic
        self.prefix = style.instruction + style.goal
        self.cue = style.cue

    def write(self, table: FragmentTable, obs: Tensor, available: Tensor, agent: Tensor) -> Fragments:
        """Write the parts of the style."""
        scene = scenes.decode(self.layout, obs, available, agent, self.dynamic)
        return Fragments.of(
            table,
            self.style.parts(scene),
            ("allies", "enemies"),
            self.layout.target_entities(scene.me.number, scene.actions.meaning),
            len(scene),
        )

    def sample(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sample units of every kind, seen or not."""
        return self.layout.sample(rows)

    def fullest(self) -> list[str]:
        """Return texts in which all units have one kind and every action is available."""
        return ["".join(parts.values()) for parts in self.style.describe(self.style.fullest(self.layout, self.dynamic))]


def build_style(name: str) -> PromptStyle:
    """Build the style ``prompt.style``.

    Args:
        name: a key of ``registry.PROMPT_STYLES``.

    Returns:
        A new style.

    Raises:
        ConfigError: the name is not registered.
    """
    if name not in registry.PROMPT_STYLES:
        raise ConfigError(
            f"prompt.style={name} is not a prompt style; set it to one of: {', '.join(registry.PROMPT_STYLES)}."
        )
    return registry.load(registry.PROMPT_STYLES[name])()
