"""What every prompt style fills in."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lolm_plugin import registry
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.layout import ObservationLayout
from lolm_plugin.prompts.columns import ActionColumns, SceneColumns, SelfColumns, UnitColumns
from lolm_plugin.prompts.phrases import Phrase, Words, choose, phrase
from lolm_plugin.prompts.pieces import Pieces
from lolm_plugin.prompts.scene import Scene, fullest_scenes


class PromptParts(NamedTuple):
    """The part of a prompt that changes with the agent and the timestep, in the order it is read."""

    me: str
    allies: str
    enemies: str
    actions: str
    cue: str

    @property
    def text(self) -> str:
        return "".join(self)


class PromptStyle(ABC):
    """How a scene is put into words. A style is its texts and two phrases: one for oneself, one for another unit.

    ``instruction + goal`` is the same for every agent and timestep, so that it is computed once. Both end in a newline
    and no part begins with a space, so that joining the token ids of the two halves is the same as tokenising the
    joined text.
    """

    instruction: str
    goal: str
    short: bool = False  # automatic prompts leave out what a small model can do without
    nobody: str = ""  # where no unit of a {side} is named
    actions: "Listing"
    cue: str

    @abstractmethod
    def me(self, me: SelfColumns) -> Phrase:
        """The observing agent."""

    @abstractmethod
    def unit(self, unit: UnitColumns) -> Phrase:
        """Another unit, for every named one of a side in the order of their numbers."""

    def phrases(self, scenes: SceneColumns) -> tuple[tuple[Phrase, ...], ...]:
        """The phrases of each of the ``PromptParts``, of [rows] or of [rows, units]."""
        return (
            (self.me(scenes.me),),
            self._side(scenes.allies),
            self._side(scenes.enemies),
            self.choices(scenes),
            (phrase(self.cue),),
        )

    def choices(self, scenes: SceneColumns) -> tuple[Phrase, ...]:
        """The available actions: all of them in ``actions``, unless a style says some of them elsewhere."""
        return self.actions.phrases(scenes.actions)

    def fullest(self, layout: ObservationLayout, dynamic: bool) -> Sequence[Scene]:
        """Scenes of which one is as long in this style as the map allows."""
        return fullest_scenes(layout, dynamic)

    def describe(self, scene: Scene) -> PromptParts:
        """What changes with the agent and the timestep, in words."""
        pieces = Pieces()
        return PromptParts(
            *("".join(pieces.split(pieces.lay(part, rows=1)[0])) for part in self.phrases(scene.columns()))
        )

    def _side(self, units: UnitColumns) -> tuple[Phrase, ...]:
        named = self.unit(units).where(units.named)
        return named, phrase(self.nobody, side=units.side).where(~units.named.any(1))


class Listing(NamedTuple):
    """The available actions: ``begin``, their names with ``between`` them, ``end``; ``spoken`` may shorten a name."""

    begin: str
    between: str
    end: str
    spoken: Callable[[str], str] = str

    def phrases(self, actions: ActionColumns) -> tuple[Phrase, ...]:
        """One phrase of [rows, actions] and one of [rows]."""
        words = tuple(
            lead + self.spoken(name) for name in sum(actions.names, ()) for lead in (self.between, self.begin)
        )
        first = actions.available & (actions.available.cumsum(1) == 1)
        own = np.arange(actions.available.shape[1]) + len(actions.names[0]) * actions.heals[:, None]
        none = ~actions.available.any(1)
        return (
            phrase("{name}", name=Words(words, 2 * own + first)).where(actions.available),
            phrase("{end}", end=choose(none, self.begin + self.end, self.end)),
        )


def build_style(name: str) -> PromptStyle:
    """The style behind ``prompt.style``."""
    if name not in registry.PROMPT_STYLES:
        raise ConfigError(
            f"prompt.style={name} is not a prompt style; set it to one of: {', '.join(registry.PROMPT_STYLES)}."
        )
    return registry.load(registry.PROMPT_STYLES[name])()
