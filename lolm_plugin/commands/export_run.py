"""``lolm export-run ID --mongo URL``: a run from a MongoDB back to the files that Sacred writes."""

import argparse
import itertools
import os
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from lolm_plugin import strict_json
from lolm_plugin.commands.import_runs import VARIABLE
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import parse
from lolm_plugin.paths import expand_home
from lolm_plugin.tracking import mongo
from lolm_plugin.tracking.record_files import LIMITS, shown
from lolm_plugin.tracking.run_documents import TIMES

RECORD = (*LIMITS, "cout.txt")  # what the record itself consists of

DESCRIPTION = """\
Writes a run of a MongoDB, whoever put it there, as a Sacred file record, which `lolm report` and EPyMARL's plots read.

  lolm export-run 12 --mongo mongodb://127.0.0.1:27017/sacred --out exported/12
"""
APART = (
    "_id",
    "config",
    "info",
    "captured_out",
    "omniboard",
    "record_id",
    "digest",
    "points",
    "steps",
    "format",
    "artifacts",
)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code, 1 where the database failed."""
    from pymongo.errors import PyMongoError

    parser = argparse.ArgumentParser(
        "lolm export-run", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("id", type=int, help="the run's number, Omniboard's first column")
    parser.add_argument("--mongo", metavar="URL", default=os.environ.get(VARIABLE), help=f"default ${VARIABLE}")
    parser.add_argument("--out", help="a folder that does not exist yet; default run-ID")
    options = parser.parse_args(list(arguments))
    if not options.mongo:
        raise ConfigError(f"no database is named; set --mongo or {VARIABLE} to mongodb://HOST:PORT/NAME.")
    folder = Path(expand_home(options.out or f"run-{options.id}", "--out"))
    if folder.exists():
        raise ConfigError(f"--out={folder} exists already; name a folder that does not.")
    address = parse(options.mongo, "--mongo")
    database = mongo.connect(address)
    try:
        export(database, options.id, folder)
    except OSError as error:
        raise ConfigError(
            f"--out={folder} cannot be written ({error.strerror}); set it to a folder that can be."
        ) from error
    except PyMongoError as error:
        print(f"error: {address} does not give the run ({address.hide(str(error))}).")
        return 1
    print(f"run {options.id} is in {folder}")
    return 0


def export(database: Any, number: int, folder: Path) -> None:
    """Write the record of run ``number``; ConfigError where there is none, or one that Sacred did not lay out."""
    import gridfs

    run = database.runs.find_one({"_id": number})
    if run is None:
        raise ConfigError(
            f"run {number} is not in this database; Omniboard's first column has the numbers of those that are."
        )
    try:
        metrics = {
            metric["name"]: {
                "steps": metric["steps"],
                "values": metric["values"],
                "timestamps": [_text(time) for time in metric["timestamps"]],
            }
            for metric in database.metrics.find({"run_id": number})
        }
        listed = [(artifact["name"], artifact["file_id"]) for artifact in run.get("artifacts") or []]
        names = _file_names([name for name, _ in listed])
        content = {key: value for key, value in run.items() if key not in APART}
        content |= {key: _text(run.get(key)) for key in TIMES}
        content["artifacts"] = names
        content["experiment"] = {**run["experiment"], "sources": []}
        info = {key: value for key, value in (run.get("info") or {}).items() if key != "metrics"}
        written = {"run": content, "config": run["config"], "info": info, "metrics": metrics}
        texts = {
            f"{name}.json": strict_json.dumps(value, indent=2, sort_keys=True, default=str)
            for name, value in written.items()
        }
        texts["cout.txt"] = "".join(run.get("captured_out") or "")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"run {number} of this database is not laid out as Sacred does it ({type(error).__name__}: "
            f"{shown(error)}), so it has no file record; name another run."
        ) from error
    files = gridfs.GridFS(database)
    # In its place only when it is whole: a file that is missing in the database leaves no half of a record.
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name[:100]}.") as scratch:
        unfinished = Path(scratch, "record")
        unfinished.mkdir()
        for name, (_, file_id) in zip(names, listed, strict=True):
            (unfinished / name).write_bytes(files.get(file_id).read())
        for name, text in texts.items():
            (unfinished / name).write_text(text, encoding="utf-8", errors="replace")
        unfinished.rename(folder)


def _file_names(names: Sequence[str]) -> list[str]:
    """Make file names of what a database calls its files: all within the folder, none twice, none the record's own."""
    found: list[str] = []
    for name in names:
        last = shown(PurePosixPath(name.replace("\\", "/")).name, 100).replace("\ufffd", "_").lstrip(".") or "file"
        taken = {*found, *RECORD}
        number = itertools.count(2)
        safe = last
        while safe in taken:
            safe = f"{next(number)}_{last}"
        found.append(safe)
    return found


def _text(time: datetime | None) -> str | None:
    return time.isoformat() if time else None
