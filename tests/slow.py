"""Marks for slow tests that rarely fail: ``make test`` skips them, ``make test-all`` runs them."""

from collections.abc import Container, Iterable

import pytest


def all_slow_but(quick: Container, values: Iterable) -> list:
    """Return parameters with the mark ``slow`` on each value that is not in ``quick``."""
    return [value if value in quick else _slow(value) for value in values]


def _slow(value):
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
