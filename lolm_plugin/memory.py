"""Retries after CUDA out-of-memory errors, with smaller microbatches."""

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from lolm_plugin.errors import ConfigError

Result = TypeVar("Result")


# Messages of PyTorch's errors when memory runs out. cuBLAS, cuDNN and the CPU's allocator raise plain RuntimeErrors.
OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "not enough memory")


class UsesMemory(Protocol):
    """An object that evaluates microbatches, such as a controller."""

    MEMORY_KEYS: str  # what to set if even the smallest microbatch does not fit, for the error

    def use_less_memory(self) -> str | None:
        """Halve a cache or the microbatch. Return the new setting for the log, or None if it cannot be smaller."""


def is_out_of_memory(error: Exception) -> bool:
    """Return True if memory ran out, on a GPU or for the CPU's tensors."""
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error) for message in OUT_OF_MEMORY)


def retry_on_oom(work: Callable[[], Result], policy: UsesMemory) -> Result:
    """Run ``work``. If memory runs out, ``policy`` halves a cache or its microbatch, and ``work`` is retried.

    ``work`` must be safe to rerun. Results do not depend on the microbatch.

    Raises:
        ConfigError: the smallest microbatch does not fit.
    """
    while True:
        try:
            return work()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if (smaller := policy.use_less_memory()) is None:
                raise ConfigError(
                    f"Even the smallest microbatch does not fit into memory ({str(error).splitlines()[0]}); set "
                    f"{policy.MEMORY_KEYS}, or a smaller batch_size_run; `lolm doctor --config=... "
                    "--env-config=...` shows what a run needs."
                ) from error
        # Outside the handler: the exception no longer references tensors of the failed attempt.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logging.getLogger("lolm").warning("Out of memory: continuing with %s, which changes no result.", smaller)
