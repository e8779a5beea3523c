"""Who puts observations into words: prompt styles for battles, and the interface that all writers have."""

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

Parts = Mapping[str, Sequence[Sentence]]  # the parts of a prompt in their order, each of [rows] or of [rows, units]


@dataclass(frozen=True)
class Fragments:
    """Prompts as fragments int64 [rows, width] of a table, 0 being none; ``parts`` are the columns of each part.

    ``units`` int64 [units, 2] are the columns between which the sentence about each unit lies. ``target`` int64
    [rows, n_targets] says which of these units a target action is about, -1 for none.
    """

    fragments: np.ndarray
    parts: Mapping[str, slice]
    units: np.ndarray
    target: np.ndarray

    @staticmethod
    def of(table: FragmentTable, parts: Parts, units: Sequence[str], target: np.ndarray, rows: int) -> "Fragments":
        """``units`` names the parts whose first sentence is one a unit."""
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
        """Every row's parts in words."""
        return [
            {name: "".join(table.split(row[columns])) for name, columns in self.parts.items()} for row in self.fragments
        ]


class Writer(ABC):
    """Puts what agents see into words.

    ``prefix`` is the same for every agent and timestep, so that it is computed once; it ends in a newline and no
    part begins with a space, so that joining the token ids of the two is the same as tokenising the joined text.
    ``cue`` is the text of the last part. ``adds_bos``: the prompt begins with the tokenizer's begin-of-text token.
    """

    layout: Description
    prefix: str
    cue: str
    adds_bos: bool = True

    @abstractmethod
    def write(self, table: FragmentTable, obs: Tensor, available: Tensor, agent: Tensor) -> Fragments:
        """Write what follows the prefix: obs [rows, obs_size], available [rows, n_actions], agent [rows]."""

    @abstractmethod
    def sample(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Made-up obs, available and agent: every kind and number that can be, or not."""

    @abstractmethod
    def fullest(self) -> list[str]:
        """Texts after the prefix of which one is as long as this task allows, whatever the tokenizer."""

    def describe(self, obs: Tensor, available: Tensor, agent: Tensor) -> list[dict[str, str]]:
        """Every row's parts in words."""
        table = FragmentTable()
        return self.write(table, obs, available, agent).texts(table)


class Listing(NamedTuple):
    """The available actions: ``begin``, their names with ``between`` them, ``end``; ``spoken`` may shorten a name."""

    begin: str
    between: str
    end: str
    spoken: Callable[[str], str] = str

    def sentences(self, actions: ActionBatch) -> tuple[Sentence, Sentence]:
        """One sentence of [rows, actions] and one of [rows]."""
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
    """How a battle is put into words: a style is its texts and two sentences, about oneself and about another unit.

    ``instruction + goal`` is the same for every agent and timestep, so that it is computed once. Both end in a newline
    and no part begins with a space, so that joining the token ids of the two halves is the same as tokenising the
    joined text.
    """

    instruction: str
    goal: str
    short: bool = False  # automatic prompts leave out what a small model can do without
    none_seen: str = ""  # where no unit of a {side} is named
    actions: Listing
    cue: str

    @abstractmethod
    def me(self, me: AgentBatch) -> Sentence:
        """The observing agent."""

    @abstractmethod
    def unit(self, unit: UnitBatch) -> Sentence:
        """Another unit, for every named one of a side in the order of their numbers."""

    def parts(self, scene: SceneBatch) -> Parts:
        """The sentences of every part."""
        return {
            "me": (self.me(scene.me),),
            "allies": self._side(scene.allies),
            "enemies": self._side(scene.enemies),
            "actions": self.choices(scene),
            "cue": (constant(self.cue),),
        }

    def choices(self, scene: SceneBatch) -> tuple[Sentence, ...]:
        """The available actions: all of them in ``actions``, unless a style says some of them elsewhere."""
        return self.actions.sentences(scene.actions)

    def fullest(self, layout: BattleLayout, dynamic: bool) -> SceneBatch:
        """Scenes of which one is as long in this style as the map allows."""
        return scenes.fullest(layout, dynamic)

    def describe(self, scene: SceneBatch) -> list[dict[str, str]]:
        """What changes with the agent and the timestep, in words: every row's parts."""
        table = FragmentTable()
        return Fragments.of(table, self.parts(scene), (), np.zeros((len(scene), 0)), len(scene)).texts(table)

    def _side(self, units: UnitBatch) -> tuple[Sentence, ...]:
        named = self.unit(units).where(units.named)
        return named, template(self.none_seen, side=units.side).where(~units.named.any(1))


class BattleWriter(Writer):
    """Battles in the words of a style; ``dynamic`` names only living, visible units."""

    def __init__(self, layout: BattleLayout, style: PromptStyle, dynamic: bool) -> None:
        self.layout: BattleLayout = layout
        self.style = style
        self.dynamic = dynamic
        self.prefix = style.instruction + style.goal
        self.cue = style.cue

    def write(self, table: FragmentTable, obs: Tensor, available: Tensor, agent: Tensor) -> Fragments:
        """One part for each of the style's."""
        scene = scenes.decode(self.layout, obs, available, agent, self.dynamic)
        return Fragments.of(
            table,
            self.style.parts(scene),
            ("allies", "enemies"),
            self.layout.target_entities(scene.me.number, scene.actions.meaning),
            len(scene),
        )

    def sample(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Units of every kind, seen or not."""
        return self.layout.sample(rows)

    def fullest(self) -> list[str]:
        """All units of one kind are there, and every action is available."""
        return ["".join(parts.values()) for parts in self.style.describe(self.style.fullest(self.layout, self.dynamic))]


def build_style(name: str) -> PromptStyle:
    """The style behind ``prompt.style``."""
    if name not in registry.PROMPT_STYLES:
        raise ConfigError(
            f"prompt.style={name} is not a prompt style; set it to one of: {', '.join(registry.PROMPT_STYLES)}."
        )
    return registry.load(registry.PROMPT_STYLES[name])()
