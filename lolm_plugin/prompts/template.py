"""Sentences with slots, filled for many rows at once, and the fragments of text that they are made of.

A template is cut behind its slots. A fragment is the text up to a slot and what fills it, such as " at distance 4.50",
and every fragment is made and tokenised once. What follows a slot begins with a space or a sign, as no token may reach
over a cut.
"""

import math
from collections.abc import Iterable
from functools import cache
from string import Formatter
from typing import Any, NamedTuple

import numpy as np

from lolm_plugin.observations.layout import KINDS

MAX_NUMBER = 10_000
_WITH_ARTICLE = tuple(f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}" for kind in KINDS)
_ONE = np.array(1)
Mask = np.ndarray | np.bool_


class Slot(NamedTuple):
    """The fragments that one slot of a template can have, counted from 1; 0 is no text at all.

    With ``words`` they are ``literal`` and one of these; without, ``literal`` and a number of so many ``decimals``:
    0.00, -0.00, 0.01, -0.01 and so on.
    """

    literal: str
    words: tuple[str, ...] = ()
    decimals: int = 0

    def text(self, value: int) -> str:
        """The text that a value stands for."""
        if value == 0:
            return ""
        if self.words:
            return self.literal + self.words[value - 1]
        steps, negative = divmod(value - 1, 2)
        return f"{self.literal}{'-' * negative}{steps / 10**self.decimals:.{self.decimals}f}"


class Sentence:
    """Slots, each with its value int64 [...] for every row (and unit)."""

    __slots__ = ("slots",)

    def __init__(self, slots: Iterable[tuple[Slot, np.ndarray]] = ()) -> None:
        self.slots = tuple(slots)

    def where(self, mask: Mask) -> "Sentence":
        """The sentence in the rows of ``mask`` [...], nothing in the others."""
        return Sentence((slot, value * mask) for slot, value in self.slots)

    def __add__(self, other: "Sentence") -> "Sentence":
        return Sentence((*self.slots, *other.slots))


class Words(NamedTuple):
    """What fills a slot: one of ``options``, by their index ``chosen`` [...]."""

    options: tuple[str, ...]
    chosen: np.ndarray


def choose(mask: Mask, yes: str, no: str) -> Words:
    """``yes`` in the rows of ``mask`` [...], ``no`` in the others."""
    return Words((no, yes), np.asarray(mask, np.int64))


def kinds(kind: np.ndarray, articles: bool = False) -> Words:
    """The words for universe indices [...], with "a" or "an" before them if ``articles``."""
    return Words(_WITH_ARTICLE if articles else KINDS, kind)


def template(text: str, source: Any = None, **slots: Any) -> Sentence:
    """Fill a text that is written as for ``str.format``; slots not given by name are attributes of ``source``.

    A slot takes a number [...], printed to the decimals of its ``:.2f`` as Python does; ``Words``; another sentence; or
    a string, the same in all rows.
    """
    filled: list[tuple[Slot, np.ndarray]] = []
    literal = ""
    for before, name, decimals in _parse(text):
        literal += before
        if name is None:
            continue
        filling = slots[name] if name in slots else getattr(source, name)
        if isinstance(filling, str):
            literal += filling
            continue
        if isinstance(filling, Sentence):
            filled += [*constant(literal).slots, *filling.slots]
        elif isinstance(filling, Words):
            filled.append((Slot(literal, filling.options), 1 + filling.chosen))
        else:
            filled.append((Slot(literal, decimals=decimals), _steps(filling, decimals)))
        literal = ""
    return Sentence((*filled, *constant(literal).slots))


def constant(text: str) -> Sentence:
    """The same text in all rows, as one fragment; braces mean themselves."""
    return Sentence([(Slot(text, ("",)), _ONE)] if text else [])


def if_present(text: str, source: Any = None, **slots: Any) -> Sentence:
    """A template of numbers alone that is left out where one of them is NaN: the environment does not show it."""
    names = [name for _, name, _ in _parse(text) if name is not None]
    numbers = {name: slots[name] if name in slots else getattr(source, name) for name in names}
    present = ~np.isnan(sum(numbers.values()))
    if not present.any():
        return Sentence()
    if present.all():
        return template(text, **numbers)
    return template(text, **{name: np.where(present, number, 0.0) for name, number in numbers.items()}).where(present)


def where(mask: np.ndarray, yes: Sentence, no: Sentence) -> Sentence:
    """``yes`` in the rows of ``mask`` [...], ``no`` in the others."""
    if mask.all():
        return yes
    return yes.where(mask) + no.where(~mask) if mask.any() else no


class FragmentTable:
    """Every fragment that came up, once: ``texts``, of which the first is none, found again by slot and value."""

    def __init__(self) -> None:
        self.texts: list[str] = [""]
        self._by_value: dict[Slot, np.ndarray] = {}  # fragment by value, -1 where it never came up

    def fragments(self, sentence: Sentence, rows: int) -> np.ndarray:
        """A sentence of [rows] or [rows, units] as fragments [rows, width], unit by unit."""
        if not sentence.slots:
            return np.zeros((rows, 0), np.int64)
        found = np.broadcast_arrays(*(self._find(slot, np.asarray(value)) for slot, value in sentence.slots))
        fragments = np.stack(found, -1)
        if fragments.ndim == 1:  # words without any slot: the same in all rows
            return np.broadcast_to(fragments, (rows, len(fragments)))
        return fragments.reshape(rows, math.prod(fragments.shape[1:]))

    def split(self, row: np.ndarray) -> list[str]:
        """The texts of one row of fragments [width], in their order."""
        return [self.texts[fragment] for fragment in row[row > 0].tolist()]

    def without_newline(self, fragments: np.ndarray) -> np.ndarray:
        """The fragments [rows] whose texts are those of ``fragments`` without a newline at the end."""
        texts = [self.texts[fragment].removesuffix("\n") for fragment in fragments.tolist()]
        shorter = {text: int(self.fragments(constant(text), 1).sum()) for text in set(texts)}
        return np.array([shorter[text] for text in texts], np.int64)

    def _find(self, slot: Slot, value: np.ndarray) -> np.ndarray:
        """The fragment of each value [...]."""
        known = self._by_value.get(slot, np.zeros(1, np.int64))
        top = value.max(initial=0)
        if top >= len(known):
            known = np.concatenate([known, np.full(top + 1 - len(known), -1)])
            self._by_value[slot] = known
        fragments = known[value]
        if fragments.min(initial=0) < 0:
            for new in np.unique(value[fragments < 0]).tolist():
                known[new] = len(self.texts)
                self.texts.append(slot.text(new))
            fragments = known[value]
        return fragments


@cache
def _parse(text: str) -> tuple[tuple[str, str | None, int], ...]:
    """(text before the slot, name of the slot or None at the end, decimals) one by one."""
    return tuple((before, name, int(spec[1:-1]) if spec else 0) for before, name, spec, _ in Formatter().parse(text))


def _steps(numbers: np.ndarray, decimals: int) -> np.ndarray:
    """The value (see ``Slot``) of each number [...], rounded exactly as f"{number:.2f}" rounds."""
    sizes, scale = np.abs(numbers), 10**decimals
    assert (sizes < MAX_NUMBER).all(), f"a prompt has no words for a number of {MAX_NUMBER} or more, or for NaN"
    scaled = sizes * scale
    steps = np.rint(scaled)
    half = np.abs(scaled - steps) == 0.5
    if half.any():
        # The product was rounded itself: 0.015 * 100 is 1.5, but 0.015 a little less. What it lost decides.
        lost = _lost(sizes[half], scale)
        steps[half] = np.where(lost == 0, steps[half], np.floor(scaled[half]) + (lost > 0))
    return 1 + 2 * steps.astype(np.int64) + np.signbit(numbers)


def _lost(numbers: np.ndarray, scale: int) -> np.ndarray:
    """``numbers * scale`` minus that product in float64, exactly: products of half a number's digits are exact."""
    high = numbers.astype(np.float32).astype(np.float64)
    return (numbers - high) * scale - (numbers * scale - high * scale)
