"""Convert a Sacred file record to the documents that Sacred's MongoObserver writes and Omniboard reads."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lolm_plugin import maps
from lolm_plugin.passwords import hidden
from lolm_plugin.tracking import record_files
from lolm_plugin.tracking.record_files import MB, Metric, parse_time

FORMAT = "MongoObserver-0.7.0"  # of the documents
OUTPUT = 1_000_000  # last characters of the printed output that are kept; a document holds 16 MB
FILE, FILES = 16 * MB, 64 * MB  # largest stored file, and all stored files of a run, which are held in memory
SOURCES = "_sources"  # Sacred's folder of source files
POINTS = 200_000  # of a series; more would not fit a document
OURS = ("curve.png", "prompt.txt")  # files of a run that people want to look at
TIMES = ("start_time", "stop_time", "heartbeat")


class Documents(NamedTuple):
    """Documents and files of one run in a database; the keys of series, files and sources are names."""

    record_id: str
    run: dict[str, Any]  # without ``_id``
    series: dict[str, dict[str, list]]
    files: dict[str, bytes]
    sources: dict[str, bytes]
    tags: list[str]
    digest: str  # of all the data above
    left_out: list[str]  # a sentence for each file that the record names but that cannot be stored


def read(folder: Path) -> Documents:
    """Convert the record in ``folder``. Raises RecordError if it cannot be used."""
    record = record_files.load(folder)
    run, config, info = record.run.content, record.config.content, record.info
    arguments = record.config.env_args or {}  # absent in other programs' records
    map_name = maps.label(arguments.get("map_name") or arguments.get("key") or "")
    series = {name: _series(metric) for name, metric in record.metrics.items()}
    name = config.get("name")
    title = f"{name} {map_name}" if name else record.run.experiment.get("name")
    named_files = _NamedFiles()
    paths = dict.fromkeys([*record.run.artifacts, *OURS])
    files = {path: data for path in paths if (data := named_files.read(folder, path)) is not None}
    # Sacred keeps the sources of all runs of a folder next to the runs.
    stored = {shown: named_files.read(folder.parent, path, SOURCES) for shown, path in record.run.sources or []}
    sources = {shown: data for shown, data in stored.items() if data is not None}
    files["config.yaml"] = yaml.safe_dump(hidden(config), allow_unicode=True).encode()
    document = {
        **{key: run.get(key) for key in ("command", "host", "meta", "status", "resources", "result", "fail_trace")},
        **{key: getattr(record.run, key) for key in TIMES},
        "format": FORMAT,
        "steps": max((metric["steps"][-1] for metric in series.values()), default=0),
        "experiment": {
            **{key: value for key, value in record.run.experiment.items() if key != "sources"},
            "name": title,
        },
        "config": _database_keys(config),
        "info": _database_keys(info.content),
        "captured_out": _output(folder),
    }
    document = {key: value if isinstance(value, datetime) else hidden(value) for key, value in document.items()}
    digests = {name: _digest(data) for name, data in {**files, **sources}.items()}
    tags = [name, config.get("env"), info.host, info.transfer and f"from {info.source_map}"]
    return Documents(
        record_id=_digest(json.dumps([run.get("start_time"), record.run.hostname, config], sort_keys=True).encode()),
        run=document,
        series=series,
        files=files,
        sources=sources,
        tags=[str(tag) for tag in tags if tag],
        digest=_digest(json.dumps((document, series, digests), sort_keys=True, default=str).encode()),
        left_out=[f"{record_files.shown(folder, 500)}: {why}" for why in named_files.left_out],
    )


class _NamedFiles:
    """Reader of the files that a record names. It leaves out irregular files and files beyond the size limits."""

    def __init__(self) -> None:
        self.left_out: list[str] = []
        self._room = FILES

    def read(self, folder: Path, name: str, below: str = "") -> bytes | None:
        """Read ``name`` inside ``folder`` and its subfolder ``below``. Returns None if it is missing or left out."""
        try:
            if below and Path(name).parts[:1] != (below,):
                raise ValueError(f"is outside {below}")
            data = record_files.read_bytes(folder, name, min(FILE, self._room))
        except FileNotFoundError:
            return None  # of a record that was moved without its large files
        except (OSError, ValueError) as error:
            why = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
            self.left_out.append(f"the file {record_files.shown(name)} {why}, so it is left out.")
            return None
        self._room -= len(data)
        return data


def _series(metric: Metric) -> dict[str, list]:
    """Thin a series evenly to at most ``POINTS`` points; the last point is always kept."""
    every = -(-len(metric.steps) // POINTS)
    kept = slice((len(metric.steps) - 1) % every, None, every)
    timestamps = [parse_time(time) for time in metric.timestamps[kept]]
    return {"steps": metric.steps[kept], "values": metric.values[kept], "timestamps": timestamps}


def _output(folder: Path) -> str:
    try:
        data, size = record_files.read_tail(folder, "cout.txt", OUTPUT)
    except (OSError, ValueError):  # the run printed nothing, or the file is not a plain one
        return ""
    text = data.decode(errors="replace")
    return text if size <= OUTPUT else f"[the first {size - OUTPUT:,} bytes are in cout.txt]\n{text}"


def _database_keys(value: Any) -> Any:
    """Rename keys that the database refuses: no dot, no leading dollar sign."""
    if isinstance(value, Mapping):
        return {str(key).replace(".", "·").removeprefix("$"): _database_keys(item) for key, item in value.items()}
    return [_database_keys(item) for item in value] if isinstance(value, list) else value


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
