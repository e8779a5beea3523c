"""Measure how many CPU threads are fastest on this machine, and cache the result per user; see ``torch_threads``.

The result is cached because timings vary, and runs with different settings differ in their last digits. Timings taken
while other processes use the cores are not cached: they would be wrong later.
"""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

from lolm_plugin import strict_json
from lolm_plugin.paths import cache_dir

FILE = "machine.json"
REPEATS = 7
BUSY = 0.5  # average load per core over the last minute
THREADS = "threads for "  # begins the name of a measurement
MARGIN = 1.1  # required speedup of more threads
# Rows and width of a typical matrix product.
TYPICAL = {"language models": (1024, 768), "small networks": (512, 64)}


def threads(policy: str) -> int:
    """Return the fastest number of CPU threads (of 1, 2, 4, ... and all cores) for a ``policy`` of TYPICAL."""
    return _remembered(f"{THREADS}{policy}", lambda: _fastest_threads(*TYPICAL[policy]))


def known() -> dict[str, int]:
    """Return the cached measurements of this machine. An older version may have stored others."""
    return {what: found for what, found in _read().get(_machine(), {}).items() if what.startswith(THREADS)}


def forget() -> None:
    """Delete the cached measurements of this machine, but not those of others that share the cache."""
    machines = _read()
    if machines.pop(_machine(), None):
        _write(machines)


def busy() -> bool:
    """Return True if the load average shows that other processes use the cores."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > BUSY * cores()


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fastest_threads(rows: int, width: int) -> int:
    import torch

    before = torch.get_num_threads()
    x, weight = torch.ones(rows, width), torch.ones(width, width)

    def multiply(count: int) -> None:
        torch.set_num_threads(count)
        for _ in range(5):
            torch.nn.functional.linear(x, weight).relu_()

    counts = sorted({*(2**power for power in range(cores().bit_length()) if 2**power <= cores()), cores()})
    seconds = _median_seconds({count: partial(multiply, count) for count in counts})
    torch.set_num_threads(before)
    best = 1
    for count in counts:  # other runs may need the remaining cores
        if seconds[best] > MARGIN * seconds[count]:
            best = count
    return best


def _median_seconds(choices: Mapping[int, Callable[[], Any]]) -> dict[int, float]:
    """Time all choices in turn, after one warm-up call of each; return their median seconds."""
    taken: dict[int, list[float]] = {name: [] for name in choices}
    for _ in range(REPEATS + 1):
        for name, call in choices.items():
            started = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - started)
    return {name: median(seconds[1:]) for name, seconds in taken.items()}


def _remembered(what: str, measure: Callable[[], int]) -> int:
    """Return the cached measurement of this machine, or else ``measure()``."""
    machines = _read()
    here = machines.setdefault(_machine(), {})
    if what not in here:
        is_reliable = not busy()  # before measuring, which uses the cores too
        here[what] = measure()
        if is_reliable:
            _write(machines)
    return here[what]


def _read() -> dict[str, dict[str, int]]:
    try:
        return dict(json.loads((cache_dir() / FILE).read_text()))
    except (OSError, TypeError, ValueError):  # missing or unreadable: measure again
        return {}


def _machine() -> str:
    """Return processor, cores and PyTorch version, on which the measurements depend."""
    import torch

    try:
        with open("/proc/cpuinfo") as lines:
            processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return f"{processor}, {cores()} cores, torch {torch.__version__}"


def _write(machines: Mapping[str, Any]) -> None:
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
            file.write(strict_json.dumps(machines, indent=2))
        os.replace(file.name, folder / FILE)
    except OSError:
        pass  # without a cache the next run measures again
