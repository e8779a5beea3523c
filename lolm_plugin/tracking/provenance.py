"""Provenance of a run for its record: command, commit, version and peak memory."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from lolm_plugin import __version__
from lolm_plugin.configuration.experiment import TIME_LIMITS


def provenance(command: str, host: str) -> dict[str, str | None]:
    """Return the provenance known at the start. ``command`` has no passwords; ``host`` is the host's name."""
    commit = find_commit(Path(__file__).parents[2])
    return {"command": command, "host": host, "version": __version__, "commit": commit, **TIME_LIMITS}


def find_commit(checkout: Path) -> str | None:
    """Return the commit of a checkout, ``-dirty`` if files differ from it; None for an installed package."""
    if not (checkout / ".git").exists():
        return None
    try:
        head, changed = (
            subprocess.run(["git", "-C", str(checkout), *words], capture_output=True, text=True, check=True, timeout=10)
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):  # no git, or not the user's checkout
        return None
    return head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def peak_memory() -> dict[str, float]:
    """Return the peak memory of this process so far, main memory and GPU, in MB."""
    import torch

    peaks = {}
    with suppress(ImportError):  # Windows has no such counter, and psutil has none for Linux
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        with suppress(OSError, StopIteration):  # Linux counts a large parent in: ru_maxrss survives fork and exec
            lines = Path("/proc/self/status").read_text().splitlines()
            peak = int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
        peaks["peak_memory_mb"] = round(peak / 1e6, 1)
    if torch.cuda.is_available():
        peaks["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return peaks
