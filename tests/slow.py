"""Marks for tests that take long and rarely fail: ``make test`` leaves them out, ``make test-all`` runs them."""

from collections.abc import Container, Iterable

import pytest


def all_slow_but(quick: Container, values: Iterable) -> list:
    """Return parameters of which those that are not in ``quick`` are slow."""
    return [value if value in quick else _slow(value) for value in values]


def _slow(value):
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
