"""The compact style: one short line per unit, with less than half of the paper style's tokens."""

import re

import numpy as np

from lolm_plugin.prompts.scene import AgentBatch, UnitBatch
from lolm_plugin.prompts.style import Listing, PromptStyle
from lolm_plugin.prompts.template import Sentence, choose, if_present, kinds, template, where

_SHORT_ACTION = {
    "no-op": "none",
    "move north": "north",
    "move south": "south",
    "move east": "east",
    "move west": "west",
}
_SIDE = re.compile(" (enemy|ally) ")  # left out of target actions: attacks are on enemies, heals on allies


class CompactStyle(PromptStyle):
    """Short lines with offsets to one decimal and shares to two decimals."""

    short = True
    instruction = "Battle. Pick one action for your unit.\n"
    goal = "Goal: kill all enemies, weakest first, heal allies if you can, and stay alive.\n"
    actions = Listing("Actions: ", " ", "\n", spoken=lambda name: _SHORT_ACTION.get(name) or _SIDE.sub(" ", name))
    cue = "Best:"

    def me(self, me: AgentBatch) -> Sentence:
        """Return kind, condition, range and weapon cooldown (wait)."""
        reach = if_present(" range {attack_range:.0f}", me)
        wait = if_present(" wait {cooldown:.2f}", me).where(me.cooldown != 0)
        return template("You: {kind}{more}\n", kind=kinds(me.kind), more=_condition(me) + reach + wait)

    def unit(self, unit: UnitBatch) -> Sentence:
        """Return one short line."""
        east, north = _offset(unit.east, "east", "west"), _offset(unit.north, "north", "south")
        here = template(" here").where(_unmoved(unit.east) & _unmoved(unit.north))
        seen = template(
            ": {kind}{condition}{offset}{in_range}\n",
            kind=kinds(unit.kind),
            condition=_condition(unit),
            offset=east + north + here,
            in_range=template(" in range").where(unit.in_range),
        )
        hidden, gone = template(": in range, unknown\n"), template(": unseen\n")
        name = template("{side} {number}", unit)
        return name + where(unit.seen, seen, where(unit.in_range, hidden, gone))


def _offset(cells: np.ndarray, positive: str, negative: str) -> Sentence:
    side = choose(cells > 0, positive, negative)
    return template(" {cells:.1f} {side}", cells=abs(cells), side=side).where(~_unmoved(cells))


def _unmoved(cells: np.ndarray) -> np.ndarray:
    """Return True for offsets that would print as 0.0. They are left out, or "here" if both are."""
    return abs(cells) < 0.05


def _condition(unit: AgentBatch | UnitBatch) -> Sentence:
    return if_present(" hp {health:.2f}", unit) + if_present(" shield {shield:.2f}", unit)
