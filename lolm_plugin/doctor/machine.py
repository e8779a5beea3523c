"""What this machine has for a run: free memory, and how fast it multiplies matrices."""

import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lolm_plugin import tuning

if TYPE_CHECKING:
    import torch

SECONDS = 0.5  # how long multiplying is tried
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


class Room(NamedTuple):
    """Bytes of memory: what is free now, and all there is."""

    free: float
    total: float


def room(device: str) -> Room | None:
    """The memory of the GPU, or main memory; None where the system does not tell."""
    if device == "cuda":
        import torch

        return Room(*torch.cuda.mem_get_info())
    return main_memory()


def main_memory(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> Room | None:
    """Main memory, or the part of it that a container may use."""
    try:
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        return _physical()
    try:
        limit, used = (int((cgroup / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no container, or one without a limit, which says "max"
        return Room(free, total)
    return Room(min(free, max(0, limit - used)), min(total, limit))


def libraries(product: str, dtype: "torch.dtype", device: str) -> tuple[str, ...]:
    """What ``llm.product`` lets a run multiply by: names of ``llm.matmul.BACKENDS``."""
    import torch

    if device != "cpu" or dtype != torch.float32:
        return ("torch",)
    return ("torch", "onednn") if product == "auto" else (product,)


def takes_onednn(product: str, dtype: "torch.dtype", device: str) -> bool:
    """Whether a run multiplies by oneDNN, or might, where that has not been tried on this machine."""
    choice = libraries(product, dtype, device)
    tried = tuning.known().get("speedup by onednn", math.inf)
    return "onednn" in choice and (len(choice) == 1 or tried > tuning.MARGIN)


def product_rate(shape: tuple[int, int, int], dtype: "torch.dtype", device: str, product: str, threads: int) -> float:
    """Floating-point operations a second of a matrix product, measured now for about half a second.

    ``shape`` is (rows, inputs, outputs): x [rows, inputs] times a weight [outputs, inputs], by the faster of the
    libraries that ``llm.product`` allows. Nothing is remembered.
    """
    import torch

    from lolm_plugin.llm.matmul import BACKENDS

    rows, inputs, outputs = shape
    x = torch.randn(rows, inputs, device=device).to(dtype)
    weight = torch.randn(outputs, inputs, device=device).to(dtype)
    choice = libraries(product, dtype, device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            products = max(
                _times_a_second(partial(BACKENDS[name], x, weight, None), device, SECONDS / len(choice))
                for name in choice
            )
    finally:
        torch.set_num_threads(before)
    return products * 2 * rows * inputs * outputs


def threads(wanted: int | None, policy: str) -> int:
    """CPU threads that a run of ``policy`` (see ``tuning.TYPICAL``) would take; all cores where none were tried."""
    return wanted or int(tuning.known().get(f"threads for {policy}", tuning.cores()))


def _times_a_second(call: Callable[[], object], device: str, seconds: float) -> float:
    """How often a second ``call`` ends; 0 for one that this PyTorch does not have."""
    import torch

    def run() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    try:
        run()  # the first call sets up
    except (AttributeError, RuntimeError):
        return 0.0
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds or not count:
        run()
        count += 1
    return count / elapsed


def _physical() -> Room | None:
    """Where there is no /proc; what of it is free is not told, so all of it is taken for free."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    return Room(total, total)
