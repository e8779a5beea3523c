"""One run of a suite as a process: start, resume, retry and failures."""

import json
import subprocess
import sys
import time

import pytest

from lolm_plugin import checkpoints
from lolm_plugin.checkpoints import Store
from lolm_plugin.commands import train
from lolm_plugin.errors import ConfigError
from lolm_plugin.suites import run_process
from tests.resume.runs import PATIENCE, ROOT, line, record, steps


def put_down(folder, *updates, source=None):
    arguments = [word for word in line("updet_mappo", "probe", "duel", *updates) if not word.startswith("--epymarl")]
    run_process.write(folder, arguments, source, "none")
    return folder


def run(folder):
    """Start the job as a process with an open standard input and return the process."""
    return subprocess.Popen(
        [sys.executable, "-m", "lolm_plugin.commands.suite_run", str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_run_stops_with_its_parent_and_can_be_resumed(tmp_path):
    folder = put_down(tmp_path / "job", "t_max=100000000", "save_model_interval=100000000")
    process = run(folder)
    deadline = time.monotonic() + PATIENCE
    while not steps(folder):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    before = steps(folder)[-1]
    printed, _ = process.communicate()  # closes its standard input, as the system does when the starter dies
    assert process.returncode == 143, printed
    assert steps(folder)[-1] > before, "it did not save"
    assert not run_process.is_done(folder)
    assert "Fatal" not in printed

    assert run_process._arguments(run_process.read(folder), folder)[0] == "--resume"


def test_a_finished_job_is_not_run(tmp_path, monkeypatch):
    folder = put_down(tmp_path / "job")
    run_process.write_json(folder / run_process.DONE, {})
    monkeypatch.setattr(train, "main", lambda arguments: pytest.fail("it was run"))
    monkeypatch.chdir(tmp_path)
    assert run_process.main(folder, train.main) == 0


def test_results_of_a_try_without_checkpoint_are_removed(tmp_path, monkeypatch):
    folder = put_down(tmp_path / "job")
    (folder / "results/sacred/updet_mappo/duel/1").mkdir(parents=True)
    asked = []
    monkeypatch.setattr(train, "main", lambda arguments: asked.append(arguments) or 0)
    monkeypatch.setattr(run_process, "missing", lambda folder, arguments: "")
    monkeypatch.chdir(tmp_path)
    assert run_process.main(folder, train.main) == 0
    assert asked[0][:3] == ["-m lolm_plugin train", "--epymarl=none", "--config=updet_mappo"]
    assert not (folder / "results").exists()
    assert run_process.is_done(folder)


@pytest.mark.parametrize("name", ["run", "rnn_mappo_seed1_pkg:space/Name-v0_2026-01-01"])
def test_a_retry_does_not_delete_checkpoints(tmp_path, monkeypatch, name):
    """Earlier versions kept a slash of a task's name in the name of the run's folder."""
    folder = put_down(tmp_path / "job")
    with Store(folder / "results/models" / name, None) as store:
        store.save(5, lambda folder: (folder / "metrics.json").write_text("{}"), {})
    monkeypatch.setattr(train, "main", lambda arguments: pytest.fail("it was run"))
    assert run_process._arguments(run_process.read(folder), folder)[:2] == [
        "--resume",
        str(folder / "results/models" / name),
    ]
    (folder / "results/models" / name / "5/metrics.json").write_text("damaged")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"has checkpoints, but none of them is whole; move .*/results elsewhere"):
        run_process.main(folder, train.main)
    assert (folder / "results/models" / name / "5").is_dir()


def test_a_retry_repeats_settings_that_are_not_taken_from_a_checkpoint(tmp_path):
    folder = put_down(tmp_path / "job", "decisions_file=d.jsonl", "lr=0.1")
    with Store(folder / "results/models/run", None) as store:
        store.save(5, lambda folder: (folder / "metrics.json").write_text("{}"), {})
    arguments = run_process._arguments(run_process.read(folder), folder)
    assert arguments[-2:] == ["with", "decisions_file=d.jsonl"]


def test_a_failed_run_is_not_done(tmp_path, monkeypatch):
    folder = put_down(tmp_path / "job")
    monkeypatch.setattr(train, "main", lambda arguments: 1)
    monkeypatch.chdir(tmp_path)
    assert run_process.main(folder, train.main) == 1
    assert not run_process.is_done(folder)


@pytest.mark.parametrize("lost", ["every", "last"])
def test_a_run_without_its_last_checkpoint_is_not_done_until_it_is_saved(tmp_path, monkeypatch, capsys, lost):
    folder = put_down(tmp_path / "job", "t_max=60", "save_model_interval=10", "test_interval=1000")
    save = checkpoints.Store.save

    def full(self, step, fill, facts):
        if lost == "every" or facts["finished"]:
            raise checkpoints.SaveError("The checkpoint could not be written (No space left on device)")
        return save(self, step, fill, facts)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints.Store, "save", full)
    assert run_process.main(folder, train.main) == 1  # on_save_error=warn is the default
    assert ("has no checkpoint" if lost == "every" else "last checkpoint was not written") in capsys.readouterr().err
    assert not run_process.is_done(folder)
    monkeypatch.setattr(checkpoints.Store, "save", save)
    monkeypatch.chdir(tmp_path)
    assert run_process.main(folder, train.main) == 0
    assert run_process.is_done(folder)
    assert checkpoints.find(run_process.models(folder)).facts["finished"]


def test_an_evaluation_is_done_if_its_record_has_measurements(tmp_path):
    assert run_process.missing(tmp_path, ["evaluate=True"]) == "its record has no measurements"
    record = tmp_path / "results/sacred/updet_mappo/duel/1"
    record.mkdir(parents=True)
    (record / "metrics.json").write_text("{}")
    assert run_process.missing(tmp_path, ["evaluate=True"]) == "its record has no measurements"
    (record / "metrics.json").write_text('{"test_return_mean": {"steps": [0], "values": [1.0]}}')
    assert run_process.missing(tmp_path, ["evaluate=True"]) == ""


def test_checkpoints_of_epymarls_own_algorithms_count(tmp_path):
    (tmp_path / "results/models/qmix_seed1/5000").mkdir(parents=True)
    assert run_process.missing(tmp_path, ["save_model=True"]) == "it has no checkpoint"
    (tmp_path / "results/models/qmix_seed1/5000/agent.th").touch()
    assert run_process.missing(tmp_path, ["save_model=True"]) == ""


@pytest.mark.parametrize(
    "content", ['{"arguments": ["--con', "[]", "null", '{"arguments": [1], "source": null}', "\udcff"]
)
def test_a_damaged_job_is_refused_in_one_sentence(tmp_path, content):
    folder = put_down(tmp_path / "job")
    (folder / run_process.COMMAND).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(run_process.DamagedFile, match=r"job\.json is damaged.*remove that file"):
        put_down(folder)


def test_the_wait_for_an_earlier_try_is_limited(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with (
        run_process.waiting_lock(),
        pytest.raises(ConfigError, match=r"still in use by an earlier try of this run after 0 s; end that process"),
    ):
        run_process.waiting_lock(seconds=0.3).__enter__()
    assert capsys.readouterr().err == "waiting for an earlier try of this run to end\n"
    with run_process.waiting_lock(seconds=0.3):
        pass


def test_only_other_settings_are_refused(tmp_path):
    folder = put_down(tmp_path / "job", "lr=0.1")
    put_down(folder, "lr=0.1")
    with pytest.raises(ConfigError, match=r"holds a run with other settings \(lr=0.1, lr=0.2\)"):
        put_down(folder, "lr=0.2")


def test_a_transfer_starts_from_the_weights_of_its_source(tmp_path, monkeypatch):
    source = put_down(tmp_path / "a/source", "t_max=100", "test_interval=1000")
    target = put_down(tmp_path / "b/target", "t_max=100", "test_interval=1000", source=source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="source has no checkpoint to transfer from"):
        run_process.main(target, train.main)
    assert run_process.main(source, train.main) == 0
    assert run_process.main(target, train.main) == 0
    parts = json.loads((record(target, 1) / "info.json").read_text())["transfer"]["parts"]
    assert [part["name"] for part in parts if part["fate"] == "moved"] == ["actor", "critic", "value_normaliser"]


def test_a_file_with_a_database_address_is_private_and_not_quoted(tmp_path):
    address = "mongo=mongodb://me:s3 cret@h/x"
    secret = put_down(tmp_path / "secret", address)
    assert json.loads((secret / run_process.COMMAND).read_text())["arguments"][-1] == address, "the job needs it"
    assert (secret / run_process.COMMAND).stat().st_mode & 0o077 == 0
    assert (put_down(tmp_path / "open") / run_process.COMMAND).stat().st_mode & 0o044
    with pytest.raises(ConfigError, match=r"mongodb://\*\*\*@h/x") as refused:
        put_down(secret, "seed=3")
    assert "s3" not in str(refused.value)
