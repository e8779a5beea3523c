"""A Sacred file run as the documents that Sacred's MongoObserver would have written, which Omniboard reads."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lolm_plugin.passwords import hidden
from lolm_plugin.tracking import record_files
from lolm_plugin.tracking.record_files import MB, Metric

FORMAT = "MongoObserver-0.7.0"  # the layout of the documents
OUTPUT = 1_000_000  # characters of what was printed that are kept, the last ones: a document holds 16 MB
FILE, FILES = 16 * MB, 64 * MB  # of one file that is shown, and of all of a run: they are held in memory
SOURCES = "_sources"  # Sacred's folder for them
POINTS = 200_000  # of a series; more would not fit a document
OURS = ("curve.png", "prompt.txt")  # files of a run that people want to look at
TIMES = ("start_time", "stop_time", "heartbeat")


class Documents(NamedTuple):
    """``run``: without ``_id``; ``series``: by name; ``files`` and ``sources``: by name; ``digest``: of all of it.

    ``left_out`` has a sentence for each file that the record names and that is no plain file of its own.
    """

    record_id: str
    run: dict[str, Any]
    series: dict[str, dict[str, list]]
    files: dict[str, bytes]
    sources: dict[str, bytes]
    tags: list[str]
    digest: str
    left_out: list[str]


def read(folder: Path) -> Documents:
    """Lay out the run recorded in ``folder``. Raises RecordError where its record cannot be used."""
    record = record_files.load(folder)
    run, config, info = record.run, record.config, record.info
    series = {name: _series(metric) for name, metric in record.metrics.items()}
    name, place = config.get("name"), _place(config)
    experiment = dict(run.get("experiment") or {})
    pairs = experiment.pop("sources", None) or []
    experiment["name"] = f"{name} {place}" if name else experiment.get("name")
    taken = _Taken()
    artifacts = dict.fromkeys([*(run.get("artifacts") or []), *OURS])
    files = {path: data for path in artifacts if (data := taken.file(folder, path)) is not None}
    # Sacred keeps the sources of all runs of a folder beside the runs.
    sources = {shown: data for shown, path in pairs if (data := taken.file(folder.parent, path, SOURCES)) is not None}
    files["config.yaml"] = yaml.safe_dump(hidden(config), allow_unicode=True).encode()
    document = {
        **{key: run.get(key) for key in ("command", "host", "meta", "status", "resources", "result", "fail_trace")},
        **{key: record_files.time(run.get(key)) for key in TIMES},
        "format": FORMAT,
        "steps": max((metric["steps"][-1] for metric in series.values()), default=0),
        "experiment": experiment,
        "config": _keys(config),
        "info": _keys(info),
        "captured_out": _output(folder),
    }
    document = hidden_in(document)
    content = (document, series, {name: _sum(data) for name, data in {**files, **sources}.items()})
    hostname = (run.get("host") or {}).get("hostname")
    return Documents(
        record_id=_sum(json.dumps([run.get("start_time"), hostname, config], sort_keys=True).encode()),
        run=document,
        series=series,
        files=files,
        sources=sources,
        tags=_tags(config, info),
        digest=_sum(json.dumps(content, sort_keys=True, default=str).encode()),
        left_out=[f"{record_files.shown(folder, 500)}: {why}" for why in taken.left_out],
    )


class _Taken:
    """The files that a record names, as far as they are plain files of the record and together not too large."""

    def __init__(self) -> None:
        self.left_out: list[str] = []
        self._room = FILES

    def file(self, folder: Path, name: str, below: str = "") -> bytes | None:
        """Read ``name`` inside ``folder``, which has to lie in the subfolder ``below``; None where it is not there."""
        try:
            if below and Path(name).parts[:1] != (below,):
                raise ValueError(f"lies outside of {below}")
            data = record_files.read_bytes(folder, name, min(FILE, self._room))
        except FileNotFoundError:
            return None  # of a record that was moved without its large files
        except (OSError, ValueError) as error:
            why = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
            self.left_out.append(f"the file {record_files.shown(name)} {why}, so it is not shown.")
            return None
        self._room -= len(data)
        return data


def hidden_in(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without passwords in any of its texts; numbers and times as they are."""
    return {key: value if isinstance(value, datetime) else hidden(value) for key, value in document.items()}


def _tags(config: Mapping[str, Any], info: Mapping[str, Any]) -> list[str]:
    launch, transfer = info.get("launch") or {}, info.get("transfer") or {}
    tags = [config.get("name"), config.get("env"), launch.get("host")]
    if transfer:
        tags.append(f"from {transfer.get('source_map')}")
    return [str(tag) for tag in tags if tag]


def _place(config: Mapping[str, Any]) -> str:
    arguments = config.get("env_args") or {}  # absent in other programs' records
    return str(arguments.get("map_name") or arguments.get("key") or "")


def _series(metric: Metric) -> dict[str, list]:
    """At most ``POINTS`` of it, evenly, the last one always."""
    every = -(-len(metric.steps) // POINTS)
    kept = slice((len(metric.steps) - 1) % every, None, every)
    timestamps = [record_files.time(time) for time in metric.timestamps[kept]]
    return {"steps": metric.steps[kept], "values": metric.values[kept], "timestamps": timestamps}


def _output(folder: Path) -> str:
    try:
        data, size = record_files.read_tail(folder, "cout.txt", OUTPUT)
    except (OSError, ValueError):  # the run printed nothing, or what is there is none of its files
        return ""
    text = data.decode(errors="replace")
    return text if size <= OUTPUT else f"[the first {size - OUTPUT:,} bytes are in cout.txt]\n{text}"


def _keys(value: Any) -> Any:
    """Keys as the database takes them: no dot, no dollar in front."""
    if isinstance(value, Mapping):
        return {str(key).replace(".", "·").removeprefix("$"): _keys(item) for key, item in value.items()}
    return [_keys(item) for item in value] if isinstance(value, list) else value


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
