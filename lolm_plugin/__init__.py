"""LoLM-MARL, a plugin of EPyMARL: one language model is the policy of all agents."""

import os
import sys

__version__ = "0.2.0"

# OpenMP reads this once, when torch is loaded. Between two matrix products each thread spins for GOMP_SPINCOUNT rounds
# before it releases its core. If another process needs that core, the default (300,000 rounds, some milliseconds) is
# slow: updates took 1.4 times as long as with 10,000 next to one busy process, and five times as long next to more.
# With far fewer rounds, updates on an idle machine lose a quarter of their speed (docs/performance.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# PyTorch reads this when it first allocates memory of a GPU. Each pack has its own shapes, which would leave gaps of
# reserved memory that no later pack fits into; expandable segments grow instead.
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
if sys.platform == "linux" and not any(name in os.environ for name in ALLOCATOR):
    os.environ[ALLOCATOR[0]] = "expandable_segments:True"
