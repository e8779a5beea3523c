"""Templates with slots, against the output of Python's formatting."""

import numpy as np
import pytest

from lolm_plugin.observations.layout import KINDS
from lolm_plugin.prompts.template import (
    MAX_NUMBER,
    FragmentTable,
    Sentence,
    choose,
    if_present,
    kinds,
    template,
    where,
)

HARD = [0.0, -0.0, 0.125, 0.375, 0.625, 0.875, 2.5, 0.005, 0.015, 0.145, 0.995, 1.005, 1.015, 2.675, 9.995, 9.9949999]
HARD += [0.05, 0.15, 0.25, 0.35, 0.95, 9.95, 99.995, 99.99499, 100.0, 123.456, 9999.0, -0.001, -1e-30, 1e-45, -0.125]


def texts(written, rows):
    """Return the text of each row of a sentence of [rows] or [rows, units]."""
    table = FragmentTable()
    return ["".join(table.split(row)) for row in table.fragments(written, rows)]


def numbers():
    """Return numbers that are easily rounded wrong, and many values of observations."""
    rng = np.random.default_rng(0)
    shares = rng.uniform(-1, 1, 20_000).astype(np.float32).astype(np.float64)
    halves = np.arange(4000) / 200  # most of them not exactly, just above or below
    halves = np.concatenate([halves, np.nextafter(halves, 0), np.nextafter(halves, 99), halves.astype(np.float32)])
    eighths = np.arange(800) / 8  # exact, so that there are real ties
    return np.concatenate([HARD, shares, shares * 9, shares * 10, shares * 11, halves, halves * 10, eighths])


@pytest.mark.parametrize("decimals", [0, 1, 2])
def test_numbers_are_rounded_as_python_rounds(decimals):
    values = numbers()
    text = f"at {{value:.{decimals}f}}."
    assert texts(template(text, value=values), len(values)) == [text.format(value=v) for v in values.tolist()]


def test_float32_numbers_are_printed_as_their_float64_values():
    values = np.arange(0, 4000, dtype=np.float32) / np.float32(200)
    assert texts(template("{value:.2f}", value=values), len(values)) == [f"{value:.2f}" for value in values.tolist()]


@pytest.mark.parametrize("value", [np.nan, np.inf, -MAX_NUMBER])
def test_a_number_that_cannot_be_printed_is_an_error(value):
    with pytest.raises(AssertionError, match=str(MAX_NUMBER)):
        template("{value:.2f}", value=np.array([0.5, value]))


def test_integers_are_printed_whole():
    assert texts(template("ally {number}", number=np.array([0, 7, 12])), 3) == ["ally 0", "ally 7", "ally 12"]


def test_slots_are_filled_by_name_from_the_source_or_with_strings_and_sentences():
    class Source:
        number = np.array([1, 2])
        health = np.array([0.5, 1.0])

    inner = template(", health {health:.1f}", Source)
    written = template("{side} {number} seen{condition} {way}.", Source, side="Ally", condition=inner, way=words())
    assert texts(written, 2) == ["Ally 1 seen, health 0.5 east.", "Ally 2 seen, health 1.0 west."]


def words():
    return choose(np.array([True, False]), "east", "west")


def test_units_are_written_one_after_the_other():
    number = np.array([[1, 2], [3, 4], [5, 6]])
    written = template("{number} {way}, ", number=number, way=choose(number > 3, "high", "low"))
    assert texts(written, 3) == ["1 low, 2 low, ", "3 low, 4 high, ", "5 high, 6 high, "]
    assert texts(written.where(number != 3), 3)[1] == "4 high, "


def test_a_sentence_without_slots_is_in_every_row():
    assert texts(template("Best:"), 3) == ["Best:"] * 3
    assert texts(template("Best:"), 0) == []
    assert texts(template("Best:").where(np.array([True, False])), 2) == ["Best:", ""]
    assert texts(Sentence(), 2) == ["", ""]


@pytest.mark.parametrize("mask", [[True, False], [True, True], [False, False]])
def test_one_sentence_or_the_other(mask):
    written = where(np.array(mask), template("seen {way}", way=words()), template("gone"))
    assert texts(written, 2) == [
        seen if m else "gone" for m, seen in zip(mask, ("seen east", "seen west"), strict=True)
    ]


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([0.5, 0.25], [1.0, 0.75], ["x 0.50 y 1.00", "x 0.25 y 0.75"]),
        ([0.5, np.nan], [1.0, 0.75], ["x 0.50 y 1.00", ""]),
        ([0.5, np.nan], [np.nan, 0.75], ["", ""]),
    ],
)
def test_numbers_that_are_nan_are_left_out(x, y, expected):
    assert texts(if_present("x {x:.2f} y {y:.2f}", x=np.array(x), y=np.array(y)), 2) == expected


def test_kinds_have_their_words_and_articles():
    every = np.arange(len(KINDS))
    assert texts(template("{kind}", kind=kinds(every)), len(KINDS)) == list(KINDS)
    with_articles = texts(template("{kind}", kind=kinds(every, articles=True)), len(KINDS))
    assert with_articles[0] == "a marine"
    assert with_articles[-1] == "an unknown unit"


def test_fragments_are_reused():
    table = FragmentTable()
    first = table.fragments(template("at {value:.2f}.", value=np.array([0.5, 0.25, 0.5])), 3)
    known = list(table.texts)
    again = table.fragments(template("at {value:.2f}.", value=np.array([0.25, 0.5, 0.75])), 3)
    assert (first[0] == first[2]).all()
    assert sorted(known) == ["", ".", "at 0.25", "at 0.50"]
    assert (again[:2] == first[[1, 0]]).all()
    assert table.texts == [*known, "at 0.75"]
