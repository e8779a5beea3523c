"""What a signal says is said, and nothing else is lost for it, whatever the run is in the middle of."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.resume.runs import ROOT

# Longer than a pipe holds: the process waits within its write until somebody reads.
WRITER = """
import logging, sys
from lolm_plugin.host.stopping import StopRequests

log = logging.getLogger("writer")
log.addHandler(logging.StreamHandler(sys.stderr))
with StopRequests() as stop:
    stop.patient = True
    print("writing", flush=True)
    log.warning("x" * 1_000_000)
    sys.exit(stop.number)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_a_line_is_answered(number):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # else Python itself loses the rest of the line
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "writing\n"
    time.sleep(0.5)  # until the pipe is full
    process.send_signal(number)
    time.sleep(0.5)  # or reading would end the write first
    _, printed = process.communicate()
    assert process.returncode == number, printed[-2000:]
    assert f"{number.name}: this batch is finished and saved" in printed
    assert printed.count("x") == 1_000_000
