"""The entries by name, in the order in which they are measured. Each function takes a Bench and gives entries."""

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.entry import Entry


def functions() -> dict[str, Callable[[Bench], list[Entry]]]:
    """Imported when asked for: some of these modules load jax or transformers."""
    from benchmarks.entries import env, learner, load, memory, prompts, rollout, smol

    return {
        "memory": memory.measure,  # first: its processes want the memory that the others come to hold
        "prompts": prompts.measure,
        "rollout": rollout.measure,
        "learner_full_lora": learner.measure,
        "learner_cached_trunk": learner.measure,
        "load": load.measure,
        "env": env.measure,
        "smol": smol.measure,
    }


NAMES = ("memory", "prompts", "rollout", "learner_full_lora", "learner_cached_trunk", "load", "env", "smol")
ON_CUDA = ("memory", "rollout", "learner_full_lora", "learner_cached_trunk")
