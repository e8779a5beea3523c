"""Sides that take turns, and the median of each."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


def alternate(sides: Mapping[str, Callable[[], float | None]], repeats: int, device: str = "cpu") -> dict[str, float]:
    """The median seconds of each side over ``repeats`` rounds in which every side runs once.

    A side that returns a number has measured itself, and that number counts.
    """
    return {name: median(times) for name, times in rounds(sides, repeats, device).items()}


def rounds(
    sides: Mapping[str, Callable[[], float | None]], repeats: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Return the seconds of each side in each of the rounds of ``alternate``."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            synchronise(device)
            started = time.perf_counter()
            measured = side()
            synchronise(device)
            elapsed = time.perf_counter() - started
            seconds[name].append(measured if isinstance(measured, float) else elapsed)
    return seconds


def synchronise(device: str) -> None:
    """Wait until a GPU has done what it was told."""
    if device != "cpu":
        torch.cuda.synchronize()
