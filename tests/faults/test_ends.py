"""No worker and no game remains after the training process, however it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import none_left, processes, wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def parent(tmp_path):
    """``parent(faults)`` starts ``parent.py`` in its own process group and waits for its two workers and two games."""
    started = []

    def start(faults):
        program = [sys.executable, str(Path(__file__).parent / "parent.py"), json.dumps(faults), str(tmp_path)]
        process = subprocess.Popen(
            program, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "built\n", process.stderr.read()
        assert len(processes(tmp_path)) == 4
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def count(folder, state):
    return len(list(folder.glob(f"*.{state}")))


# "hanging": the workers are stuck in their environments.
@pytest.mark.parametrize(("faults", "hanging"), [({}, 0), ({"every": ["reset", "hang"]}, 2)], ids=["idle", "hanging"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed(parent, tmp_path, faults, hanging, number):
    process = parent(faults)
    wait_until(lambda: count(tmp_path, "hanging") == hanging)
    process.send_signal(number)
    assert process.wait() == -number
    none_left(tmp_path)


def test_interrupted_from_the_keyboard(parent, tmp_path):
    """Ctrl-C reaches the foreground process group of the terminal, which contains only the parent."""
    process = parent({})
    os.killpg(process.pid, signal.SIGINT)
    _, printed = process.communicate()
    assert process.returncode != 0
    assert printed.count("KeyboardInterrupt") == 1, printed
    none_left(tmp_path)
    assert count(tmp_path, "closed") == 2, "the environments were not closed"


def test_ended_by_an_exception(parent, tmp_path):
    process = parent({"error": None})
    _, printed = process.communicate()
    assert process.returncode == 1
    assert "ZeroDivisionError" in printed
    none_left(tmp_path)
    assert count(tmp_path, "closed") == 2
