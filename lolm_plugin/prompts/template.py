"""Templates with slots that are filled for many rows at once, and the text fragments of the filled sentences.

A template is cut after each slot. A fragment is the text up to a slot with the filled slot, such as " at distance
4.50". Each fragment is built and tokenised once. The text after a slot begins with a space or a sign, because no token
may reach over a cut.
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
    """The possible fragments of one slot of a template. Their values count from 1; 0 is no text.

    With ``words``, a fragment is ``literal`` and one of these. Without, it is ``literal`` and a number with
    ``decimals`` decimals. Values count the numbers in the order 0.00, -0.00, 0.01, -0.01 and so on.
    """

    literal: str
    words: tuple[str, ...] = ()
    decimals: int = 0

    def text(self, value: int) -> str:
        """Return the text of a value."""
        if value == 0:
            return ""
        if self.words:
            return self.literal + self.words[value - 1]
        steps, negative = divmod(value - 1, 2)
        return f"{self.literal}{'-' * negative}{steps / 10**self.decimals:.{self.decimals}f}"


class Sentence:
    """A sequence of slots, each with its values int64 [...] for all rows (and units)."""

    __slots__ = ("slots",)

    def __init__(self, slots: Iterable[tuple[Slot, np.ndarray]] = ()) -> None:
        self.slots = tuple(slots)

    def where(self, mask: Mask) -> "Sentence":
        """Return the sentence in the rows where ``mask`` [...] is true, no text in the others."""
        return Sentence((slot, value * mask) for slot, value in self.slots)

    def __add__(self, other: "Sentence") -> "Sentence":
        return Sentence((*self.slots, *other.slots))


class Words(NamedTuple):
    """Filling of a slot: the option with index ``chosen`` [...] in ``options``."""

    options: tuple[str, ...]
    chosen: np.ndarray


def choose(mask: Mask, yes: str, no: str) -> Words:
    """Return the word ``yes`` in the rows where ``mask`` [...] is true, ``no`` in the others."""
    return Words((no, yes), np.asarray(mask, np.int64))


def kinds(kind: np.ndarray, articles: bool = False) -> Words:
    """Return the names of universe indices [...], with "a" or "an" before them if ``articles``."""
    return Words(_WITH_ARTICLE if articles else KINDS, kind)


def template(text: str, source: Any = None, **slots: Any) -> Sentence:
    """Fill the slots of a text that is written as for ``str.format``.

    Args:
        text: the text with slots, such as ``"hp {health:.2f}"``.
        source: an object. Its attributes fill the slots that ``slots`` does not name.
        slots: the filling of each slot by name: a number [...], printed with the decimals of its ``:.2f`` as Python
            does; ``Words``; another sentence; or a string, which is the same in all rows.

    Returns:
        A sentence with the shape of its fillings.

    Raises:
        AssertionError: a number is NaN, or as large as ``MAX_NUMBER``.
        AttributeError: neither ``slots`` nor ``source`` has a slot's name.

    Example::

        hp = template("hp {health:.2f}", health=np.array([0.5, 1.0]))
        table = FragmentTable()
        [table.split(row) for row in table.fragments(hp, rows=2)]  # [["hp 0.50"], ["hp 1.00"]]
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
    """Return the same text in all rows, as one fragment; braces are printed."""
    return Sentence([(Slot(text, ("",)), _ONE)] if text else [])


def if_present(text: str, source: Any = None, **slots: Any) -> Sentence:
    """Fill a template of numbers. Rows with a NaN, which the environment does not show, have no text."""
    names = [name for _, name, _ in _parse(text) if name is not None]
    numbers = {name: slots[name] if name in slots else getattr(source, name) for name in names}
    present = ~np.isnan(sum(numbers.values()))
    if not present.any():
        return Sentence()
    if present.all():
        return template(text, **numbers)
    return template(text, **{name: np.where(present, number, 0.0) for name, number in numbers.items()}).where(present)


def where(mask: np.ndarray, yes: Sentence, no: Sentence) -> Sentence:
    """Return the sentence ``yes`` in the rows where ``mask`` [...] is true, ``no`` in the others."""
    if mask.all():
        return yes
    return yes.where(mask) + no.where(~mask) if mask.any() else no


class FragmentTable:
    """All fragments used so far, each once, by slot and value. ``texts`` has their texts; the first is empty."""

    def __init__(self) -> None:
        self.texts: list[str] = [""]
        self._by_value: dict[Slot, np.ndarray] = {}  # fragment by value, -1 if not used yet

    def fragments(self, sentence: Sentence, rows: int) -> np.ndarray:
        """Return a sentence of [rows] or [rows, units] as fragments [rows, width], unit by unit."""
        if not sentence.slots:
            return np.zeros((rows, 0), np.int64)
        found = np.broadcast_arrays(*(self._find(slot, np.asarray(value)) for slot, value in sentence.slots))
        fragments = np.stack(found, -1)
        if fragments.ndim == 1:  # text without slots: the same in all rows
            return np.broadcast_to(fragments, (rows, len(fragments)))
        return fragments.reshape(rows, math.prod(fragments.shape[1:]))

    def split(self, row: np.ndarray) -> list[str]:
        """Return the texts of one row of fragments [width], in order."""
        return [self.texts[fragment] for fragment in row[row > 0].tolist()]

    def without_newline(self, fragments: np.ndarray) -> np.ndarray:
        """Return the fragments [rows] with the texts of ``fragments`` without a final newline."""
        texts = [self.texts[fragment].removesuffix("\n") for fragment in fragments.tolist()]
        shorter = {text: int(self.fragments(constant(text), 1).sum()) for text in set(texts)}
        return np.array([shorter[text] for text in texts], np.int64)

    def _find(self, slot: Slot, value: np.ndarray) -> np.ndarray:
        """Return the fragment of each value [...]; new fragments are added."""
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
    """Return (text before the slot, name of the slot or None at the end, decimals) of each slot."""
    return tuple((before, name, int(spec[1:-1]) if spec else 0) for before, name, spec, _ in Formatter().parse(text))


def _steps(numbers: np.ndarray, decimals: int) -> np.ndarray:
    """Return the value (see ``Slot``) of each number [...], rounded exactly as f"{number:.2f}" rounds."""
    sizes, scale = np.abs(numbers), 10**decimals
    assert (sizes < MAX_NUMBER).all(), f"a prompt cannot show a number of {MAX_NUMBER} or more, or NaN"
    scaled = sizes * scale
    steps = np.rint(scaled)
    half = np.abs(scaled - steps) == 0.5
    if half.any():
        # The product is rounded too: 0.015 * 100 is 1.5, but the float 0.015 is a little less. The error decides.
        lost = _lost(sizes[half], scale)
        steps[half] = np.where(lost == 0, steps[half], np.floor(scaled[half]) + (lost > 0))
    return 1 + 2 * steps.astype(np.int64) + np.signbit(numbers)


def _lost(numbers: np.ndarray, scale: int) -> np.ndarray:
    """Return the exact ``numbers * scale`` minus the float64 product. Products of half the digits are exact."""
    high = numbers.astype(np.float32).astype(np.float64)
    return (numbers - high) * scale - (numbers * scale - high * scale)
