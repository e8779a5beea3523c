"""What a signal says is said, and nothing else is lost for it, whatever the run is in the middle of."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from lolm_plugin.run import stopping
from lolm_plugin.run.stopping import Stopped, StopRequests
from tests.resume.runs import ROOT

# Longer than a pipe holds: the process waits within its write until somebody reads.
WRITER = """
import logging, sys
from lolm_plugin.run.stopping import StopRequests

log = logging.getLogger("writer")
log.addHandler(logging.StreamHandler(sys.stderr))
with StopRequests() as stop:
    stop.patient = True
    print("writing", flush=True)
    log.warning("x" * 1_000_000)
    sys.exit(stop.number)
"""


@pytest.mark.parametrize("number", stopping.SIGNALS)
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


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_every_signal_asks_first_and_stops_at_once_the_second_time(number):
    with StopRequests() as stop:
        stop.patient = True
        os.kill(os.getpid(), number)
        assert stop.number == number
        with pytest.raises(Stopped) as stopped:
            os.kill(os.getpid(), number)
    assert stopped.value.exit_code == 128 + number


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_so(number):
    """``nohup`` and a shell's ``&`` start programs in this way."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopRequests() as stop:
            stop.patient = True
            os.kill(os.getpid(), number)
            assert stop.number is None
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_worker_never_gets_a_schedulers_warning_and_the_run_does():
    with StopRequests() as stop:
        stop.patient = True
        with stopping.warnings_blocked():
            worker = subprocess.Popen(["sleep", "60"])
            os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.number == signal.SIGUSR1
    worker.send_signal(signal.SIGUSR1)
    time.sleep(0.1)
    assert worker.poll() is None
    worker.kill()
    worker.wait()


def test_a_forked_process_without_orders_dies_of_a_signal_as_any_other():
    with StopRequests() as stop:
        stop.patient = True
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


AT_A_TERMINAL = """
import logging, sys, time
from pathlib import Path
from lolm_plugin.run.stopping import StopRequests

with StopRequests() as stop:
    stop.patient = True
    print("there", flush=True)
    while stop.number is None:
        time.sleep(0.01)
    print("a last line", flush=True)
    print("and an error", file=sys.stderr, flush=True)
    Path(sys.argv[1]).write_text(str(int(stop.number)))
"""


def test_a_closed_terminal_is_heard_and_its_last_lines_cost_nothing(tmp_path):
    saved = tmp_path / "saved"
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", AT_A_TERMINAL, str(saved)])
    assert b"there" in os.read(terminal, 100)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert saved.read_text() == str(int(signal.SIGHUP))
