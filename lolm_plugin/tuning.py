"""What is fastest on this machine: tried once, remembered in the per-user cache, and overridable by a key.

Remembered, because timings waver and a choice that changes between two runs would change their last digits. What is
found while other work takes the cores is not: it would stay wrong after that work is over.
"""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from lolm_plugin import strict_json
from lolm_plugin.paths import cache_dir

FILE = "machine.json"
REPEATS = 7
BUSY = 0.5  # average load a core over the last minute
MARGIN = 1.1  # how much faster another choice than the plain one has to be
# What is multiplied: rows and width of a typical product.
TYPICAL = {"language models": (1024, 768), "small networks": (512, 64)}


def threads(policy: str) -> int:
    """How many CPU threads multiply fastest what a ``policy`` of ``TYPICAL`` multiplies: 1, 2, 4 ... or all cores."""
    return int(_remembered(f"threads for {policy}", lambda: _fastest_threads(*TYPICAL[policy])))


def faster(name: str, plain: Callable[[], Any], other: Callable[[], Any]) -> bool:
    """Whether ``other``, of that ``name``, does the same as ``plain`` clearly faster."""
    return _remembered(f"speedup by {name}", lambda: speedup(plain, other)) > MARGIN


def known() -> dict[str, float]:
    """What has been tried on this machine."""
    return _read().get(_machine(), {})


def forget() -> None:
    """Have everything tried anew on this machine; others may share the cache."""
    machines = _read()
    if machines.pop(_machine(), None):
        _write(machines)


def speedup(plain: Callable[[], Any], other: Callable[[], Any]) -> float:
    """How many times faster ``other`` is: the medians of both, taken in turn."""
    seconds = _in_turn({"plain": plain, "other": other})
    return round(seconds["plain"] / seconds["other"], 2)


def busy() -> bool:
    """Whether other work takes much of the cores, as far as the system tells."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > BUSY * cores()


def cores() -> int:
    """CPU cores that this process may use."""
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
    seconds = _in_turn({count: (lambda count=count: multiply(count)) for count in counts})
    torch.set_num_threads(before)
    best = 1
    for count in counts:  # more threads have to be worth it: they may be wanted for other runs
        if seconds[best] > MARGIN * seconds[count]:
            best = count
    return best


def _in_turn(choices: Mapping[Any, Callable[[], Any]]) -> dict[Any, float]:
    """Median seconds of each, after one call that does not count."""
    taken: dict[Any, list[float]] = {name: [] for name in choices}
    for _ in range(REPEATS + 1):
        for name, call in choices.items():
            started = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - started)
    return {name: median(seconds[1:]) for name, seconds in taken.items()}


def _remembered(what: str, measure: Callable[[], float]) -> float:
    """What was measured on this machine before, else ``measure()``."""
    machines = _read()
    here = machines.setdefault(_machine(), {})
    if what not in here:
        for_now = busy()
        here[what] = measure()
        if not for_now:
            _write(machines)
    return here[what]


def _read() -> dict[str, dict[str, float]]:
    try:
        return dict(json.loads((cache_dir() / FILE).read_text()))
    except (OSError, TypeError, ValueError):  # nothing yet, or not readable: tried again then
        return {}


def _machine() -> str:
    import torch

    return f"{_processor()}, {cores()} cores, torch {torch.__version__}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _write(machines: Mapping[str, Any]) -> None:
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
            file.write(strict_json.dumps(machines, indent=2))
        os.replace(file.name, folder / FILE)
    except OSError:
        pass  # a cache that cannot be written to costs a measurement, not a run
