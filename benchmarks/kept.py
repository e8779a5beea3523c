"""Measure the time that ``keep_battles`` adds to a test: the same test with and without, in turns."""

import logging
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import battles
from benchmarks.setting import Entry, Setting, alternate
from lolm_plugin.run.testing import play_tests
from lolm_plugin.watch.keeper import BEST, FOLDER, Keeper

BATTLES, KEPT = 32, 2  # of a test; EPyMARL's test_nepisode and the default of keep_battles


def measure(setting: Setting, name: str, algorithm: str) -> Entry:
    """Time tests of an algorithm on whole battles. The engine's side also records and writes two battles.

    The seconds are CPU time of this process, so that other work on the machine does not count.
    """
    changes: dict[str, Any] = {"test_nepisode": BATTLES, "layout": {"probes": False}}
    if algorithm == "lolm_mappo_smol":
        changes["llm"] = {"model": setting.model} | ({"num_layers": setting.num_layers} if setting.num_layers else {})
    parts = battles.components(algorithm, setting.map, BATTLES, setting.seed, changes)
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(parts.args, parts.learner, KEPT, Path(folder), logging.getLogger(__name__), reference=False)

        def test(kept: Keeper | None) -> float:
            parts.keeper = kept
            started = time.process_time()
            play_tests(parts)
            if kept:
                kept.save([], 0)
            return time.process_time() - started

        sides = {"baseline": lambda: test(None), "engine": lambda: test(keeper)}
        alternate(sides, 1)  # warm-up: jax compiles, the head measures its features
        seconds = alternate(sides, setting.repeats)
        assert Path(folder, FOLDER, BEST).is_file(), "the battles were not kept"
    parts.close()
    return Entry(name, **seconds)
