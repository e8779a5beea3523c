"""Runs in a MongoDB, as Sacred's MongoObserver lays them out: written, written again, told apart."""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

from lolm_plugin import passwords
from lolm_plugin.errors import ConfigError
from lolm_plugin.tracking.run_documents import Documents

SECONDS = 5.0  # for the server to answer
DATABASE = "sacred"  # where a URL names none
ATTEMPTS = 20  # at a number for a new run, while others take numbers, too

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
    limits = dict.fromkeys(("serverSelectionTimeoutMS", "connectTimeoutMS", "socketTimeoutMS"), milliseconds)
    try:
        return pymongo.MongoClient(address.text, **limits).get_default_database(DATABASE)
    except (PyMongoError, ValueError, OSError) as error:  # OSError: a certificate that cannot be read
        reason = " ".join(address.hide(str(error)).split())
        # From none: a traceback would show the error with the address in it.
        raise ConfigError(f"--mongo={address} cannot be used ({reason}); write it as {passwords.FORM}.") from None


def write(database: Any, documents: Documents) -> Outcome:
    """Make the database say what the file record says. Raises pymongo.errors.PyMongoError.

    What was written last is a sum of all of it, so a run whose writing broke off is written again.
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
    """Insert the run under the next free number, as Sacred counts; tags are the user's to change from then on."""
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
    """The id of a file with this name and content; one that is there already is not stored again."""
    import gridfs

    digest = hashlib.sha256(data).hexdigest()
    there: Mapping[str, Any] | None = database.fs.files.find_one(
        {"filename": name, "metadata.sha256": digest}, {"_id": 1}
    )
    return there["_id"] if there else gridfs.GridFS(database).put(data, filename=name, metadata={"sha256": digest})
