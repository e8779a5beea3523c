"""What happens when a batch does not fit into the GPU's memory: it is evaluated in smaller microbatches."""

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from lolm_plugin.errors import ConfigError

Result = TypeVar("Result")


class UsesMemory(Protocol):
    """Something that evaluates microbatches, such as a controller."""

    MEMORY_KEYS: str  # the keys to lower when the smallest microbatch does not fit

    def use_less_memory(self) -> str | None:
        """Halve the microbatch; returns the new setting for the log, None if it cannot be smaller."""


def retry_on_oom(work: Callable[[], Result], policy: UsesMemory) -> Result:
    """Run ``work``. On CUDA OOM the microbatch of ``policy`` is halved and ``work`` is retried.

    ``work`` must be safe to rerun; results do not depend on the microbatch.

    Raises:
        ConfigError: the smallest microbatch does not fit.
    """
    while True:
        try:
            return work()
        except torch.OutOfMemoryError as error:
            if (smaller := policy.use_less_memory()) is None:
                raise ConfigError(
                    f"The memory does not hold the smallest part of a batch ({str(error).splitlines()[0]}); set "
                    f"{policy.MEMORY_KEYS}, or batch_size_run to less; `lolm doctor --config=... "
                    "--env-config=...` says what a run needs."
                ) from error
        # Outside the handler nothing refers to what the failed attempt has allocated.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logging.getLogger("lolm").warning("Out of memory: continuing with %s, which changes no result.", smaller)
