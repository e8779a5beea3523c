"""SMACv2's own encoder against the truth, in a separate process (see ``smacv2_encoder.py``)."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest


def test_smacv2():
    if importlib.util.find_spec("smacv2") is None or importlib.util.find_spec("pysc2") is None:
        pytest.skip("needs smacv2 with pysc2")
    file = Path(__file__).with_name("smacv2_encoder.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(file)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
