"""Less than half of the compact style's tokens: whole cells, tenths, and only what is not the usual case."""

import re
from dataclasses import replace
from functools import cache

import numpy as np

from lolm_plugin.observations.layout import BASE_ACTIONS
from lolm_plugin.prompts.columns import KINDS, ActionColumns, SceneColumns, SelfColumns, UnitColumns
from lolm_plugin.prompts.phrases import Phrase, Words, choose, either, kinds, optional, phrase
from lolm_plugin.prompts.template import Listing, PromptStyle

# Number words are one token with the space before them, digits two: " three" and " ", "3".
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
_MIXED = len(KINDS)  # the heading of units of several kinds
_FREE = BASE_ACTIONS[1:]  # what a living unit can do unless its prompt says otherwise
_TARGET = re.compile("(?:attack|heal) (ally|enemy) ([0-9]+)")


class TerseStyle(PromptStyle):
    """The facts of the compact style, rounded.

    - Offsets are whole cells, to the nearest. A unit less than half a cell away in both directions is "here".
    - Health, shield and wait (weapon cooldown) are tenths of the maximum, to the nearest, but 0 is said of nothing
      else than 0: what would round to 0 reads 1. Full health and full shields are not said.
    - The kind is in the heading where all units of a side that are seen are of one kind, else in each line.
    - A unit that can be attacked or healed now is "in range". Actions are said only where that and the free choice of
      stop and the four moves is not all: "Blocked" lists which of those cannot be chosen, "Also" what else can.
    """

    short = True
    instruction = "Battle. Stop, move or pick a unit in range. Cells and tenths are rounded; full hp is unsaid.\n"
    goal = "Goal: kill all enemies, heal allies, stay alive.\n"
    actions = Listing("Also: ", ", ", "\n")
    cue = "Best:"

    def me(self, me: SelfColumns) -> Phrase:
        """Kind, condition and range."""
        wait = _tenths(" wait", me.cooldown).where(me.cooldown > 0)
        reach = optional(" range{attack_range:.0f}", me)
        return phrase(
            "You {kind}{condition}{reach}{wait}\n",
            kind=kinds(me.kind),
            condition=_condition(me),
            reach=reach,
            wait=wait,
        )

    def unit(self, unit: UnitColumns) -> Phrase:
        """One line, the first one below a heading."""
        seen = unit.named & unit.seen
        kind = np.where(seen, unit.kind, -1).max(1, initial=-1)[:, None]
        mixed = (seen & (unit.kind != kind)).any(1, keepdims=True) | ~seen.any(1, keepdims=True)
        first = unit.named & (unit.named.cumsum(1) == 1)
        heading = phrase("{words}", words=Words(_HEADINGS[unit.side], np.where(mixed, _MIXED, kind)))
        east, north = np.rint(unit.east), np.rint(unit.north)
        line = (
            phrase(" {kind}", kind=kinds(unit.kind)).where(np.broadcast_to(mixed, seen.shape))
            + _condition(unit)
            + _offset(north, "north", "south")
            + _offset(east, "east", "west")
            + phrase(" here").where((east == 0) & (north == 0))
        )
        in_range = phrase("{words}", words=choose(unit.in_range, " in range", ""))
        return (
            heading.where(first)
            + phrase("{number}", unit)
            + either(unit.seen, line, phrase(" unseen"))
            + in_range.where(unit.in_range)
            + phrase("\n")
        )

    def choices(self, scenes: SceneColumns) -> tuple[Phrase, ...]:
        """What the lines above do not tell about the available actions; mostly nothing."""
        free = _free(scenes.actions)
        words = tuple(f" {name.removeprefix('move ')}" for name in _FREE)
        rest = replace(scenes.actions, available=scenes.actions.available & ~_told(scenes))
        (named, end), some = self.actions.phrases(rest), rest.available.any(1)
        return (
            phrase("Blocked:").where(~free.all(1)),
            phrase("{name}", name=Words(words, np.arange(len(_FREE))[None])).where(~free),
            phrase("\n").where(~free.all(1)),
            named,
            end.where(some),
        )


def _free(actions: ActionColumns) -> np.ndarray:
    """Which of ``_FREE`` are available: bool [rows, 5]."""
    names, rows = actions.names[0], len(actions.available)
    return np.stack(
        [actions.available[:, names.index(name)] if name in names else np.zeros(rows, bool) for name in _FREE], axis=1
    )


def _told(scenes: SceneColumns) -> np.ndarray:
    """Which actions [rows, actions] would be known to be available without being listed."""
    actions, rows = scenes.actions, np.arange(len(scenes))[:, None]
    told = np.zeros(actions.available.shape, bool)
    for heals in (False, True):
        if not (actions.heals == heals).any():
            continue
        which = np.zeros(told.shape, bool)
        which[:, [column for column, name in enumerate(actions.names[heals]) if name in _FREE]] = True
        for units in (scenes.allies, scenes.enemies):
            columns, numbers = _targets(actions.names[heals], units.side)
            marked = np.zeros((len(rows), 1 + max((*numbers, units.number.max(initial=0)))), bool)
            marked[rows, units.number] = units.named & units.in_range
            which[:, columns] = marked[:, numbers]
        told |= which & (actions.heals == heals)[:, None]
    return told


@cache
def _targets(names: tuple[str, ...], side: str) -> tuple[list[int], list[int]]:
    """The columns of the actions about units of a side, and these units' numbers."""
    found = [(column, match) for column, name in enumerate(names) if (match := _TARGET.fullmatch(name))]
    about = [(column, int(match[2])) for column, match in found if match[1] == side]
    return [column for column, _ in about], [number for _, number in about]


def _offset(cells: np.ndarray, positive: str, negative: str) -> Phrase:
    options = _ways(positive, negative)
    steps = np.clip(cells, -(len(_COUNTS) - 1), len(_COUNTS) - 1).astype(np.int64)
    return phrase("{cells}", cells=Words(options, steps + len(_COUNTS) - 1)).where(steps != 0)


@cache
def _ways(positive: str, negative: str) -> tuple[str, ...]:
    """Words for every offset in whole cells, the most negative one first."""
    words = [f" {count} {negative}" for count in reversed(_COUNTS[1:])]
    return (*words, "", *(f" {count} {positive}" for count in _COUNTS[1:]))


def _condition(unit: SelfColumns | UnitColumns) -> Phrase:
    """Health and shield unless they are full."""
    return _tenths(" hp", unit.health, full_is_said=False, unknown=True) + _tenths(
        " shield", unit.shield, full_is_said=False
    )


def _tenths(name: str, share: np.ndarray, full_is_said: bool = True, unknown: bool = False) -> Phrase:
    told = ~np.isnan(share)
    share = np.where(told, share, 0.0)
    tenths = np.clip(np.rint(share * 10), share > 0, 10).astype(np.int64)
    said = (told | unknown) & (full_is_said | (tenths < 10) | ~told)
    if not said.any():
        return Phrase()
    return phrase("{name}", name=Words(tuple(name + text for text in _TENTHS), np.where(told, tenths, _UNKNOWN))).where(
        said
    )
