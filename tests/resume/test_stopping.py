"""A signal is answered at any moment of a run, and no output is lost."""

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

# The line is longer than a pipe's buffer, so the process waits in its write until the pipe is read.
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
    time.sleep(0.5)  # else reading would end the write before the signal comes
    _, printed = process.communicate()
    assert process.returncode == number, printed[-2000:]
    assert f"{number.name}: this batch is finished and saved" in printed
    assert printed.count("x") == 1_000_000


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_the_first_signal_requests_a_stop_and_the_second_stops_at_once(number):
    with StopRequests() as stop:
        stop.patient = True
        os.kill(os.getpid(), number)
        assert stop.number == number
        with pytest.raises(Stopped) as stopped:
            os.kill(os.getpid(), number)
    assert stopped.value.exit_code == 128 + number


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_an_ignored_signal_stays_ignored(number):
    """``nohup`` and a shell's ``&`` start programs with ignored signals."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopRequests() as stop:
            stop.patient = True
            os.kill(os.getpid(), number)
            assert stop.number is None
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_schedulers_warning_reaches_the_run_but_not_its_workers():
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


def test_a_signal_ends_a_forked_process():
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


def test_a_closed_terminal_requests_a_stop_and_later_output_raises_nothing(tmp_path):
    saved = tmp_path / "saved"
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", AT_A_TERMINAL, str(saved)])
    assert b"there" in os.read(terminal, 100)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert saved.read_text() == str(int(signal.SIGHUP))
