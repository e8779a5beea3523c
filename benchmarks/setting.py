"""What a benchmark runs on: everything that decides its numbers, beside the machine."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Setting:
    """One benchmark. ``steps`` and ``learner_steps`` are columns of time taken out of whole battles."""

    model: str = "smollm2-135m"
    num_layers: int | None = None  # keep the first layers of the model; None: all
    pretrained: bool = True
    dtype: str = "float32"
    device: str = "cpu"
    map_name: str = "3s5z_vs_3s6z"
    style: str = "paper"
    episodes: int = 8
    steps: int = 2
    learner_steps: int = 1
    epochs: int = 4
    layers: tuple[int, ...] = (8,)  # top layers with LoRA in learner_cached_trunk, each measured
    repeats: int = 1
    learner_repeats: int = 1
    baseline_tokens: int = 4096  # padded tokens that the plain port learns from before a backward pass
    memory_tokens: int = 4096  # padded tokens of the batch of the entry memory
    env_seconds: int = 20  # of each measurement in env
    smol_map: str = "3m"  # the map, model and rounds of smol
    smol_model: str | None = None  # None: as each side is configured
    smol_rounds: int = 5
    updates: tuple[str, ...] = ()  # KEY=VALUE, for the configured side of smol
    threads: int = 1
    seed: int = 1

    def write(self, path: Path) -> None:
        """Keep it for a child process."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Self:
        """What ``write`` kept."""
        return cls(**json.loads(path.read_text()))


def machine() -> dict[str, Any]:
    """What the numbers depend on beside the setting."""
    import torch
    import transformers

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
