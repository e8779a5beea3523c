"""A GPU's memory: the microbatch that fits, measured, and retries after out-of-memory errors with smaller ones."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
from torch import nn

from lolm_plugin.errors import ConfigError

Result = TypeVar("Result")
Part = Literal["policy", "critic"]

# Share of the free memory to plan with. Larger: fragmentation and the critic cause out-of-memory errors, each of which
# wastes the work so far. Smaller: smaller microbatches, which are slower.
PLANNED_SHARE = 0.8
# Share of it that the frozen layers' states may take. Without this bound their default of 4 GB would leave a small GPU
# no memory for microbatches.
CACHE_SHARE = 0.5
# Bounds of a measured token budget. More tokens at once are not faster. Rounding makes the budget depend less on what
# else runs on the GPU at the start.
MOST_TOKENS, ROUND = 32768, 256

# Messages of PyTorch's errors when memory runs out. cuBLAS, cuDNN and the CPU's allocator raise plain RuntimeErrors.
OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "not enough memory")


class UsesMemory(Protocol):
    """An object that evaluates microbatches, such as a controller."""

    MEMORY_KEYS: str  # what to set if even the smallest microbatch does not fit, for the error

    def use_less_memory(self, part: Part = "policy") -> str | None:
        """Halve a cache, or the microbatch of the part that ran out of memory.

        Returns:
            The new setting for the log, or None if it cannot be smaller.
        """


def is_out_of_memory(error: Exception) -> bool:
    """Return True if memory ran out, on a GPU or for the CPU's tensors."""
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error) for message in OUT_OF_MEMORY)


def retry_on_oom(work: Callable[[], Result], policy: UsesMemory, part: Part = "policy") -> Result:
    """Run ``work``. If memory runs out, ``policy`` halves a cache or the microbatch, and ``work`` is retried.

    ``work`` evaluates ``part`` and must be safe to rerun. Results do not depend on the microbatch.

    Raises:
        ConfigError: the smallest microbatch does not fit.
    """
    while True:
        try:
            return work()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if (smaller := policy.use_less_memory(part)) is None:
                raise ConfigError(
                    f"Even the smallest microbatch does not fit into memory ({str(error).splitlines()[0]}); set "
                    f"{policy.MEMORY_KEYS}, or a smaller batch_size_run; `lolm doctor --config=... "
                    "--env-config=...` shows what a run needs."
                ) from error
        # Outside the handler: the exception no longer references tensors of the failed attempt.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logging.getLogger("lolm").warning("Out of memory: continuing with %s, which changes no result.", smaller)


def step_optimiser(optimiser: torch.optim.Adam, policy: UsesMemory, part: Part = "policy") -> None:
    """Make an optimiser step. The first one allocates Adam's moments; if memory runs out there, it is retried.

    Raises:
        ConfigError: as ``retry_on_oom``.
    """

    def step() -> None:
        try:
            optimiser.step()
        except RuntimeError:
            # A parameter with a part of its moments would count as initialised.
            for state in optimiser.state.values():
                if "exp_avg_sq" not in state:
                    state.clear()
            raise

    retry_on_oom(step, policy, part)


@dataclass(frozen=True)
class MemoryPlan:
    """Division of a GPU's free memory, in bytes, between microbatches and what stays allocated.

    Attributes:
        free: free memory, with the weights already loaded.
        training: gradients and Adam's two moments, which are allocated in the first update.
        cache: limit of the frozen layers' stored states.
        per_token: peak of a forward and backward pass for each token of a microbatch.
    """

    free: int
    training: int
    cache: int
    per_token: float

    @property
    def token_budget(self) -> int:
        """Number of tokens of a microbatch that fits, a multiple of ``ROUND`` unless it is smaller."""
        tokens = int((PLANNED_SHARE * self.free - self.training - self.cache) / self.per_token)
        return max(1, min(MOST_TOKENS, tokens - tokens % ROUND if tokens >= ROUND else tokens))


def plan_memory(
    trained: Iterable[nn.Parameter], cache: float, run: Callable[[int], None], tokens: tuple[int, int]
) -> MemoryPlan:
    """Measure how much memory a token needs on the GPU, and plan with the memory that is free now.

    Args:
        trained: the parameters that get gradients and moments.
        cache: largest size of the frozen layers' stored states in bytes; 0 without frozen layers.
        run: a forward and backward pass over a number of tokens, which keeps nothing afterwards.
        tokens: a smaller and a larger number of tokens. The difference of their peaks excludes workspaces.
    """
    training = sum(3 * parameter.numel() * parameter.element_size() for parameter in trained)
    run(tokens[0])  # libraries allocate their workspaces in the first pass
    peaks = []
    for count in tokens:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(count)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    per_token = (peaks[1] - peaks[0]) / (tokens[1] - tokens[0])
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    return MemoryPlan(free, training, min(int(cache), int(CACHE_SHARE * free)), max(per_token, 1.0))
