"""A run's output is kept: all of a short one, the beginning and the end of a long one."""

import logging
import sys

from lolm_plugin.run.launch import console_logger
from lolm_plugin.tracking import output, run_documents
from lolm_plugin.tracking.output import Output


def test_printed_and_logged_text_is_kept_and_shown(capsys):
    collected, log = Output(), console_logger()
    with collected.tee():
        print("to stdout")
        print("to stderr", file=sys.stderr)
        log.info("to the log")
        assert sys.stdout.isatty() is False
    print("after")
    logging.getLogger("lolm").info("after, too")
    first, second, third = collected.text().splitlines()
    assert (first, second) == ("to stdout", "to stderr")
    assert third.endswith("to the log")
    assert "to stdout" in capsys.readouterr().out


def test_a_progress_bar_is_one_line():
    collected = Output()
    for drawn in ("\r 1 of 3", "\r 2 of 3", "\r 3 of 3\n", "done\r\n", "half a li", "ne"):
        collected.write(drawn)
    assert collected.text() == " 3 of 3\ndone\nhalf a line"


def test_the_size_is_bounded(monkeypatch):
    assert output.BEGINNING + output.END < run_documents.OUTPUT
    monkeypatch.setattr(output, "BEGINNING", 50)
    monkeypatch.setattr(output, "END", 100)
    collected = Output()
    for line in range(1000):
        collected.write(f"line {line}\n")
    collected.write("x" * 1000)
    kept = collected.text()
    assert len(kept) < 50 + 2 * 100 + 60
    assert kept.startswith("line 0\n")
    assert "characters are left out here]\nline 9" in kept
    assert kept.endswith("x")


def test_secrets_are_left_out():
    collected = Output()
    collected.write("cannot reach mongodb://me:s3 c/r@et@host/x?authMechanismProperties=A:s3cret\n")
    assert collected.text() == "cannot reach mongodb://***@host/x?authMechanismProperties=***\n"


def test_a_closed_terminal_raises_nothing(monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError

        flush = write

    monkeypatch.setattr(sys, "stdout", Gone())
    collected = Output()
    with collected.tee():
        print("said", flush=False)
    assert collected.text() == "said\n"


def test_sacreds_own_capture_is_collected_once():
    collected = Output()
    text = collected.take("first\n")
    assert collected.take(text + "second\n") == "first\nsecond\n"
    assert collected.take("first\nsecond\n") == "first\nsecond\n"
