"""Queries about the packages of this Python, without importing them here, and the result of a check."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# Run in its own process: an import may take seconds, print banners, or end the process.
_IMPORT = """
import importlib, sys
try:
    importlib.import_module(sys.argv[1])
except BaseException as error:
    reason = str(error).strip() or "no reason given"
    print(f"{type(error).__name__}: {reason.splitlines()[0]}")
    sys.exit(1)
"""
IMPORT_TIMEOUT = 20.0  # seconds; a working import takes less than one


class CheckResult(NamedTuple):
    """One line of ``lolm doctor``. If ``what`` is not usable, ``detail`` says what to do."""

    usable: bool
    what: str
    detail: str

    def __str__(self) -> str:
        return f"[{'ok' if self.usable else '--'}] {self.what}: {self.detail}"


def version(package: str) -> str | None:
    """Return the installed version of a distribution, by the name that pip knows it under."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def folder(module: str) -> Path | None:
    """Return the folder or file of a top-level module; None if there is none.

    A folder on the path counts even without an ``__init__.py``: such a folder, for example a git clone, may hide a
    package.
    """
    spec = importlib.util.find_spec(module)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None


def import_error(module: str) -> str | None:
    """Return why another process of this Python cannot import ``module``, in one line; None if it can."""
    command = [sys.executable, "-c", _IMPORT, module]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=IMPORT_TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"no answer in {IMPORT_TIMEOUT:g} s"
    if done.returncode == 0:
        return None
    return (done.stdout.strip().splitlines() or [f"the process ended with code {done.returncode}"])[-1]


class Packages(NamedTuple):
    """The three functions above; tests replace them."""

    version: Callable[[str], str | None] = version
    folder: Callable[[str], Path | None] = folder
    import_error: Callable[[str], str | None] = import_error
