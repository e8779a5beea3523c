"""Benchmarks small enough for tests."""

from benchmarks.entries import Bench
from benchmarks.setting import Setting

MODELS = ("tiny-llama", "tiny-gemma3")
# With seed 2 one of the two battles is shorter.
SIZES = {"map": "3m", "episodes": 2, "steps": 5, "learner_steps": 5, "epochs": 1, "layers": 1, "threads": 1, "seed": 2}


def small_bench(model="tiny-llama", **changes):
    """Return a Bench with two battles and a few of their steps."""
    return Bench(Setting(model=model, **{**SIZES, **changes}))
