"""Runs in a database equal their file records, also after repeated writes and database failures."""

import json
import logging
import threading
import time
from contextlib import contextmanager

import pytest

from lolm_plugin.commands import lolm
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import hidden, parse
from lolm_plugin.tracking import mongo, mongo_observer, run_documents
from lolm_plugin.tracking.mongo_observer import MongoObserver
from tests.report.test_records import write
from tests.resume.runs import PATIENCE, line, record, train

SECRET = "s3cret w0rd"


@contextmanager
def served(folder, port=0):
    """Start a server with MongoDB's protocol and its files in ``folder``; yields its address."""
    from secantus import SecantusDBServer

    server = SecantusDBServer(
        host="127.0.0.1", port=port, storage_path=str(folder), replica_set_name=None, enable_test_commands=False
    )
    server.start()
    try:
        yield f"mongodb://127.0.0.1:{server.port}/sacred"
    finally:
        server.stop()


@pytest.fixture
def url(tmp_path):
    with served(tmp_path / "database") as address:
        yield address


def run_import(folder, url):
    return lolm.main(["lolm", "import-runs", str(folder), "--mongo", url])


def content(database):
    """Return the runs and series of a database, without the ids that it creates."""
    runs = {run["_id"]: {**run, "artifacts": [a["name"] for a in run["artifacts"]]} for run in database.runs.find()}
    series = {(m["run_id"], m["name"]): (m["steps"], m["values"]) for m in database.metrics.find()}
    return runs, series


def test_importing_twice_adds_once_and_updates_changed_runs(tmp_path, url, capsys):
    folder = tmp_path / "runs"
    write(folder / "mappo/3m/1", config={"seed": 1})
    write(folder / "mappo/3m/2", config={"seed": 2}, run={"status": "RUNNING"})
    assert run_import(folder, url) == 0
    assert "2 added, 0 updated, 0 unchanged" in capsys.readouterr().out
    database = mongo.connect(url)
    first = content(database)
    assert run_import(folder, url) == 0
    assert "0 added, 0 updated, 2 unchanged" in capsys.readouterr().out
    assert content(database) == first

    database.runs.update_one({"_id": 2}, {"$set": {"omniboard.tags": ["mine"]}})
    (folder / "mappo/3m/2").rename(folder / "moved")
    longer = {"entropy": {"steps": [1, 2, 3], "values": [3, 2, 1]}}
    (folder / "moved/metrics.json").write_text(json.dumps(longer))
    (folder / "moved/run.json").write_text((folder / "mappo/3m/1/run.json").read_text())
    assert run_import(folder, url) == 0
    assert "0 added, 1 updated, 1 unchanged" in capsys.readouterr().out
    runs, series = content(database)
    assert sorted(runs) == [1, 2]
    assert runs[2]["status"] == "COMPLETED"
    assert runs[2]["omniboard"]["tags"] == ["mine"], "the user's tags were overwritten"
    assert series[2, "entropy"] == ([1, 2, 3], [3, 2, 1])


def test_a_run_has_the_format_of_sacreds_own_observer(tmp_path, url):
    info = {"transfer": {"source_map": "8m"}, "launch": {"host": "bundled"}}
    config = {"env_args": {"map_name": "3m", "a.b": 1}}
    folder = write(tmp_path / "runs/1", config=config, info=info, run={"command": "my_main"})
    (folder / "cout.txt").write_text("printed\n")
    (folder / "curve.png").write_bytes(b"picture")
    run_import(tmp_path / "runs", url)
    database = mongo.connect(url)
    (run,) = database.runs.find()
    assert (run["_id"], run["command"], run["format"]) == (1, "my_main", "MongoObserver-0.7.0")
    assert (run["start_time"].isoformat(), run["captured_out"]) == ("2026-01-01T10:00:00", "printed\n")
    assert (run["experiment"]["name"], run["steps"]) == ("mappo 3m", 2)
    assert run["omniboard"]["tags"] == ["mappo", "sc2", "bundled", "from 8m"]
    assert run["config"]["env_args"] == {"map_name": "3m", "a·b": 1}
    (metric,) = database.metrics.find()
    assert run["info"]["metrics"] == [{"name": "entropy", "id": str(metric["_id"])}]
    assert (metric["run_id"], metric["steps"], metric["values"]) == (1, [1, 2], [0.5, 0.25])
    import gridfs

    files = {a["name"]: gridfs.GridFS(database).get(a["file_id"]).read() for a in run["artifacts"]}
    assert files["curve.png"] == b"picture"
    assert b"map_name: 3m" in files["config.yaml"]


def test_passwords_in_foreign_records_are_removed(tmp_path, url):
    asked = {"options": {"--mongo_db": f"mongodb://me:{SECRET}@host/x"}}
    folder = write(tmp_path / "runs/1", run={"meta": asked}, config={"address": f"mongodb://me:{SECRET}@host/x"})
    (folder / "cout.txt").write_text(f"connected to mongodb://me:{SECRET}@host/x\n")
    run_import(tmp_path / "runs", url)
    database = mongo.connect(url)
    (run,) = database.runs.find()
    assert run["meta"]["options"]["--mongo_db"] == "mongodb://***@host/x"
    assert SECRET not in str(run)
    import gridfs

    files = [gridfs.GridFS(database).get(artifact["file_id"]).read() for artifact in run["artifacts"]]
    assert not [content for content in files if SECRET.encode() in content]


def test_data_too_large_for_a_document_are_cut_with_a_note(tmp_path, url):
    count = 3 * run_documents.POINTS + 1
    folder = write(tmp_path / "runs/1", metrics={"loss": {"steps": list(range(count)), "values": [0.5] * count}})
    (folder / "cout.txt").write_text("x" * 20_000_000 + "the end")
    assert run_import(tmp_path / "runs", url) == 0
    database = mongo.connect(url, seconds=60)
    (run,), (metric,) = database.runs.find(), database.metrics.find()
    assert len(run["captured_out"]) < 1.1 * run_documents.OUTPUT
    assert run["captured_out"].endswith("the end")
    assert "are in cout.txt]" in run["captured_out"]
    assert len(metric["steps"]) <= run_documents.POINTS
    assert metric["steps"][-1] == count - 1


def test_an_exported_run_equals_the_imported_one(tmp_path, url):
    assert train(tmp_path / "run", *line("updet_mappo", "probe", "duel", "t_max=100")) == 0
    run_import(tmp_path / "run", url)
    database = mongo.connect(url)
    mongo.export(database, 1, tmp_path / "back")
    before, after = (run_documents.read(folder) for folder in (record(tmp_path / "run", 1), tmp_path / "back"))
    assert after.series.keys() == before.series.keys()
    for name, series in before.series.items():  # no timestamps: a database keeps only milliseconds
        assert (after.series[name]["steps"], after.series[name]["values"]) == (series["steps"], series["values"])
    for key in ("config", "status", "captured_out", "info", "host", "meta"):
        assert after.run[key] == before.run[key], key
    assert after.files["curve.png"] == before.files["curve.png"]
    assert lolm.main(["lolm", "report", str(tmp_path / "back")]) == 0


def test_exported_file_names_stay_inside_the_record(tmp_path, url):
    """Anyone who can write to the database can choose these names."""
    import gridfs

    write(tmp_path / "runs/1")
    run_import(tmp_path / "runs", url)
    database = mongo.connect(url)
    names = ["..", "../../evil", "/etc/evil", "a\\..\\evil", "run.json", "", "x" * 300, "nul\0l", ".hidden"]
    file = gridfs.GridFS(database).put(b"content")
    artifacts = [{"name": name, "file_id": file} for name in names]
    database.runs.update_one({"_id": 1}, {"$set": {"artifacts": artifacts}})
    mongo.export(database, 1, tmp_path / "out/back")
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("runs", "database")] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["back"]
    record = json.loads((tmp_path / "out/back/run.json").read_text())
    assert record["status"] == "COMPLETED", "an artifact replaced a file of the record"
    assert len(set(record["artifacts"])) == len(names)
    for name in record["artifacts"]:
        assert (tmp_path / "out/back" / name).read_bytes() == b"content"


@pytest.mark.parametrize(
    "changes", [{"config": None, "experiment": None}, {"artifacts": [{"file_id": 1}]}, {"artifacts": 7}, {"info": [1]}]
)
def test_a_run_in_another_format_is_refused(tmp_path, url, capsys, changes):
    write(tmp_path / "runs/1")
    run_import(tmp_path / "runs", url)
    mongo.connect(url).runs.update_one({"_id": 1}, {"$set": changes})
    assert lolm.main(["lolm", "export-run", "1", "--mongo", url, "--out", str(tmp_path / "back")]) == 2
    assert "run 1 of this database is not in Sacred's format" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import-runs", "."], "set --mongo or LOLM_MONGO_URL"),
        (["import-runs", "nowhere", "--mongo", "mongodb://127.0.0.1:1/x"], "nowhere has no Sacred run below it"),
        (["import-runs", "{runs}", "--mongo", "nonsense"], "--mongo is not the address of a MongoDB"),
        (["export-run", "7", "--mongo", "{url}"], "run 7 is not in this database"),
        (["export-run", "7", "--mongo", "{url}", "--out", "{runs}"], "exists already"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, url, capsys, monkeypatch, arguments, said):
    monkeypatch.delenv("LOLM_MONGO_URL", raising=False)
    write(tmp_path / "runs/1")
    assert lolm.main(["lolm", *(word.format(url=url, runs=tmp_path / "runs") for word in arguments)]) == 2
    assert said in capsys.readouterr().err


def test_an_absent_database_fails_an_import_with_one_sentence(tmp_path, capsys, monkeypatch):
    write(tmp_path / "runs/1")
    monkeypatch.setattr(mongo, "connect", lambda url, connect=mongo.connect: connect(url, seconds=0.2))
    assert run_import(tmp_path / "runs", f"mongodb://me:{SECRET}@127.0.0.1:1/sacred") == 1
    printed = "".join(capsys.readouterr())
    assert "error: mongodb://***@127.0.0.1:1/sacred cannot store the runs" in printed
    assert SECRET not in printed


# --- During a run ---


@pytest.fixture
def hasty(monkeypatch):
    """Make the observer's pauses and its time limit for the database short."""
    monkeypatch.setattr(mongo_observer, "AGAIN", 0.05)
    monkeypatch.setattr(mongo_observer, "LAST", 20)
    monkeypatch.setattr(mongo, "SECONDS", 0.3)
    monkeypatch.setattr(mongo, "connect", lambda url, connect=mongo.connect: connect(url, seconds=0.3))


@pytest.fixture
def said(monkeypatch):
    """Return a function that lists our log lines about the database."""
    messages, logger = [], logging.getLogger("lolm")
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, handler])
    monkeypatch.setattr(logger, "level", logging.INFO)
    return lambda: [message for message in messages if message.startswith("The database")]


def wait_until(true):
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def test_a_run_is_in_the_database_when_it_ends(tmp_path, url, monkeypatch):
    monkeypatch.setenv("LOLM_MONGO_URL", url)
    assert train(tmp_path / "run", *line("updet_mappo", "probe", "duel", "t_max=100")) == 0
    (run,) = mongo.connect(url).runs.find()
    assert run["status"] == "COMPLETED"
    assert {a["name"] for a in run["artifacts"]} == {"curve.png", "config.yaml", "battle.html"}
    assert mongo.import_all([record(tmp_path / "run", 1)], mongo.connect(url)).outcomes == {"unchanged": 1}


def test_the_example_of_a_prompt_is_in_the_database(tmp_path, url, monkeypatch):
    import gridfs

    monkeypatch.setenv("LOLM_MONGO_URL", url)
    assert train(tmp_path / "run", *line("lolm_mappo_tiny", "probe", "duel", "t_max=50")) == 0
    database = mongo.connect(url)
    (run,) = database.runs.find()
    (prompt,) = (
        gridfs.GridFS(database).get(a["file_id"]).read() for a in run["artifacts"] if a["name"] == "prompt.txt"
    )
    assert b"marine" in prompt
    assert prompt.decode() == (record(tmp_path / "run", 1) / "prompt.txt").read_text()


def test_an_absent_database_costs_two_log_lines(tmp_path, monkeypatch, hasty, said):
    monkeypatch.setattr(mongo_observer, "LAST", 1)
    address = f"mongodb://me:{SECRET}@127.0.0.1:1/sacred?appName=a&tlsCertificateKeyFilePassword={SECRET}"
    assert train(tmp_path / "run", *line("updet_mappo", "probe", "duel", "t_max=100"), f"mongo={address}") == 0
    first, last = said()
    shown = "mongodb://***@127.0.0.1:1/sacred?appName=a&tlsCertificateKeyFilePassword=***"
    assert f"The database at {shown} does not accept this run" in first
    assert "training continues" in first
    assert "lacks the end of this run" in last
    assert "lolm import-runs results/sacred/updet_mappo/duel/1" in last
    assert json.loads((record(tmp_path / "run", 1) / "run.json").read_text())["status"] == "COMPLETED"
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


def test_a_password_on_the_command_line_is_in_no_output(tmp_path, monkeypatch, hasty, capfd):
    monkeypatch.setattr(mongo_observer, "LAST", 1)
    arguments = line("updet_mappo", "probe", "duel", "t_max=100")
    assert train(tmp_path / "run", f"--mongo=mongodb://me:{SECRET}@127.0.0.1:1/sacred", *arguments) == 0
    assert SECRET not in "".join(capfd.readouterr())


def test_a_database_that_comes_back_gets_the_whole_run(tmp_path, hasty, said):
    folder = write(tmp_path / "runs/1", run={"status": "RUNNING"})

    def grow(status="RUNNING"):
        run = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**run, "status": status, "heartbeat": "2026-01-01T10:00:05"}))

    with served(tmp_path / "database") as address:
        observer = MongoObserver(parse(address, "--mongo"), lambda: folder)
        observer.started_event()
        wait_until(lambda: mongo.connect(address).runs.count_documents({}) == 1)
        port = int(address.split(":")[2].split("/")[0])
    grow()
    observer.heartbeat_event()
    wait_until(said)
    with served(tmp_path / "database", port) as address:
        wait_until(lambda: len(said()) == 2)
        grow("COMPLETED")
        observer.close()
        down, up = said()
        assert "does not accept this run" in down
        assert "has the whole run again" in up
        (run,) = mongo.connect(address).runs.find()
        assert run["status"] == "COMPLETED"
        assert mongo.import_all([folder], mongo.connect(address)).outcomes == {"unchanged": 1}


@pytest.mark.parametrize("how", ["slow", "full", "too large"])
def test_training_does_not_wait_for_a_failing_database(tmp_path, monkeypatch, said, how):
    from pymongo.errors import DocumentTooLarge, OperationFailure

    folder = write(tmp_path / "runs/1")
    errors = {"full": OperationFailure("no space left on device"), "too large": DocumentTooLarge("over 16 MB")}
    asked, answered = threading.Event(), threading.Event()

    def answer(database, documents):
        asked.set()
        answered.wait(PATIENCE)
        raise errors.get(how, TimeoutError("the server takes its time"))

    monkeypatch.setattr(mongo, "write", answer)
    monkeypatch.setattr(mongo_observer, "LAST", 0.1)
    observer = MongoObserver(parse("mongodb://127.0.0.1:1/sacred", "--mongo"), lambda: folder)
    observer.started_event()
    assert asked.wait(PATIENCE)
    for event in (observer.heartbeat_event, observer.heartbeat_event, observer.close):
        event()  # would block here if it waited for the answer
    assert "lacks the end of this run" in said()[-1]
    answered.set()
    observer._thread.join(PATIENCE)
    assert "does not accept this run" in said()[-1]


def test_hiding_secrets_keeps_the_advice_readable():
    with pytest.raises(ConfigError, match="as mongodb://HOST:PORT/NAME, or as shown in docs/dashboard") as error:
        parse("foo", "mongo")
    assert hidden(str(error.value)) == str(error.value)
