"""``lolm export-run ID --mongo URL``: a run from a MongoDB back to the files that Sacred writes."""

import argparse
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lolm_plugin import strict_json
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import parse
from lolm_plugin.tracking import mongo
from lolm_plugin.tracking.import_runs import VARIABLE
from lolm_plugin.tracking.run_documents import TIMES

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
    folder = Path(options.out or f"run-{options.id}")
    if folder.exists():
        raise ConfigError(f"--out={folder} exists already; name a folder that does not.")
    address = parse(options.mongo, "--mongo")
    database = mongo.connect(address)
    try:
        export(database, options.id, folder)
    except PyMongoError as error:
        print(f"error: {address} does not give the run ({address.hide(str(error))}).")
        return 1
    print(f"run {options.id} is in {folder}")
    return 0


def export(database: Any, number: int, folder: Path) -> None:
    """Write the record of run ``number``; ConfigError where there is none."""
    import gridfs

    run = database.runs.find_one({"_id": number})
    if run is None:
        raise ConfigError(
            f"run {number} is not in this database; Omniboard's first column has the numbers of those that are."
        )
    metrics = {
        metric["name"]: {
            "steps": metric["steps"],
            "values": metric["values"],
            "timestamps": [_text(time) for time in metric["timestamps"]],
        }
        for metric in database.metrics.find({"run_id": number})
    }
    folder.mkdir(parents=True)
    files = gridfs.GridFS(database)
    artifacts = run.get("artifacts") or []
    for artifact in artifacts:
        # A name from elsewhere stays within the folder.
        (folder / Path(artifact["name"]).name).write_bytes(files.get(artifact["file_id"]).read())
    content = {key: value for key, value in run.items() if key not in APART}
    content |= {key: _text(run.get(key)) for key in TIMES}
    content["artifacts"] = [Path(artifact["name"]).name for artifact in artifacts]
    content["experiment"] = {**run["experiment"], "sources": []}
    info = {key: value for key, value in (run.get("info") or {}).items() if key != "metrics"}
    written = {"run": content, "config": run["config"], "info": info, "metrics": metrics}
    for name, value in written.items():
        (folder / f"{name}.json").write_text(strict_json.dumps(value, indent=2, sort_keys=True, default=str))
    (folder / "cout.txt").write_text(run.get("captured_out") or "")


def _text(time: datetime | None) -> str | None:
    return time.isoformat() if time else None
