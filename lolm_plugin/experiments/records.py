"""Sacred's file records, ours and EPyMARL's own, as one typed value a run."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from lolm_plugin.tracking.run_documents import optional_json

Kind = Literal["scratch", "zero_shot", "few_shot", "evaluation"]


@dataclass(frozen=True)
class Series:
    """One metric over environment steps, in the order it was measured."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class RunRecord:
    """What a run left behind; None where its writer did not note it."""

    folder: Path  # of the record
    algorithm: str  # the configuration's `name`
    env: str
    map_name: str
    seed: int
    kind: Kind
    source_map: str | None  # where a transfer's weights come from
    status: str  # Sacred's: COMPLETED, RUNNING, INTERRUPTED, FAILED, ...
    reason: str  # the last line of what it failed with, if it did
    t_max: int
    series: Mapping[str, Series]
    config: Mapping[str, Any] = field(repr=False)
    command: str | None = None
    commit: str | None = None
    version: str | None = None  # of lolm_plugin
    hostname: str | None = None
    started: datetime | None = None
    wall_seconds: float | None = None  # with those of the runs it resumed
    peak_memory_mb: float | None = None
    resumed: tuple[Path, ...] = ()  # records of the runs it resumed, whose series it holds, the first one first


def read_all(folder: Path) -> list[RunRecord]:
    """Every run below ``folder``, in the order of their paths; one that another resumed is left out."""
    records = {record.folder.resolve(): record for record in _read(folder)}
    parents = {path.resolve() for record in records.values() for path in record.resumed}
    return [_with_parents(record, records) for path, record in records.items() if path not in parents]


def read(folder: Path) -> RunRecord | None:
    """The run recorded in ``folder``; None where there is none or it is half written."""
    try:
        run, config = (json.loads((folder / name).read_text()) for name in ("run.json", "config.json"))
    except (OSError, json.JSONDecodeError):
        return None
    if not isinstance(config.get("env_args"), Mapping) or "name" not in config:
        return None  # a Sacred run of something else
    info = optional_json(folder / "info.json")
    launch, transfer = info.get("launch", {}), info.get("transfer", {})
    return RunRecord(
        folder=folder,
        algorithm=str(config["name"]),
        env=str(config.get("env")),
        map_name=str(config["env_args"].get("map_name") or config["env_args"].get("key")),
        seed=int(config.get("seed", 0)),
        kind=_kind(config),
        source_map=transfer.get("source_map"),
        status=str(run.get("status")),
        reason=_last_line(run.get("fail_trace") or []),
        t_max=int(config.get("t_max", 0)),
        series=_series(folder),
        config=config,
        command=launch.get("command"),
        commit=launch.get("commit"),
        version=launch.get("version"),
        hostname=run.get("host", {}).get("hostname"),
        started=_time(run.get("start_time")),
        wall_seconds=_seconds(run),
        peak_memory_mb=launch.get("peak_memory_mb"),
        resumed=_parents(folder, info),
    )


def _read(folder: Path) -> Iterator[RunRecord]:
    for path in sorted(folder.rglob("run.json")):
        if (record := read(path.parent)) is not None:
            yield record


def _kind(config: Mapping[str, Any]) -> Kind:
    if config.get("transfer_from"):
        return "zero_shot" if config.get("evaluate") else "few_shot"
    return "evaluation" if config.get("evaluate") else "scratch"


def _parents(folder: Path, info: Mapping[str, Any]) -> tuple[Path, ...]:
    """Records are siblings, whatever folder all of them were moved to since."""
    parent = (info.get("resumed_from") or {}).get("sacred_run")
    if not parent:
        return ()
    beside = folder.parent / Path(parent).name
    return (*_parents(beside, optional_json(beside / "info.json")), beside)


def _with_parents(record: RunRecord, records: Mapping[Path, RunRecord]) -> RunRecord:
    before = [records[path.resolve()] for path in record.resumed if path.resolve() in records]
    if not before:
        return record
    seconds = [part.wall_seconds or 0.0 for part in (*before, record)]
    peaks = [part.peak_memory_mb for part in (*before, record) if part.peak_memory_mb is not None]
    return replace(
        record, wall_seconds=sum(seconds), peak_memory_mb=max(peaks, default=None), started=before[0].started
    )


def _series(folder: Path) -> dict[str, Series]:
    return {
        name: Series(tuple(map(int, metric["steps"])), tuple(map(_number, metric["values"])))
        for name, metric in sorted(optional_json(folder / "metrics.json").items())
        if metric.get("steps")
    }


def _last_line(trace: list[str]) -> str:
    lines = "".join(trace).strip().splitlines()
    return lines[-1].strip() if lines else ""


def _number(value: Any) -> float:
    """Sacred writes numpy's numbers as ``{"dtype": ..., "value": ...}``."""
    return float(value["value"] if isinstance(value, Mapping) else value)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _seconds(run: Mapping[str, Any]) -> float | None:
    began, ended = _time(run.get("start_time")), _time(run.get("stop_time") or run.get("heartbeat"))
    return (ended - began).total_seconds() if began and ended else None
