"""Sacred's file records, ours and EPyMARL's own, as one typed value a run."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from lolm_plugin.configuration.experiment import as_of_now, changed
from lolm_plugin.tracking import record_files
from lolm_plugin.tracking.record_files import Files, RecordError, shown

Kind = Literal["scratch", "zero_shot", "few_shot", "evaluation"]
NAME = 80  # characters of a name that tables and figures show
COMMAND = 2000  # of a command line


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
    first_config: Mapping[str, Any] = field(default_factory=dict, repr=False)  # of the first of them, or its own
    source_settings: Mapping[str, Any] | None = field(default=None, repr=False)  # of the run a transfer comes from
    defect: str = ""  # why a run that is recorded as COMPLETED is not a whole run all the same

    @property
    def is_whole(self) -> bool:
        """Whether it ended and its record says so to the end."""
        return self.status == "COMPLETED" and not self.defect


def read_all(folder: Path, unusable: list[str] | None = None) -> list[RunRecord]:
    """Read every run below ``folder``, in the order of their paths.

    A run that another resumed is left out, unless it was whole and the one that resumed it is not. ``unusable`` gets a
    sentence for each record that cannot be used.
    """
    unusable = [] if unusable is None else unusable
    records = {}
    for path in record_files.find(folder):
        try:
            records[path.resolve()] = read(path)
        except RecordError as error:
            unusable.append(str(error))
    found = {path: _with_parents(record, records) for path, record in records.items()}
    superseded = set()
    for record in found.values():
        parents = [path.resolve() for path in record.resumed]
        superseded |= {path for path in parents if record.is_whole or path not in found or not found[path].is_whole}
    return [record for path, record in found.items() if path not in superseded]


def read(folder: Path) -> RunRecord:
    """Read the run recorded in ``folder``. Raises RecordError where its record cannot be used."""
    files = record_files.load(folder)
    run, config, info = files.run, files.config, files.info
    arguments = config.get("env_args")
    if arguments is None or "name" not in config:
        raise RecordError(
            f"{shown(folder, 500)}: config.json has no name or no env_args, so it is no training of EPyMARL."
        )
    launch, transfer = info.get("launch") or {}, info.get("transfer") or {}
    config = as_of_now(config, launch)
    source_settings = transfer.get("source_settings")
    record = RunRecord(
        folder=folder,
        algorithm=shown(config["name"], NAME),
        env=shown(config.get("env"), NAME),
        map_name=shown(arguments.get("map_name") or arguments.get("key"), NAME),
        seed=config.get("seed") or 0,
        kind=_kind(config),
        source_map=shown(transfer["source_map"], NAME) if transfer.get("source_map") else None,
        status=shown(run.get("status"), NAME),
        reason=_last_line(run.get("fail_trace") or []),
        t_max=int(_finite(config.get("t_max")) or 0),
        series={shown(name, NAME): _series(metric) for name, metric in files.metrics.items()},
        config=config,
        command=_noted(launch.get("command"), COMMAND),
        commit=_noted(launch.get("commit")),
        version=_noted(launch.get("version")),
        hostname=_noted((run.get("host") or {}).get("hostname")),
        started=record_files.time(run.get("start_time")),
        wall_seconds=_seconds(run),
        peak_memory_mb=_finite(launch.get("peak_memory_mb")),
        resumed=_parents(files),
        first_config=config,
        source_settings=as_of_now(source_settings, launch) if source_settings else None,
    )
    lacks_end = run.get("whole") is False  # our own writer's word; other records have no such key
    return replace(record, defect="its record misses its end" if lacks_end else _missing_end(record))


def _kind(config: Mapping[str, Any]) -> Kind:
    if config.get("transfer_from"):
        return "zero_shot" if config.get("evaluate") else "few_shot"
    return "evaluation" if config.get("evaluate") else "scratch"


def _missing_end(record: RunRecord) -> str:
    """Say what a record lacks whose run completed; empty where nothing is known to be missing.

    A disk that failed for a while leaves a record without its last measurements. A training measures at least once in
    each interval of tests and logs; twice the longer one is left to the last battles.
    """
    last = max((series.steps[-1] for series in record.series.values()), default=None)
    if last is None:
        return "its metrics.json holds no measurement"
    is_imitation = bool(_section(record.config, "imitate").get("teacher"))
    intervals = [_finite(record.config.get(key)) for key in ("test_interval", "log_interval")]
    if record.kind in ("zero_shot", "evaluation") or is_imitation or None in intervals:
        return ""
    if last < record.t_max - 2 * max(interval for interval in intervals if interval is not None):
        return f"its measurements end at step {last:,} of {record.t_max:,}"
    return ""


def _parents(files: Files) -> tuple[Path, ...]:
    """Follow ``resumed_from`` to the first run.

    Records are siblings, whatever folder all of them were moved to since.
    """
    found: list[Path] = []
    folder, info, began = files.folder, files.info, record_files.time(files.run.get("start_time"))
    while name := Path((info.get("resumed_from") or {}).get("sacred_run") or "").name:
        beside = folder.parent / name
        if name == ".." or beside == files.folder or beside in found:
            break
        found.insert(0, beside)
        try:
            run, parent = (record_files.load_file(beside, name) or {} for name in ("run.json", "info.json"))
        except RecordError:  # read_all names it
            break
        # The number of a record that was removed is given again.
        before = record_files.time(run.get("start_time"))
        if began is not None and before is not None and before > began:
            return tuple(found[1:])
        info, began = parent, before
    return tuple(found)


def _with_parents(record: RunRecord, records: Mapping[Path, RunRecord]) -> RunRecord:
    before = [records[path.resolve()] for path in record.resumed if path.resolve() in records]
    if not before:
        return record
    seconds = [part.wall_seconds or 0.0 for part in (*before, record)]
    peaks = [part.peak_memory_mb for part in (*before, record) if part.peak_memory_mb is not None]
    different = sorted({key for part in before for key in changed(part.config, record.config)})
    return replace(
        record,
        wall_seconds=sum(seconds),
        peak_memory_mb=max(peaks, default=None),
        started=before[0].started,
        first_config=before[0].config,
        defect=record.defect or (f"was resumed with another {', '.join(different[:3])}" if different else ""),
    )


def _series(metric: record_files.Metric) -> Series:
    return Series(tuple(metric.steps), tuple(math.nan if value is None else float(value) for value in metric.values))


def _last_line(trace: Iterable[str]) -> str:
    lines = "".join(trace).strip().splitlines()
    return shown(lines[-1].strip()) if lines else ""


def _noted(text: str | None, limit: int = record_files.TEXT) -> str | None:
    return shown(text, limit) if text else None


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = config.get(key)
    return section if isinstance(section, Mapping) else {}


def _finite(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _seconds(run: Mapping[str, Any]) -> float | None:
    began, ended = (
        record_files.time(run.get("start_time")),
        record_files.time(run.get("stop_time") or run.get("heartbeat")),
    )
    # A clock that was set back in the meantime tells no duration.
    return (ended - began).total_seconds() if began and ended and ended >= began else None
