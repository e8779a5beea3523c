"""A Sacred file run as the documents that Sacred's MongoObserver would have written, which Omniboard reads."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lolm_plugin.passwords import hidden

FORMAT = "MongoObserver-0.7.0"  # the layout of the documents
OUTPUT = 1_000_000  # characters of what was printed that are kept, the last ones: a document holds 16 MB
POINTS = 200_000  # of a series; more would not fit a document
OURS = ("curve.png", "prompt.txt")  # files of a run that people want to look at
TIMES = ("start_time", "stop_time", "heartbeat")


class Documents(NamedTuple):
    """``run``: without ``_id``; ``series``: by name; ``files``: name shown -> path or content; ``digest``: of all."""

    record_id: str
    run: dict[str, Any]
    series: dict[str, dict[str, list]]
    files: dict[str, bytes]
    sources: dict[str, bytes]
    tags: list[str]
    digest: str


def read(folder: Path) -> Documents | None:
    """The run recorded in ``folder``; None for a folder without one, or with one half written."""
    try:
        run, config = (json.loads((folder / name).read_text()) for name in ("run.json", "config.json"))
    except (OSError, json.JSONDecodeError):
        return None
    info, metrics = optional_json(folder / "info.json"), optional_json(folder / "metrics.json")
    series = {
        name: _series(metric) for name, metric in metrics.items() if isinstance(metric, Mapping) and metric.get("steps")
    }
    name, place = config.get("name"), _place(config)
    experiment = {
        **run.get("experiment", {}),
        "name": f"{name} {place}" if name else run.get("experiment", {}).get("name"),
    }
    sources = {shown: _bytes(folder.parent / path) for shown, path in experiment.pop("sources", [])}
    document = {
        **{key: run.get(key) for key in ("command", "host", "meta", "status", "resources", "result", "fail_trace")},
        **{key: _time(run.get(key)) for key in TIMES},
        "format": FORMAT,
        "steps": max((metric["steps"][-1] for metric in series.values()), default=0),
        "experiment": experiment,
        "config": _keys(config),
        "info": _keys(info),
        "captured_out": _output(folder / "cout.txt"),
    }
    files = {path: _bytes(folder / path) for path in [*run.get("artifacts", []), *OURS] if (folder / path).is_file()}
    files["config.yaml"] = yaml.safe_dump(hidden(config), allow_unicode=True).encode()
    document = hidden_in(document)
    content = (document, series, {name: _sum(data) for name, data in {**files, **sources}.items()})
    return Documents(
        record_id=_sum(
            json.dumps([run.get("start_time"), run.get("host", {}).get("hostname"), config], sort_keys=True).encode()
        ),
        run=document,
        series=series,
        files=files,
        sources={name: data for name, data in sources.items() if data},
        tags=_tags(config, info),
        digest=_sum(json.dumps(content, sort_keys=True, default=str).encode()),
    )


def optional_json(path: Path) -> dict[str, Any]:
    """What a file of a record holds; empty where there is none, or none that is whole."""
    try:
        content = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def hidden_in(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without passwords in any of its texts; numbers and times as they are."""
    return {key: value if isinstance(value, datetime) else hidden(value) for key, value in document.items()}


def _tags(config: Mapping[str, Any], info: Mapping[str, Any]) -> list[str]:
    launch, transfer = info.get("launch", {}), info.get("transfer", {})
    tags = [config.get("name"), config.get("env"), launch.get("host")]
    if transfer:
        tags.append(f"from {transfer.get('source_map')}")
    return [str(tag) for tag in tags if tag]


def _place(config: Mapping[str, Any]) -> str:
    arguments = config.get("env_args") or {}
    return str(arguments.get("map_name") or arguments.get("key") or "")


def _series(metric: Mapping[str, list]) -> dict[str, list]:
    """At most ``POINTS`` of it, evenly, the last one always."""
    every = -(-len(metric["steps"]) // POINTS)
    kept = slice((len(metric["steps"]) - 1) % every, None, every)
    values = [value["value"] if isinstance(value, Mapping) else value for value in metric["values"][kept]]
    timestamps = [_time(time) for time in metric.get("timestamps", [])[kept]]
    return {"steps": metric["steps"][kept], "values": values, "timestamps": timestamps}


def _output(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        size = path.stat().st_size
        file.seek(max(0, size - OUTPUT))
        text = file.read().decode(errors="replace")
    return text if size <= OUTPUT else f"[the first {size - OUTPUT:,} bytes are in cout.txt]\n{text}"


def _keys(value: Any) -> Any:
    """Keys as the database takes them: no dot, no dollar in front."""
    if isinstance(value, Mapping):
        return {str(key).replace(".", "·").removeprefix("$"): _keys(item) for key, item in value.items()}
    return [_keys(item) for item in value] if isinstance(value, list) else value


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
