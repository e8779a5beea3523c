"""Battles put into words by a hand-written style."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from lolm_plugin.observations.layout import ObservationLayout
from lolm_plugin.prompts.columns import SceneColumns, look
from lolm_plugin.prompts.samples import varied_views
from lolm_plugin.prompts.template import PromptParts, PromptStyle
from lolm_plugin.prompts.writer import Writer, Written


class BattleWriter(Writer):
    """``dynamic`` names only living, visible units."""

    def __init__(self, layout: ObservationLayout, style: PromptStyle, dynamic: bool) -> None:
        self.layout: ObservationLayout = layout
        self.style = style
        self.dynamic = dynamic
        self.beginning = style.instruction + style.goal
        self.cue = style.cue

    def write(self, obs: Tensor, available: Tensor, agent: Tensor) -> Written:
        """One part for each of the style's."""
        scenes = look(self.layout, obs, available, agent, self.dynamic)
        parts = dict(zip(PromptParts._fields, self.style.phrases(scenes), strict=True))
        return Written(parts, ("allies", "enemies"), self._targets(scenes))

    def varied(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Units of every kind, seen or not."""
        return varied_views(self.layout, rows)

    def fullest(self) -> list[str]:
        """All units of one kind are there, and every action is available."""
        return [self.style.describe(scene).text for scene in self.style.fullest(self.layout, self.dynamic)]

    def names(self, agent: int) -> Mapping[int, str]:
        """As the layout has them."""
        return self.layout.names(agent)

    def _targets(self, scenes: SceneColumns) -> np.ndarray:
        """Target i is enemy i, and of a healer ally i, whose row is one less where it comes after the observer."""
        n_allies, targets = self.layout.n_agents - 1, np.arange(self.layout.n_targets)
        enemy = np.where(targets < self.layout.n_enemies, n_allies + targets, -1)
        me = scenes.me.number[:, None]
        ally = np.where((targets == me) | (targets > n_allies), -1, targets - (targets > me))
        return np.where(scenes.actions.heals[:, None], ally, enemy)
