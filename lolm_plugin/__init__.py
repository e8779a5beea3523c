"""LoLM-MARL: a language model as the policy of every agent, as a plugin of EPyMARL."""

import os

__version__ = "0.1.0"

# Read once by OpenMP, when torch is loaded. Between two products each thread waits in a loop for GOMP_SPINCOUNT rounds
# (300,000 by default, some milliseconds) before it lets go of its core. Where another process wants a core, that wait is
# most of the time: with one busy process on two cores, updates took 1.3 times as long as with 10,000, and with more load
# five times as long. Fewer rounds than 10,000 cost a quiet machine a quarter of its speed (docs/performance.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
