"""Follow the steps of an example in a copy of the repository: add its files and its line in the registry."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def follow(example: str, files: Sequence[str], table: str, folder: Path) -> Path:
    """Follow ``examples/EXAMPLE`` in a copy at ``folder``. The registry entry is inserted after the line ``table``."""
    for name in ("lolm_plugin", "config", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("main.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in files:
        assert not (folder / name).exists()
        shutil.copy(ROOT / "examples" / example / name, folder / name)
    registry = folder / "lolm_plugin/registry.py"
    assert registry.read_text().count(table) == 1
    entry = (ROOT / "examples" / example / "registry_entry.txt").read_text()
    registry.write_text(registry.read_text().replace(table, table + entry))
    return folder


def touched(copy: Path) -> list[str]:
    """Return the files of code and configuration that differ from the repository's."""
    paths = [path for folder in ("lolm_plugin", "config") for path in (copy / folder).rglob("*")]
    names = [str(path.relative_to(copy)) for path in paths if path.suffix in (".py", ".yaml")]
    return sorted(name for name in names if (copy / name).read_bytes() != _original(name))


def run(copy: Path, *command: str) -> subprocess.CompletedProcess:
    """Run a Python command in the copy. Its ``stdout`` has both streams."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "EPYMARL_HOME": "none", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _original(name: str) -> bytes:
    return (ROOT / name).read_bytes() if (ROOT / name).exists() else b""
