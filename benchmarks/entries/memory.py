"""``memory``: the peak of one epoch of learning above what stands in memory before it, at equal batch.

Each side has a process of its own and learns from the same steps of one episode. The plain port keeps the graph of the
whole batch until its one backward pass, as a direct port does; its second, frozen model counts as weights.
"""

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks import data
from benchmarks.bench import Bench
from benchmarks.entry import Entry

ROOT = Path(__file__).parents[2]


class ChildDied(Exception):
    """A side of the comparison has no peak."""


def measure(bench: Bench) -> list[Entry]:
    """Bytes."""
    if not measurable():
        return []
    with tempfile.TemporaryDirectory(prefix="lolm-benchmark-") as folder:
        setting, batch = Path(folder, "setting.json"), Path(folder, "batch.pt")
        replace(bench.setting, epochs=1).write(setting)
        data.save(bench.memory_batch, batch)
        try:
            peaks = {side: peak(side, setting, batch) for side in ("baseline", "engine")}
        except ChildDied as reason:  # must not cost what was measured before
            print(f"memory skipped: {reason}")
            return []
    bench.checks["memory_decisions"] = int(data.deciding(bench.memory_batch).sum())
    return [Entry("memory", **peaks)]


def measurable() -> bool:
    """Return whether a process can read its peak here; print a line if not."""
    found = Path("/proc/self/clear_refs").exists()
    if not found:
        print("memory skipped: this system does not tell a process its peak (no /proc/self/clear_refs)")
    return found


def peak(side: str, setting: Path, batch: Path) -> float:
    """Return the bytes that a side of ``memory_child.py`` prints. Raises ChildDied."""
    command = [sys.executable, "-m", "benchmarks.memory_child", side, str(setting), str(batch)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        reason = "killed" if done.returncode < 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ChildDied(
            f"the {side} side did not end well ({reason}); if memory is short set "
            "--memory-tokens to fewer, for smol --episodes"
        )
    return float(done.stdout.strip().splitlines()[-1])
