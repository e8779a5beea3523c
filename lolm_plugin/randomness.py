"""Keyed randomness: every draw is a function of ``(seed, key...)``, so no generator state has to be saved.

For the same key, two runs draw the same numbers, and so does a resumed run.
"""

import zlib

import numpy as np


def _sequence(seed: int, key: tuple[int | str, ...]) -> np.random.SeedSequence:
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else int(part) for part in key]
    return np.random.SeedSequence([len(words), int(seed), *words])  # the length distinguishes (1,) from (1, 0)


def keyed_generator(seed: int, *key: int | str) -> np.random.Generator:
    """Return a new generator for ``key``. Strings name purposes; integers are non-negative counters."""
    return np.random.Generator(np.random.Philox(_sequence(seed, key)))


def keyed_seeds(seed: int, *key: int | str, count: int) -> np.ndarray:
    """Return ``count`` independent 32-bit seeds for ``key``: uint32 ``[count]``."""
    return _sequence(seed, key).generate_state(count, np.uint32)


def environment_seed(seed: int, index: int, restart: int = 0) -> int:
    """Return the seed (31 bits) of the environment in process ``index`` after ``restart`` restarts.

    EPyMARL's ``seed + index`` would give runs with neighbouring seeds mostly the same battles: with four processes,
    seeds 1 and 2 share three environment seeds.
    """
    return int(keyed_seeds(seed, "environment", index, restart, count=1)[0]) // 2


class KeyedDraws:
    """Generators for repeated draws: the n-th draw at ``t_env`` depends on ``(seed, purpose, mode, t_env, n)``.

    ``t_env`` increases with every batch of training episodes, so a resumed run draws the same numbers as an
    uninterrupted one.
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
