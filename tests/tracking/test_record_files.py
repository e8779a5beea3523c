"""Fifty hostile records and a valid one: each gives a sentence, no outside file is opened, the valid one counts."""

import json
import os
import sys
import time

import pytest

from lolm_plugin.commands import lolm
from lolm_plugin.report import records
from lolm_plugin.tracking import mongo, record_files, run_documents
from lolm_plugin.tracking.record_files import RecordError
from tests.report.test_records import write
from tests.tracking.hostile_records import damaged, prying
from tests.tracking.test_mongo import served

SECRET = "content of a file outside"
COUNT = 50


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "outside" / "secret.txt"
    path.parent.mkdir()
    path.write_text(json.dumps({"name": SECRET, "env_args": {}, "status": SECRET}))
    return path


@pytest.fixture
def opened():
    """Collect every path that this process opens."""
    seen, watching = [], [True]

    def hook(event, arguments):
        if event == "open" and watching and isinstance(arguments[0], str | bytes):
            seen.append(os.fsdecode(arguments[0]))

    sys.addaudithook(hook)  # cannot be removed
    yield seen
    watching.clear()


def test_fifty_hostile_records_do_not_affect_others_and_open_nothing(tmp_path, secret, opened):
    runs = tmp_path / "runs"
    good = write(runs / "good", metrics={"test_return_mean": {"steps": [1, 2], "values": [1, 5]}})
    bad = [damaged(runs, secret, seed) for seed in range(COUNT - 5)]
    pry = [prying(runs, secret, seed) for seed in range(COUNT - 5, COUNT)]
    opened.clear()
    began = time.monotonic()
    unusable = []
    found = records.read_all(runs, unusable)
    assert {run.folder for run in found} == {good, *(folder for folder, _ in pry)}
    assert len(unusable) == len(bad)
    for folder in bad:
        assert [text for text in unusable if text.startswith(f"{record_files.shown(folder, 500)}: ")], folder
    for sentence in unusable:
        assert sentence.isprintable()
        assert sentence.endswith(".")
        assert len(sentence) < 700
        assert SECRET not in sentence

    with served(tmp_path / "database") as url:
        database = mongo.connect(url)
        outcomes, left_out = mongo.import_all(list(record_files.find(runs)), database, quiet=True)
        assert outcomes == {"added": 1 + len(pry)}
        assert len(left_out) == len(bad) + sum(count for _, count in pry)
        assert SECRET not in str(list(database.runs.find()))
        assert not [file for file in database.fs.chunks.find() if SECRET.encode() in file["data"]]
    assert time.monotonic() - began < 60
    assert str(good / "config.json") in opened
    assert str(secret) not in opened
    assert not [path for path in opened if "pipe" in path or path.startswith("/dev/zero")]


def test_commands_name_the_records_that_they_leave_out(tmp_path, secret, capsys):
    runs = tmp_path / "runs"
    write(runs / "good", metrics={"test_return_mean": {"steps": [1, 2], "values": [1, 5]}})
    bad = write(runs / "bad")
    (bad / "config.json").write_bytes(b"\xff")
    assert lolm.main(["lolm", "report", str(runs)]) == 0
    printed = capsys.readouterr().out
    assert f"1 record is left out: {bad}: config.json is not UTF-8." in printed
    assert "mappo" in printed
    assert "config.json is not UTF-8." in (runs / "report/index.html").read_text()
    with served(tmp_path / "database") as url:
        assert lolm.main(["lolm", "import-runs", str(runs), "--mongo", url]) == 0
    printed = capsys.readouterr().out
    assert f"left out: {bad}: config.json is not UTF-8." in printed
    assert "1 added, 0 updated, 0 unchanged" in printed
    assert lolm.main(["lolm", "report", str(bad)]) == 2
    assert "has no record that can be used; 1 record is left out" in capsys.readouterr().err


def test_a_file_outside_of_the_record_is_not_copied(tmp_path, secret):
    """Such names once copied /etc/passwd into the database."""
    names = ["../../../../etc/passwd", str(secret), "../../outside/secret.txt", "link"]
    sources = [["a.py", "../outside/secret.txt"], ["b.py", "_sources/b.py"], ["c.py", "_sources/../../secret.txt"]]
    run = {"artifacts": [*names, "curve.png"], "experiment": {"sources": sources}}
    folder = write(tmp_path / "runs/1", run=run)
    (folder / "link").symlink_to(secret)
    (folder / "curve.png").write_bytes(b"picture")
    (tmp_path / "runs/_sources").mkdir()
    (tmp_path / "runs/_sources/b.py").write_bytes(b"source")
    documents = run_documents.read(folder)
    assert documents.files.keys() == {"curve.png", "config.yaml"}
    assert documents.sources == {"b.py": b"source"}
    assert len(documents.left_out) == 6
    assert f"{folder}: the file link is not a regular file" in documents.left_out[3]


def test_the_total_size_of_files_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(run_documents, "FILES", 10)
    folder = write(tmp_path / "1", run={"artifacts": ["a", "b"]})
    for name in "ab":
        (folder / name).write_bytes(b"12345678")
    documents = run_documents.read(folder)
    assert documents.files.keys() == {"a", "config.yaml"}
    assert "the file b is longer than" in documents.left_out[0]


def test_a_file_with_too_many_values_is_not_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(record_files, "ELEMENTS", 100)
    folder = write(tmp_path / "1", metrics={"loss": {"steps": list(range(60)), "values": [0] * 60}})
    with pytest.raises(RecordError, match=r"metrics\.json holds more than 100 values"):
        record_files.load(folder)


def test_null_is_read_as_nan(tmp_path):
    folder = write(tmp_path / "1", metrics={"loss": {"steps": [1, 2], "values": [None, 0.5]}})
    values = records.read(folder).series["loss"].values
    assert values[0] != values[0]
    assert values[1] == 0.5


def test_untrusted_text_is_printed_as_one_plain_line():
    assert record_files.shown("a\x1b[31m\nb\ud800") == "a\ufffd[31m b\ufffd"
    assert record_files.shown("x" * 300, 10) == "xxxxxxxxx…"
