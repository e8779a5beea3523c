"""Less than half of the compact style's tokens: whole cells, tenths, and only what is not the usual case."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from lolm_plugin.observations.layout import BASE_ACTIONS, ObservationLayout
from lolm_plugin.observations.units import UNKNOWN
from lolm_plugin.prompts.columns import KINDS, ActionColumns, SceneColumns, SelfColumns, UnitColumns
from lolm_plugin.prompts.phrases import Phrase, Words, either, kinds, optional, phrase
from lolm_plugin.prompts.scene import Scene, SeenUnit, fullest_scenes
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

    - Offsets are rounded to whole cells, halves to the even number. An offset of 0 is not said; a unit at 0 in both
      directions is "here".
    - Health, shield and wait (weapon cooldown) are rounded to tenths of the maximum, halves to the even number, but
      what is above 0 reads at least 1. Full health and full shields (10 tenths) are not said.
    - If all units of a side that are seen have one kind, the heading says it, else each line.
    - A unit that can be attacked (or healed, by a healer) now is "in range". Stop and the four moves are available
      unless "Blocked" lists them. "Also" lists every other available action.
    """

    short = True
    instruction = "Battle in rounded cells and tenths; full hp is unsaid. Stop, move or pick one in range.\n"
    goal = "Goal: kill all enemies, weakest first, heal allies, stay alive.\n"
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
        return (
            heading.where(first)
            + phrase("{number}", unit)
            + either(unit.seen, line, phrase(" unseen"))
            + phrase(" in range").where(unit.in_range)
            + phrase("\n")
        )

    def fullest(self, layout: ObservationLayout, dynamic: bool) -> list[Scene]:
        """Every kind with every count of cells, of one kind and of two, without a move that is not blocked."""
        cells = range(1, 1 + math.ceil(np.max(layout.sight)))
        kinds = [KINDS[kind] for kind in sorted(layout.kinds)]
        return [
            _fullest(scene, count, other)
            for scene in fullest_scenes(layout, dynamic)
            for count in cells
            for other in {scene.me.kind, kinds[kinds.index(scene.me.kind) - 1]}
        ]

    def choices(self, scenes: SceneColumns) -> tuple[Phrase, ...]:
        """List what the lines above do not say about the available actions; mostly nothing."""
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


def _fullest(scene: Scene, cells: int, other: str) -> Scene:
    """The scene with every unit that many cells away, the first of each side of kind ``other``, and no free choice."""

    def units(side: Sequence[SeenUnit]) -> tuple[SeenUnit, ...]:
        every = [replace(unit, east=float(cells), north=float(cells)) for unit in side]
        if scene.me.kind == KINDS[UNKNOWN]:
            every = [replace(unit, health=None) for unit in every]
        return (*(replace(unit, kind=other) for unit in every[:1]), *every[1:])

    me = replace(scene.me, cooldown=None if scene.me.cooldown is None else 1.0)
    actions = tuple(name for name in scene.actions if name not in _FREE)
    return Scene(me, units(scene.allies), units(scene.enemies), actions)


def _free(actions: ActionColumns) -> np.ndarray:
    """Find which of ``_FREE`` are available: bool [rows, 5]."""
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
