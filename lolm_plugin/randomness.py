"""Keyed randomness: every draw is a function of ``(seed, key...)``, so no generator state is kept.

Two runs, or a run and its resumed half, draw the same numbers whenever they ask for the same key.
"""

import zlib

import numpy as np


def _sequence(seed: int, key: tuple[int | str, ...]) -> np.random.SeedSequence:
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else int(part) for part in key]
    return np.random.SeedSequence([len(words), int(seed), *words])  # else a trailing 0 would be no key


def keyed_generator(seed: int, *key: int | str) -> np.random.Generator:
    """A fresh generator for ``key``; strings name purposes, integers are non-negative counters."""
    return np.random.Generator(np.random.Philox(_sequence(seed, key)))


def keyed_seeds(seed: int, *key: int | str, count: int) -> np.ndarray:
    """``count`` independent 32-bit seeds for ``key``: uint32 ``[count]``."""
    return _sequence(seed, key).generate_state(count, np.uint32)
