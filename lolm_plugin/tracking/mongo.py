"""Sacred's runs in a MongoDB: connect, import file records, export a run to files."""

import hashlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout
from tqdm import tqdm

from lolm_plugin import passwords, strict_json
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import hidden
from lolm_plugin.tracking import run_documents
from lolm_plugin.tracking.record_files import LIMITS, RecordError, shown
from lolm_plugin.tracking.run_documents import TIMES, Documents

URL_VARIABLE = "LOLM_MONGO_URL"
SECONDS = 5.0  # for the server to answer
DATABASE = "sacred"  # if a URL names none
ATTEMPTS = 20  # to get a number for a new run while other processes take numbers
RECORD = (*LIMITS, "cout.txt")  # files of a record; no artifact may have one of these names
_INDEXED = "_id config info captured_out omniboard record_id digest points steps format artifacts"
NOT_IN_RUN_JSON = frozenset(_INDEXED.split())  # keys of a run's document

Outcome = Literal["added", "updated", "unchanged"]


def connect(url: str | passwords.Address, seconds: float = SECONDS) -> Any:
    """Open the database at ``url`` without connecting yet. Raises ConfigError for anything but a database's address."""
    address = passwords.parse(url, "--mongo") if isinstance(url, str) else url
    try:
        import pymongo
        from pymongo.errors import PyMongoError
    except ImportError as error:
        raise ConfigError(
            "a MongoDB needs the package pymongo, which is not installed; pip install 'lolm_plugin[dashboard]', or "
            "leave out --mongo and LOLM_MONGO_URL."
        ) from error
    milliseconds = int(seconds * 1000)
    limits: dict[str, Any] = dict.fromkeys(
        ("serverSelectionTimeoutMS", "connectTimeoutMS", "socketTimeoutMS"), milliseconds
    )
    try:
        return pymongo.MongoClient(address.text, **limits).get_default_database(DATABASE)
    except (PyMongoError, ValueError, OSError) as error:  # OSError: a certificate that cannot be read
        reason = " ".join(address.hide(str(error)).split())
        # ``from None``, because a traceback would show the address in the original error.
        raise ConfigError(f"--mongo={address} cannot be used ({reason}); write it as {passwords.FORM}.") from None


@contextmanager
def embedded(folder: Path) -> Iterator[passwords.Address]:
    """Serve a database with MongoDB's protocol and its files in ``folder``/.dashboard. Raises ConfigError."""
    try:
        from secantus import SecantusDBServer
    except ImportError as error:
        raise ConfigError(
            "the embedded database needs the package SecantusDB, which is not installed; pip install "
            "'lolm_plugin[dashboard]', or set --mongo to a MongoDB."
        ) from error
    from wiredtiger import WiredTigerError  # the storage engine of SecantusDB

    storage = folder / ".dashboard"
    with _locked(storage):
        try:
            server = SecantusDBServer(
                host="127.0.0.1", port=0, storage_path=str(storage), replica_set_name=None, enable_test_commands=False
            )
            server.start()
        except WiredTigerError as error:
            raise ConfigError(
                f"the dashboard's database {storage} cannot be opened ({error}); remove it, and it is rebuilt from "
                "the runs, without tags and notes."
            ) from error
        try:
            yield passwords.parse(f"mongodb://127.0.0.1:{server.port}/{DATABASE}", "--mongo")
        finally:
            server.stop()


@contextmanager
def _locked(storage: Path) -> Iterator[None]:
    """Lock the database's folder, which only one process may use. Raises ConfigError if another process uses it."""
    if storage.is_symlink():  # with a link, runs from an untrusted source could redirect the database's files
        raise ConfigError(f"{storage} is a link, but the database needs a folder; remove the link.")
    try:
        storage.mkdir(exist_ok=True)
        lock = FileLock(storage / "lolm.lock", timeout=0).acquire()
    except Timeout as error:
        raise ConfigError(
            f"another lolm dashboard shows the runs below {storage.parent}; use its page, or stop it."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"the dashboard keeps its database in {storage}, which cannot be written ({error.strerror}); copy the runs "
            "to a folder that can be written, or set --mongo to a database."
        ) from error
    with lock:
        yield


def write(database: Any, documents: Documents) -> Outcome:
    """Write a run, or update it. Raises pymongo.errors.PyMongoError.

    The digest is written last, so that an interrupted write is repeated.
    """
    known = database.runs.find_one({"record_id": documents.record_id}, {"digest": 1, "points": 1})
    if known is not None and known.get("digest") == documents.digest:
        return "unchanged"
    number = known["_id"] if known else _new(database, documents)
    points = dict(known.get("points") or []) if known else {}
    for name, series in documents.series.items():
        if points.get(name) != len(series["steps"]):
            database.metrics.replace_one(
                {"run_id": number, "name": name}, {"run_id": number, "name": name, **series}, upsert=True
            )
    ids = [{"name": m["name"], "id": str(m["_id"])} for m in database.metrics.find({"run_id": number}, {"name": 1})]
    changed = {
        **documents.run,
        "info": {**documents.run["info"], "metrics": ids},
        "artifacts": [{"name": name, "file_id": _file(database, name, data)} for name, data in documents.files.items()],
        "experiment": {
            **documents.run["experiment"],
            "sources": [[name, _file(database, name, data)] for name, data in documents.sources.items()],
        },
        "points": [[name, len(series["steps"])] for name, series in documents.series.items()],
        "digest": documents.digest,
    }
    database.runs.update_one({"_id": number}, {"$set": changed})
    return "updated" if known else "added"


def _new(database: Any, documents: Documents) -> int:
    """Insert the run under the next free number, as Sacred does. Tags are written only here, as users edit them."""
    from pymongo.errors import DuplicateKeyError

    start = {**documents.run, "record_id": documents.record_id, "omniboard": {"tags": documents.tags, "notes": ""}}
    for attempt in range(ATTEMPTS):
        last = database.runs.find_one({}, {"_id": 1}, sort=[("_id", -1)])
        number = (last["_id"] if last else 0) + 1
        try:
            database.runs.insert_one({"_id": number, **start})
        except DuplicateKeyError:
            if attempt == ATTEMPTS - 1:
                raise
            continue
        return number
    raise AssertionError("the loop returns or raises")


def _file(database: Any, name: str, data: bytes) -> Any:
    """Store a file unless it is already stored. Returns its id."""
    import gridfs

    digest = hashlib.sha256(data).hexdigest()
    stored: Mapping[str, Any] | None = database.fs.files.find_one(
        {"filename": name, "metadata.sha256": digest}, {"_id": 1}
    )
    return stored["_id"] if stored else gridfs.GridFS(database).put(data, filename=name, metadata={"sha256": digest})


class Imported(NamedTuple):
    """Numbers of records added, updated and unchanged, and a sentence for each record or file left out."""

    outcomes: Counter[Outcome]
    left_out: list[str]


def import_all(folders: Sequence[Path], database: Any, quiet: bool = False) -> Imported:
    """Write each valid record to the database. Raises pymongo.errors.PyMongoError if the database fails."""
    from bson.errors import BSONError
    from pymongo.errors import DocumentTooLarge, WriteError

    imported = Imported(Counter(), [])
    for folder in tqdm(folders, desc="import", unit="run", disable=quiet, leave=False):
        try:
            documents = run_documents.read(folder)
            imported.outcomes[write(database, documents)] += 1
            imported.left_out.extend(documents.left_out)
        except RecordError as error:
            imported.left_out.append(str(error))
        # The database may refuse one record and accept the others.
        except (BSONError, DocumentTooLarge, WriteError, OverflowError) as error:
            reason = hidden(str(error))[:200]
            imported.left_out.append(f"{shown(folder, 500)}: the database refuses this record ({reason}).")
    return imported


def export(database: Any, number: int, folder: Path) -> None:
    """Write run ``number`` as a file record. Raises ConfigError if it does not exist or is not in Sacred's format."""
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
        artifacts = [(artifact["name"], artifact["file_id"]) for artifact in run.get("artifacts") or []]
        names = _file_names([name for name, _ in artifacts])
        content = {key: value for key, value in run.items() if key not in NOT_IN_RUN_JSON}
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
            f"run {number} of this database is not in Sacred's format ({type(error).__name__}: "
            f"{shown(error)}), so it cannot be exported; name another run."
        ) from error
    files = gridfs.GridFS(database)
    # Renamed when complete, so that a file missing in the database leaves no incomplete record.
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name[:100]}.") as scratch:
        unfinished = Path(scratch, "record")
        unfinished.mkdir()
        for name, (_, file_id) in zip(names, artifacts, strict=True):
            (unfinished / name).write_bytes(files.get(file_id).read())
        for name, text in texts.items():
            (unfinished / name).write_text(text, encoding="utf-8", errors="replace")
        unfinished.rename(folder)


def _file_names(names: Sequence[str]) -> list[str]:
    """Return safe file names: inside the folder, unique, and different from the record's own files."""
    safe_names: list[str] = []
    for name in names:
        last = shown(PurePosixPath(name.replace("\\", "/")).name, 100).replace("\ufffd", "_").lstrip(".") or "file"
        taken = {*safe_names, *RECORD}
        number = itertools.count(2)
        safe = last
        while safe in taken:
            safe = f"{next(number)}_{last}"
        safe_names.append(safe)
    return safe_names


def _text(time: datetime | None) -> str | None:
    return time.isoformat() if time else None
