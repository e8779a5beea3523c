"""Where a run comes from and what it took, for its record: the command, the commit, the version, the memory."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from lolm_plugin import __version__
from lolm_plugin.configuration.experiment import TIME_LIMITS


def origin(command: str, host: str) -> dict[str, str | None]:
    """What is known at the start; ``command`` without passwords, ``host`` whose loop and parts run."""
    which = {"version": __version__, "commit": commit(Path(__file__).parents[2])}
    return {"command": command, "host": host, **which, **TIME_LIMITS}


def commit(checkout: Path) -> str | None:
    """The commit of a checkout, ``-dirty`` where files differ from it; None for an installed package."""
    if not (checkout / ".git").exists():
        return None
    try:
        asked = [["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]]
        head, changed = (
            subprocess.run(["git", "-C", str(checkout), *words], capture_output=True, text=True, check=True, timeout=10)
            for words in asked
        )
    except (OSError, subprocess.SubprocessError):  # no git, or not the user's checkout
        return None
    return head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def peak_memory() -> dict[str, float]:
    """MB this process held at most so far, in main memory and on the GPU."""
    import torch

    found = {}
    with suppress(ImportError):  # Windows has no such counter
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KB elsewhere
        found["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
    if torch.cuda.is_available():
        found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return found
