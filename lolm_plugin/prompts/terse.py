"""The terse style: rounded numbers and no usual values, with less than half of the compact style's tokens."""

import math
from dataclasses import replace
from functools import cache

import numpy as np

from lolm_plugin.observations.battle import BattleLayout
from lolm_plugin.observations.layout import BASE_ACTIONS, KINDS, N_BASE_ACTIONS
from lolm_plugin.observations.units import UNKNOWN
from lolm_plugin.prompts.scene import AgentBatch, SceneBatch, UnitBatch
from lolm_plugin.prompts.style import Listing, PromptStyle
from lolm_plugin.prompts.template import Sentence, Words, if_present, kinds, template, where

# A number word with its space is one token (" three"); a digit with its space is two (" ", "3").
_COUNTS = (
    *("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
    *map(str, range(21, 100)),
)
_TENTHS = (*map(str, range(11)), " unknown")
_UNKNOWN = len(_TENTHS) - 1
_HEADINGS = {
    "ally": (*(f"Ally {kind}:\n" for kind in KINDS), "Allies:\n"),
    "enemy": (*(f"Enemy {kind}:\n" for kind in KINDS), "Enemies:\n"),
}
_MIXED = len(KINDS)  # index of the heading for units of several kinds
FREE = slice(1, N_BASE_ACTIONS)  # actions of a living unit, available unless the prompt blocks them


class TerseStyle(PromptStyle):
    """The facts of the compact style, rounded.

    - Offsets are rounded to whole cells, halves to the even number. An offset of 0 is left out; a unit at 0 in both
      directions is "here".
    - Health, shield and wait (weapon cooldown) are rounded to tenths of the maximum, halves to the even number. A value
      above 0 is at least 1. Full health and full shields (10 tenths) are left out.
    - If all seen units of a side have one kind, the heading names it. Otherwise each line does.
    - A unit that can be attacked (or healed, by a healer) now is "in range". Stop and the four moves are available
      unless "Blocked" lists them. "Also" lists every other available action.
    """

    short = True
    instruction = "Battle in rounded cells and tenths; full hp is unsaid. Stop, move or pick one in range.\n"
    goal = "Goal: kill all enemies, weakest first, heal allies, stay alive.\n"
    actions = Listing("Also: ", ", ", "\n")
    cue = "Best:"

    def me(self, me: AgentBatch) -> Sentence:
        """Return kind, condition, range and weapon cooldown (wait)."""
        wait = _tenths(" wait", me.cooldown).where(me.cooldown > 0)
        reach = if_present(" range{attack_range:.0f}", me)
        return template(
            "You {kind}{condition}{reach}{wait}\n",
            kind=kinds(me.kind),
            condition=_condition(me),
            reach=reach,
            wait=wait,
        )

    def unit(self, unit: UnitBatch) -> Sentence:
        """Return one line; the first one follows a heading."""
        seen = unit.named & unit.seen
        kind = np.where(seen, unit.kind, -1).max(1, initial=-1)[:, None]
        mixed = (seen & (unit.kind != kind)).any(1, keepdims=True) | ~seen.any(1, keepdims=True)
        first = unit.named & (unit.named.cumsum(1) == 1)
        heading = template("{words}", words=Words(_HEADINGS[unit.side], np.where(mixed, _MIXED, kind)))
        east, north = np.rint(unit.east), np.rint(unit.north)
        line = (
            template(" {kind}", kind=kinds(unit.kind)).where(np.broadcast_to(mixed, seen.shape))
            + _condition(unit)
            + _offset(north, "north", "south")
            + _offset(east, "east", "west")
            + template(" here").where((east == 0) & (north == 0))
        )
        return (
            heading.where(first)
            + template("{number}", unit)
            + where(unit.seen, line, template(" unseen"))
            + template(" in range").where(unit.in_range)
            + template("\n")
        )

    def fullest(self, layout: BattleLayout, dynamic: bool) -> SceneBatch:
        """Return scenes with every kind and distance, units of one kind and of two, and all moves blocked."""
        scene = super().fullest(layout, dynamic)
        cells = np.arange(1, 1 + math.ceil(np.max(layout.sight)))
        row, steps, second = (
            grid.flatten() for grid in np.meshgrid(np.arange(len(scene)), cells, [False, True], indexing="ij")
        )
        scene = scene.take(row)
        order = sorted(layout.kinds)
        other = np.array(
            [order[order.index(kind) - second] for kind, second in zip(scene.me.kind, second, strict=True)]
        )

        def units(side: UnitBatch) -> UnitBatch:
            kind = side.kind.copy()
            kind[:, :1] = other[:, None]
            far = np.broadcast_to(steps[:, None], kind.shape)
            unknown = scene.me.kind[:, None] == UNKNOWN
            return replace(side, kind=kind, east=far, north=far, health=np.where(unknown, np.nan, side.health))

        me = replace(scene.me, cooldown=np.where(np.isnan(scene.me.cooldown), np.nan, 1.0))
        available = scene.actions.available.copy()
        available[:, FREE] = False
        actions = replace(scene.actions, available=available)
        return SceneBatch(me, units(scene.allies), units(scene.enemies), actions)

    def choices(self, scene: SceneBatch) -> tuple[Sentence, ...]:
        """Return the blocked and other actions that the lines above do not imply; often none."""
        blocked = ~scene.actions.available[:, FREE]
        words = tuple(f" {name.removeprefix('move ')}" for name in BASE_ACTIONS[FREE])
        rest = replace(scene.actions, available=scene.actions.available & ~_known(scene))
        (named, end), some = self.actions.sentences(rest), rest.available.any(1)
        return (
            template("Blocked:").where(blocked.any(1)),
            template("{name}", name=Words(words, np.arange(len(words))[None])).where(blocked),
            template("\n").where(blocked.any(1)),
            named,
            end.where(some),
        )


def _known(scene: SceneBatch) -> np.ndarray:
    """Return True for actions [rows, actions] that need no "Also": targets in range, stop and moves."""
    actions, rows = scene.actions, np.arange(len(scene))[:, None]
    known = np.zeros(actions.available.shape, bool)
    known[:, FREE] = True
    n_targets = actions.available.shape[1] - N_BASE_ACTIONS
    for meaning, names in enumerate(actions.names):
        units = scene.allies if names[-1].startswith("heal") else scene.enemies
        near = np.zeros((len(rows), 1 + max(n_targets, units.number.max(initial=0))), bool)
        near[rows, units.number] = units.named & units.in_range
        known[:, N_BASE_ACTIONS:] |= near[:, :n_targets] & (actions.meaning == meaning)[:, None]
    return known


def _offset(cells: np.ndarray, positive: str, negative: str) -> Sentence:
    options = _ways(positive, negative)
    steps = np.clip(cells, -(len(_COUNTS) - 1), len(_COUNTS) - 1).astype(np.int64)
    return template("{cells}", cells=Words(options, steps + len(_COUNTS) - 1)).where(steps != 0)


@cache
def _ways(positive: str, negative: str) -> tuple[str, ...]:
    """Return the text of every offset in whole cells, the most negative one first."""
    words = [f" {count} {negative}" for count in reversed(_COUNTS[1:])]
    return (*words, "", *(f" {count} {positive}" for count in _COUNTS[1:]))


def _condition(unit: AgentBatch | UnitBatch) -> Sentence:
    """Return health and shield unless they are full."""
    return _tenths(" hp", unit.health, full_is_said=False, unknown=True) + _tenths(
        " shield", unit.shield, full_is_said=False
    )


def _tenths(name: str, share: np.ndarray, full_is_said: bool = True, unknown: bool = False) -> Sentence:
    shown = ~np.isnan(share)
    share = np.where(shown, share, 0.0)
    tenths = np.clip(np.rint(share * 10), share > 0, 10).astype(np.int64)
    said = (shown | unknown) & (full_is_said | (tenths < 10) | ~shown)
    if not said.any():
        return Sentence()
    return template(
        "{name}", name=Words(tuple(name + text for text in _TENTHS), np.where(shown, tenths, _UNKNOWN))
    ).where(said)
