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


def environment_seed(seed: int, index: int, restart: int = 0) -> int:
    """Seed (31 bits) of an environment with a generator of its own: process ``index`` after ``restart`` restarts.

    EPyMARL's ``seed + index`` gives runs with neighbouring seeds nearly the same battles: with four processes, seeds 1
    and 2 share three.
    """
    return int(keyed_seeds(seed, "environment", index, restart, count=1)[0]) // 2


class KeyedDraws:
    """The n-th draw for ``purpose`` at a value of ``t_env`` comes from ``(seed, purpose, mode, t_env, n)``.

    ``t_env`` moves on after every batch of training episodes, so a resumed run draws what the uninterrupted one
    would have drawn.
    """

    def __init__(self, seed: int, purpose: str) -> None:
        self.seed = seed
        self.purpose = purpose
        self._drawn: dict[str, tuple[int, int]] = {}  # mode -> (t_env, draws so far)

    def generator(self, mode: str, t_env: int) -> np.random.Generator:
        """A fresh generator for the next draw."""
        at, draws = self._drawn.get(mode, (t_env, 0))
        draws = draws if at == t_env else 0
        self._drawn[mode] = (t_env, draws + 1)
        return keyed_generator(self.seed, self.purpose, mode, t_env, draws)
