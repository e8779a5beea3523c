from pathlib import Path

import pytest

from . import faults
from .faults import Fault


class Failed(Exception):
    pass


@pytest.fixture(autouse=True)
def no_real_failure(monkeypatch):
    """Raise an exception instead of ending or blocking this process."""

    def failed(value):
        raise Failed(value)

    monkeypatch.setattr(faults.os, "_exit", failed)
    monkeypatch.setattr(faults.time, "sleep", failed)


def fault(text, once=None):
    environment = {"FAKE_SC2_FAULT": text}
    return Fault.from_environment(environment | ({"FAKE_SC2_FAULT_ONCE": str(once)} if once else {}))


def test_without_the_variable_there_is_no_fault():
    assert Fault.from_environment({}) is None
    assert Fault.from_environment({"FAKE_SC2_FAULT": "", "FAKE_SC2_FAULT_ONCE": "file"}) is None


def test_both_variables_are_read():
    assert fault("crash:12", "file") == Fault("crash", 12, Path("file"))
    assert fault("hang:0") == Fault("hang", 0)


@pytest.mark.parametrize("text", ["crash", "crash:", "crash:-1", "crash:x", "stop:3", "12"])
def test_other_values_are_refused(text):
    with pytest.raises(ValueError, match="FAKE_SC2_FAULT"):
        fault(text)


@pytest.mark.parametrize(("kind", "how"), [("crash", faults.CRASHED), ("hang", 3600)])
def test_a_fault_happens_only_at_its_loop(kind, how):
    it = fault(f"{kind}:7")
    it.check(6)
    it.check(8)
    with pytest.raises(Failed, match=str(how)):
        it.check(7)


def test_a_fault_with_once_happens_in_one_process(tmp_path):
    file = tmp_path / "fired"
    fault("crash:7", file).check(6)
    assert not file.exists()
    with pytest.raises(Failed):
        fault("crash:7", file).check(7)
    assert file.exists()
    fault("crash:7", file).check(7)
