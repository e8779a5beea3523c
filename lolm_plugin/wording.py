"""Durations and counts as text."""

import humanize


def duration(seconds: float) -> str:
    """Return a duration as text: ``40 s``, ``12 minutes``, ``3 hours and 24 minutes`` or ``5 days and 3 hours``."""
    smallest = "minutes" if seconds < 2 * 86400 else "hours" if seconds < 60 * 86400 else "days"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return humanize.precisedelta(seconds, minimum_unit=smallest, format="%.0f")


def several(number: int, thing: str, things: str = "") -> str:
    """Return a count with its noun: ``1 enemy`` or ``3 enemies``."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"
