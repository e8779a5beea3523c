"""SMACv2 on the fake game, in a separate process (see ``smacv2_battles.py``)."""

import subprocess
import sys
from pathlib import Path

import pytest

from .install import requirements_missing


def test_smacv2_plays():
    if reason := requirements_missing("smacv2"):
        pytest.skip(reason)
    file = Path(__file__).with_name("smacv2_battles.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(file)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
