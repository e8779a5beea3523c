"""Sentences with slots, filled for many rows at once.

A phrase is a row of columns. A column is the words up to a slot together with what fills it, so that it has one text
per value, such as " at distance 4.50". Both text and token ids are found by column and value (``pieces.py``,
``assembly.py``), so that a style is written once. Prompts are cut behind slots: what follows one begins with a space or
a sign, as no token may reach over a cut.
"""

from collections.abc import Iterable
from functools import cache
from string import Formatter
from typing import Any, NamedTuple

import numpy as np

from lolm_plugin.prompts.columns import KINDS

MAX_NUMBER = 10_000
_WITH_ARTICLE = tuple(f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}" for kind in KINDS)


class Column(NamedTuple):
    """The texts that a place in a prompt can have, counted from 1; 0 is no text at all.

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


class Phrase(tuple[tuple[Column, np.ndarray], ...]):
    """Columns and the value int64 [...] of each row (and unit) in them."""

    def where(self, mask: np.ndarray) -> "Phrase":
        """The phrase in the rows of ``mask`` [...], nothing in the others."""
        return Phrase((column, value * mask) for column, value in self)

    def __add__(self, other: "Phrase") -> "Phrase":
        return Phrase((*self, *other))


class Words(NamedTuple):
    """What fills a slot: one of ``options``, by ``index`` [...]."""

    options: tuple[str, ...]
    index: np.ndarray


def choose(mask: np.ndarray, yes: str, no: str) -> Words:
    """``yes`` in the rows of ``mask`` [...], ``no`` in the others."""
    return Words((no, yes), np.asarray(mask, np.int64))


def kinds(kind: np.ndarray, articles: bool = False) -> Words:
    """The words for universe indices [...], with "a" or "an" before them if ``articles``."""
    return Words(_WITH_ARTICLE if articles else KINDS, kind)


def phrase(template: str, source: Any = None, **slots: Any) -> Phrase:
    """Fill a template that is written as for ``str.format``; slots not given by name are attributes of ``source``.

    A slot takes a number [...], printed to the decimals of its ``:.2f`` as Python does; ``Words``; another phrase; or
    a string, the same in all rows.
    """
    columns, literal = [], ""
    for text, name, decimals in _parse(template):
        literal += text
        if name is None:
            continue
        filling = slots[name] if name in slots else getattr(source, name)
        if isinstance(filling, str):
            literal += filling
            continue
        if isinstance(filling, Phrase):
            columns += [*_fixed(literal), *filling]
        elif isinstance(filling, Words):
            columns.append((Column(literal, filling.options), 1 + filling.index))
        else:
            columns.append((Column(literal, decimals=decimals), _steps(filling, decimals)))
        literal = ""
    return Phrase((*columns, *_fixed(literal)))


def optional(template: str, source: Any = None, **slots: Any) -> Phrase:
    """A phrase of numbers alone that is left out where one of them is not told (NaN)."""
    names = [name for _, name, _ in _parse(template) if name is not None]
    numbers = {name: slots[name] if name in slots else getattr(source, name) for name in names}
    told = ~np.isnan(sum(numbers.values()))
    if not told.any():
        return Phrase()
    if told.all():
        return phrase(template, **numbers)
    return phrase(template, **{name: np.where(told, number, 0.0) for name, number in numbers.items()}).where(told)


def either(mask: np.ndarray, yes: Phrase, no: Phrase) -> Phrase:
    """``yes`` in the rows of ``mask`` [...], ``no`` in the others."""
    if mask.all():
        return yes
    return yes.where(mask) + no.where(~mask) if mask.any() else no


def _fixed(literal: str) -> Iterable[tuple[Column, np.ndarray]]:
    return [(Column(literal, ("",)), np.int64(1))] if literal else []


@cache
def _parse(template: str) -> tuple[tuple[str, str | None, int], ...]:
    """(text before the slot, name of the slot or None at the end, decimals) one by one."""
    return tuple((text, name, int(spec[1:-1]) if spec else 0) for text, name, spec, _ in Formatter().parse(template))


def _steps(numbers: np.ndarray, decimals: int) -> np.ndarray:
    """The value (see ``Column``) of each number [...], rounded exactly as f"{number:.2f}" rounds."""
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
