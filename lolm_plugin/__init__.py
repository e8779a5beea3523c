"""LoLM-MARL: a language model as the policy of every agent, as a plugin of EPyMARL."""

import os

__version__ = "0.2.0"

# OpenMP reads this once, when torch is loaded. Between two products each thread waits in a loop of GOMP_SPINCOUNT
# rounds (300,000 by default, some milliseconds) before it releases its core. While another process wants that core,
# the wait is most of the time: measured updates took 1.4 times as long as with 10,000 beside one busy process, and five
# times as long beside more. Far fewer rounds cost a quiet machine a quarter of its speed (docs/performance.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
