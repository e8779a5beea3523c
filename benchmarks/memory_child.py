"""``python -m benchmarks.memory_child baseline|engine|before|now SETTING.json BATCH.pt``: prints the peak in bytes.

``before`` and ``now`` are the sides of the entry smol, whose play counts, too.
"""

import ctypes
import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks import data
from benchmarks.engine import KL_COEF, Engine, arguments
from benchmarks.entries import smol
from benchmarks.plain_port import PlainPort
from benchmarks.setting import Setting


def main(argv: Sequence[str]) -> int:
    """Learn once and print what was needed on top."""
    side, setting_file, batch_file = argv
    setting = Setting.read(Path(setting_file))
    torch.set_num_threads(setting.threads)
    batch = data.load(Path(batch_file), setting.device)
    print(peak(_learning(side, setting, batch), setting.device))
    return 0


def peak(learn: Callable[[], object], device: str) -> int:
    """Bytes above what is in memory now, while ``learn`` runs."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        learn()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # what loading has freed must not serve learning
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _status("VmRSS")
    learn()
    return _status("VmHWM") - before


def _learning(side: str, setting: Setting, batch: object) -> Callable[[], object]:
    if side in smol.SIDES:
        engine = smol.build(setting, side)
        return lambda: (engine.play(batch), engine.update(batch))
    engine = Engine(arguments(setting, None))
    if side == "engine":
        engine.play(batch)
        return lambda: engine.update(batch)
    port, advantages = PlainPort(engine.args, engine.mac), engine.advantages(batch)
    return lambda: port.update(batch, advantages, KL_COEF, graph_tokens=None)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
