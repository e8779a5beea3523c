"""Keyed randomness: every draw is a function of ``(seed, key...)``, so that no generator state has to be saved.

Two runs, or a run and its resumed half, draw the same numbers for the same key.
"""

import zlib

import numpy as np


def _sequence(seed: int, key: tuple[int | str, ...]) -> np.random.SeedSequence:
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else int(part) for part in key]
    return np.random.SeedSequence([len(words), int(seed), *words])  # the length tells (1,) from (1, 0)


def keyed_generator(seed: int, *key: int | str) -> np.random.Generator:
    """Return a new generator for ``key``; strings name purposes, integers are non-negative counters."""
    return np.random.Generator(np.random.Philox(_sequence(seed, key)))


def keyed_seeds(seed: int, *key: int | str, count: int) -> np.ndarray:
    """Return ``count`` independent 32-bit seeds for ``key``: uint32 ``[count]``."""
    return _sequence(seed, key).generate_state(count, np.uint32)


def environment_seed(seed: int, index: int, restart: int = 0) -> int:
    """Return a seed (31 bits) for an environment with its own generator: process ``index`` after ``restart`` restarts.

    EPyMARL's ``seed + index`` gives runs with neighbouring seeds nearly the same battles: with four processes, seeds 1
    and 2 share three.
    """
    return int(keyed_seeds(seed, "environment", index, restart, count=1)[0]) // 2


class KeyedDraws:
    """Draw the n-th numbers for ``purpose`` at an environment step from ``(seed, purpose, mode, t_env, n)``.

    ``t_env`` rises after every batch of training episodes, so that a resumed run draws the numbers of an uninterrupted
    one.
    """

    def __init__(self, seed: int, purpose: str) -> None:
        self.seed = seed
        self.purpose = purpose
        self._drawn: dict[str, tuple[int, int]] = {}  # mode -> (t_env, draws so far)

    def generator(self, mode: str, t_env: int) -> np.random.Generator:
        """Return a new generator for the next draw."""
        at, draws = self._drawn.get(mode, (t_env, 0))
        draws = draws if at == t_env else 0
        self._drawn[mode] = (t_env, draws + 1)
        return keyed_generator(self.seed, self.purpose, mode, t_env, draws)
