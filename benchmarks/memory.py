"""Measure the peak memory of one epoch, above the memory before it, for plain port and engine in separate processes.

The plain port keeps the graph of all steps for its single backward pass. Its second, frozen model counts as weights.
"""

import ctypes
import gc
import pickle
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine import KL_COEF, Engine, arguments
from benchmarks.plain_port import PlainPort
from benchmarks.setting import Entry, Setting


def compare(setting: Setting, batch: Any) -> list[Entry]:
    """Return the peaks of baseline and engine in bytes. Return no entry if a process dies or cannot measure."""
    batch.to("cpu")
    peaks: list[int] = []
    try:
        for side in ("plain port", "engine"):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                peaks.append(pool.submit(peak, side, setting, pickle.dumps(batch)).result())
    except (BrokenProcessPool, OSError) as reason:  # keep the results of other entries
        print(f"memory skipped: {reason} If memory is short, lower --memory-tokens.")
        return []
    return [Entry("memory", *peaks)]


def peak(side: str, setting: Setting, pickled: bytes) -> int:
    """Return the peak bytes of a side's update above the memory before it."""
    torch.set_num_threads(setting.threads)
    batch = pickle.loads(pickled)
    batch.to(setting.device)
    engine = Engine(arguments(setting, None))
    advantages = engine.advantages(batch)
    if side == "engine":
        engine.play(batch)
        work = partial(engine.update, batch)
    else:
        port = PlainPort(engine.args, engine.mac)
        work = partial(port.update, batch, advantages, KL_COEF, graph_tokens=None)
    gc.collect()
    if setting.device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # return freed memory to the system, so that the update cannot reuse it uncounted
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
