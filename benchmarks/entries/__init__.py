"""The entries by name, in the order in which they are measured. Each function takes a Bench and gives entries."""

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.entry import Entry


def functions() -> dict[str, Callable[[Bench], list[Entry]]]:
    """Imported when asked for: some of these modules load jax or transformers."""
    from benchmarks.entries import env, learner, load, memory, prompts, rollout

    return {
        "prompts": prompts.measure,
        "rollout": rollout.measure,
        "learner_full_lora": learner.measure,
        "learner_cached_trunk": learner.measure,
        "memory": memory.measure,
        "load": load.measure,
        "env": env.measure,
    }


NAMES = ("prompts", "rollout", "learner_full_lora", "learner_cached_trunk", "memory", "load", "env")
ON_CUDA = ("rollout", "learner_full_lora", "learner_cached_trunk", "memory")
