"""``lolm compare``: order of the runs, retries, failures, and continuing a stopped suite."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lolm_plugin.commands import compare, lolm
from lolm_plugin.suites import run_process, scheduler, status_table
from lolm_plugin.suites.status_table import DONE, FAILED, RUNNING, WAITING, RunStatus, StatusTable
from lolm_plugin.suites.suite import Run
from tests.resume.runs import PATIENCE
from tests.suites.runs_for_suites import SimulatedWorkers, numbers, suite_file


@pytest.fixture
def workers(monkeypatch):
    """Replace the workers of ``lolm compare`` by simulated ones."""
    pretended = SimulatedWorkers()
    monkeypatch.setattr(compare, "_workers", lambda *options: pretended)
    monkeypatch.setattr(scheduler, "POLL", 0)
    return pretended


def run(tmp_path, *options, **changes):
    """Run the command on ``SMALL`` with changes and return its exit code."""
    arguments = [str(suite_file(tmp_path, **changes)), "--results", str(tmp_path / "results"), "--epymarl=none"]
    return lolm.main(["lolm", "compare", *arguments, *options])


def keys(workers, tmp_path):
    return [str(folder.relative_to(tmp_path / "results/runs")) for folder in workers.started]


def test_every_run_is_started_once_after_its_source(tmp_path, workers, capsys):
    assert run(tmp_path, seeds=[1, 2]) == 0
    started = keys(workers, tmp_path)
    assert len(started) == len(set(started)) == 8
    assert workers.most == 2
    for seed in (1, 2):
        source = started.index(f"scratch/updet_mappo/duel/{seed}")
        for kind in ("zero_shot", "few_shot"):
            assert started.index(f"{kind}/updet_mappo/duel-to-target/{seed}") > source
    printed = capsys.readouterr().out
    assert "[8/8] " in printed
    assert "8 of 8 runs are done." in printed


def test_finished_runs_are_not_repeated(tmp_path, workers):
    assert run(tmp_path) == 0
    workers.started.clear()
    assert run(tmp_path) == 0
    assert workers.started == []
    (tmp_path / "results/runs/scratch/updet_mappo/target/1" / run_process.DONE).unlink()
    assert run(tmp_path) == 0
    assert keys(workers, tmp_path) == ["scratch/updet_mappo/target/1"]


def test_a_source_without_weights_is_run_again_before_its_transfer(tmp_path, workers):
    assert run(tmp_path) == 0
    workers.started.clear()
    (tmp_path / "results/runs/zero_shot/updet_mappo/duel-to-target/1" / run_process.DONE).unlink()
    assert run(tmp_path) == 0  # pretended runs leave no checkpoint
    assert keys(workers, tmp_path) == ["scratch/updet_mappo/duel/1", "zero_shot/updet_mappo/duel-to-target/1"]


def test_a_dry_run_starts_and_writes_nothing(tmp_path, workers, capsys):
    assert run(tmp_path, "--dry-run") == 0
    assert workers.started == []
    assert not (tmp_path / "results").exists()
    assert "4 runs, of unknown length until the first run" in capsys.readouterr().out


def test_a_failed_run_is_retried(tmp_path, workers):
    workers.codes = {"scratch/updet_mappo/target": [-9, 0]}
    assert run(tmp_path) == 0
    assert keys(workers, tmp_path).count("scratch/updet_mappo/target/1") == 2


def test_a_run_that_always_fails_is_listed_and_others_continue(tmp_path, workers, capsys):
    workers.codes = {"scratch/updet_mappo/duel": [1, 1, 1]}
    assert run(tmp_path, "--retries=2") == 1
    printed = capsys.readouterr().out
    assert keys(workers, tmp_path).count("scratch/updet_mappo/duel/1") == 3
    assert "scratch/updet_mappo/target/1" in keys(workers, tmp_path)
    assert "1 of 4 runs are done." in printed
    assert "failed: updet_mappo duel seed 1: 1 broke (" in printed
    assert "failed: updet_mappo zero-shot duel to target seed 1: its source, updet_mappo duel seed 1, failed" in printed
    workers.started.clear()
    assert run(tmp_path) == 0, "the same command continues with what is missing"
    assert len(workers.started) == 3


def test_a_run_with_a_usage_error_is_not_retried(tmp_path, workers):
    workers.codes = {"scratch/updet_mappo/target": [2, 0]}
    assert run(tmp_path) == 1
    assert keys(workers, tmp_path).count("scratch/updet_mappo/target/1") == 1


def test_the_signal_that_killed_a_run_is_reported(tmp_path, workers, capsys):
    workers.codes = {"scratch/updet_mappo/target": [-9]}
    assert run(tmp_path, "--retries=0") == 1
    assert "failed: updet_mappo target seed 1: killed by SIGKILL: 1 broke" in capsys.readouterr().out


def test_a_folder_with_other_settings_is_refused(tmp_path, workers, capsys):
    assert run(tmp_path) == 0
    assert run(tmp_path, few_shot={"t_max": 301}) == 2
    said = capsys.readouterr().err
    assert "few_shot/updet_mappo/duel-to-target/1 holds a run with other settings (t_max=300, t_max=301)" in said


@pytest.mark.parametrize("content", ['{"argum', "", "[]", "null", '{"arguments": 3}', b"\xff"])
def test_a_damaged_job_fails_and_others_continue(tmp_path, workers, capsys, content):
    assert run(tmp_path) == 0
    workers.started.clear()
    folder = tmp_path / "results/runs/scratch/updet_mappo/target/1"
    (folder / run_process.COMMAND).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "results/runs/scratch/updet_mappo/duel/1" / run_process.DONE).unlink()
    assert run(tmp_path) == 1
    assert keys(workers, tmp_path) == ["scratch/updet_mappo/duel/1"]
    printed = capsys.readouterr().out
    assert f"failed: updet_mappo target seed 1: {folder / run_process.COMMAND} is damaged (" in printed
    assert "3 of 4 runs are done." in printed


def test_a_second_compare_in_one_folder_is_refused(tmp_path, workers, capsys):
    with scheduler.locked(tmp_path / "results"):
        assert run(tmp_path) == 2
    assert "another lolm compare is running in" in capsys.readouterr().err


def test_an_invalid_suite_is_refused_before_anything_is_written(tmp_path, workers, capsys):
    assert run(tmp_path, maps=["dual"]) == 2
    assert "dual" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_running_runs(tmp_path, workers, capsys, number):
    endless = threading.Event()
    workers.poll = lambda running: 143 if endless.is_set() else None
    workers.stop = lambda running: (workers.stopped.append(running[1]), endless.set())

    def send():
        deadline = time.monotonic() + PATIENCE
        while not workers.started and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=send).start()
    assert run(tmp_path) == 130
    assert workers.stopped == workers.started
    assert "Run the same command again to continue." in capsys.readouterr().out


STATES = (WAITING, RUNNING, DONE, FAILED)
APART = ("costs", "runs", "index")  # files that contain times or folders


def command(tmp_path, name, *options):
    """Start the command as a process with the results folder ``name``."""
    arguments = [str(tmp_path / "small.yaml"), "--results", str(tmp_path / name), "--epymarl=none", *options]
    return subprocess.Popen(
        [sys.executable, "-m", "lolm_plugin", "compare", *arguments], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_killed_suite_started_again_gives_the_same_results(tmp_path):
    suite_file(tmp_path)
    straight = command(tmp_path, "straight", "--workers=2")
    assert straight.wait(PATIENCE) == 0, straight.communicate()
    killed = command(tmp_path, "killed", "--workers=2")
    few = tmp_path / "killed/runs/few_shot/updet_mappo/duel-to-target/1"
    deadline = time.monotonic() + PATIENCE
    while not list(few.glob("results/models/*/1*")) and not run_process.is_done(few):  # until a checkpoint exists
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    before = {path: path.stat().st_mtime for path in (tmp_path / "killed").rglob(run_process.DONE)}
    killed.kill()
    killed.wait()
    again = command(tmp_path, "killed", "--workers=2")
    assert again.wait(PATIENCE) == 0, again.communicate()
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "straight")
    assert len(numbers(tmp_path / "killed")) > 50
    for path, written in before.items():
        assert path.stat().st_mtime == written, f"{path.parent} was run again"
    for name in ("straight", "killed"):
        assert lolm.main(["lolm", "report", str(tmp_path / name), "--title=small"]) == 0
    reported = [
        path for path in (tmp_path / "straight/report").rglob("*.*") if path.stem not in ("costs", "runs", "index")
    ]
    assert len(reported) > 20
    for path in reported:
        same = tmp_path / "killed" / path.relative_to(tmp_path / "straight")
        assert path.read_bytes() == same.read_bytes(), path
    resumed = json.loads(max(few.glob("results/sacred/*/*/*/info.json")).read_text())
    assert resumed["transfer"]["source_map"] == "duel"


def test_time_left_is_estimated_from_progress_since_the_start(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(status_table.time, "monotonic", lambda: clock[0])
    run = Run("scratch", "updet_mappo", "updet_mappo", "smax", "3m", 1, {})
    entries = [RunStatus(run, tmp_path, 100, weight) for weight in (60.0, 20.0, 20.0)]
    shown = StatusTable(entries, "")
    entries[0].state = DONE  # by an earlier command
    shown.start()
    assert shown.left() == "unknown"
    clock[0] += 30
    entries[1].state = DONE
    assert shown.left() == "30 s"
    entries[2].state, entries[2].step = RUNNING, 50
    assert shown.left() == "10 s"


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"test_battle_won_mean": 0.5, "test_return_mean": 12.0}, "50%"),
        ({"test_return_mean": 5.0}, "return 5"),
        ({"test_return_mean": None}, ""),
        ({}, ""),
    ],
)
def test_a_win_rate_is_shown_as_a_percentage_and_a_return_as_a_number(tmp_path, values, shown):
    record = tmp_path / "results/sacred/updet_mappo/3m/1"
    record.mkdir(parents=True)
    metrics = {name: {"steps": [40], "values": [value], "timestamps": []} for name, value in values.items()}
    (record / "metrics.json").write_text(json.dumps(metrics))
    status = RunStatus(Run("scratch", "updet_mappo", "updet_mappo", "smax", "3m", 1, {}), tmp_path, 100, 1.0)
    status.read_progress()
    assert (status.result, status.step) == (shown, 40 if values else 0)


def test_the_live_table_fits_a_narrow_terminal(tmp_path):
    from rich.console import Console

    run = Run("zero_shot", "asn_attention_mappo", "asn_attention_mappo", "smax", "8m_vs_9m", 1, {})
    entries = [
        RunStatus(run, tmp_path, 50_000, 1.0, state=state, step=20_000, result="50%", began=1.0, ended=2.0)
        for state in STATES
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(StatusTable(entries, "2 workers on this machine").table())
    shown = console.export_text()
    for state in ("running", "done", "failed"):
        assert f" {state} " in shown
    assert "50%" in shown
    assert "1 of 4 done, 1 running, 1 failed" in shown
