"""Settings and results of a benchmark, and the timer that lets its sides take turns."""

import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

COLUMNS = "{:<30}{:>14}{:>14}{:>10}{:>14}{:>18}".format
HEADER = COLUMNS("entry", "baseline", "engine", "ratio", "max abs diff", "of the GEMM rate")


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Setting:
    """The settings that determine the results. A field with a help text is an option of the command."""

    model: str = _option("smollm2-135m", "name or folder, as for llm.model")
    num_layers: int | None = _option(None, "keep only the first N layers; default all, or the yaml's 4 in smol")
    map: str = _option("3s5z_vs_3s6z", "a SMAX battle; env always plays 3m")
    style: str = _option("paper", "prompt.style")
    episodes: int = _option(8, "battles played at once")
    steps: int = _option(2, "steps of the battles, evenly spaced, for prompts and rollout")
    learner_steps: int = _option(1, "the same for learner_*")
    epochs: int = _option(4, "epochs of an update")
    layers: int = _option(8, "top layers with LoRA in learner_cached_trunk; at most half of the model's")
    repeats: int = _option(1, "rounds; the result is their median; at least 3 for prompts")
    baseline_tokens: int = _option(4096, "padded tokens of the plain port for each backward pass")
    memory_tokens: int = _option(4096, "padded tokens of the batch of memory; the plain port keeps their whole graph")
    env_seconds: int = _option(20, "duration of each measurement of env")
    threads: int = _option(torch.get_num_threads(), "threads of torch")
    seed: int = _option(1, "seed of battles and adapter")
    updates: tuple[str, ...] = ()  # KEY=VALUE for smol, which override lolm_mappo_smol
    pretrained: bool = True
    dtype: str = "float32"
    device: str = "cpu"


@dataclass(frozen=True)
class Entry:
    """One entry of the result. ``baseline`` and ``engine`` are seconds; in memory they are bytes."""

    name: str
    baseline: float | None
    engine: float
    max_abs_diff: float | None = None
    gemm_fraction: float | None = None

    @property
    def ratio(self) -> float | None:
        """Return the baseline's time (or memory) divided by the engine's."""
        return self.baseline / self.engine if self.baseline is not None else None

    def __str__(self) -> str:
        """Format the entry as a table line with the columns of ``HEADER``."""
        cells = ((self.ratio, "{:.2f} x"), (self.max_abs_diff, "{:.1e}"), (self.gemm_fraction, "{:.0%}"))
        amount = "{:.0f} B" if self.name.endswith("memory") else "{:.4g} s"
        shown = ((self.baseline, amount), (self.engine, amount), *cells)
        return COLUMNS(self.name, *("-" if value is None else form.format(value) for value, form in shown))


def alternate(sides: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict[str, float]:
    """Return the median seconds of each side over ``repeats`` rounds. Every side runs once per round.

    If a side returns a float, this is its measured time in seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            started = time.perf_counter()
            measured = side()
            if device != "cpu":
                torch.cuda.synchronize()
            elapsed = time.perf_counter() - started
            seconds[name].append(measured if isinstance(measured, float) else elapsed)
    return {name: median(times) for name, times in seconds.items()}


def machine() -> dict[str, Any]:
    """Describe the processor and the libraries."""
    import transformers

    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    name = re.search(r"model name\s*: (.*)", text)
    return {
        "cpu": name[1] if name else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
