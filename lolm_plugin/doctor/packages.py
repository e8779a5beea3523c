"""What is installed in this Python, found out without importing it here."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# Run in a process of its own: an import may take seconds, print banners, or end the process.
_IMPORT = """
import importlib, sys
try:
    importlib.import_module(sys.argv[1])
except BaseException as error:
    reason = str(error).strip() or "no reason given"
    print(f"{type(error).__name__}: {reason.splitlines()[0]}")
    sys.exit(1)
"""
_PATIENCE = 20  # seconds; an import that works takes a fraction of one


def version(package: str) -> str | None:
    """The installed version of a distribution, by the name pip knows it under."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def folder(module: str) -> Path | None:
    """Where a top-level module lives; None when there is none.

    A folder on the path counts even without an ``__init__.py``: such a one, say a clone, hides some packages.
    """
    spec = importlib.util.find_spec(module)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None


def import_error(module: str) -> str | None:
    """Why another process of this Python cannot import ``module``: the exception in one line; None if it can."""
    command = [sys.executable, "-c", _IMPORT, module]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return f"no answer in {_PATIENCE} s"
    if done.returncode == 0:
        return None
    return (done.stdout.strip().splitlines() or [f"the process ended with code {done.returncode}"])[-1]


class Packages(NamedTuple):
    """The three questions above; tests put their own answers in."""

    version: Callable[[str], str | None] = version
    folder: Callable[[str], Path | None] = folder
    import_error: Callable[[str], str | None] = import_error
