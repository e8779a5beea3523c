"""Load Sacred's file records of lolm_plugin and of EPyMARL: one RunRecord for each run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from lolm_plugin import maps
from lolm_plugin.configuration.experiment import changed, upgrade_config
from lolm_plugin.tracking import record_files
from lolm_plugin.tracking.record_files import InfoFile, Record, RecordError, RunFile, shown
from lolm_plugin.tracking.series import GREEDY, HELD_OUT

Kind = Literal["scratch", "zero_shot", "few_shot", "evaluation"]
NAME = 80  # characters of a name that tables and figures show
TESTS = (GREEDY, HELD_OUT)
COMMAND = 2000  # characters of a command line that tables show


@dataclass(frozen=True)
class Series:
    """One metric over environment steps, in the order it was measured.

    ``seconds`` are those since the run began, of tests only; empty if they are not known.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]
    seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """A recorded run. A field is None if its writer did not record it."""

    folder: Path  # of the record
    algorithm: str  # `name` in the configuration
    env: str
    map_name: str
    seed: int
    kind: Kind
    source_map: str | None  # on which a transfer's initial weights were trained
    status: str  # Sacred's: COMPLETED, RUNNING, INTERRUPTED, FAILED, ...
    reason: str  # the last line of its traceback; empty if it did not fail
    t_max: int
    series: Mapping[str, Series]
    config: Mapping[str, Any] = field(repr=False)
    command: str | None = None
    commit: str | None = None
    version: str | None = None  # of lolm_plugin
    hostname: str | None = None
    started: datetime | None = None
    wall_seconds: float | None = None  # including the runs it resumed
    peak_memory_mb: float | None = None
    resumed: tuple[Path, ...] = ()  # records of the runs it resumed, oldest first; `series` includes theirs
    first_config: Mapping[str, Any] = field(default_factory=dict, repr=False)  # of the oldest resumed run, or `config`
    source_settings: Mapping[str, Any] | None = field(default=None, repr=False)  # of a transfer's source run
    defect: str = ""  # why a run recorded as COMPLETED does not count; empty if it counts

    @property
    def is_complete(self) -> bool:
        """Return True if the run completed and its record is complete."""
        return self.status == "COMPLETED" and not self.defect


def read_all(folder: Path, unusable: list[str] | None = None) -> list[RunRecord]:
    """Read every run below ``folder``, in the order of their paths.

    A run that a later run resumed is left out. It is kept if it is whole and the later run is not.
    One sentence for each record that cannot be used is appended to ``unusable``.
    """
    unusable = [] if unusable is None else unusable
    alone = {}
    for path in record_files.find(folder):
        try:
            alone[path.resolve()] = read(path)
        except RecordError as error:
            unusable.append(str(error))
    records = {path: _with_resumed(record, alone) for path, record in alone.items()}
    superseded = set()
    for record in records.values():
        resumed = [path.resolve() for path in record.resumed]
        superseded |= {
            path for path in resumed if record.is_complete or not (path in records and records[path].is_complete)
        }
    return [record for path, record in records.items() if path not in superseded]


def read(folder: Path) -> RunRecord:
    """Read the run recorded in ``folder``. Raises RecordError if its record cannot be used."""
    record = record_files.load(folder)
    run, info = record.run, record.info
    config = upgrade_config(record.config.content, info.launch)
    arguments = record.config.env_args
    if arguments is None or "name" not in config:
        raise RecordError(
            f"{shown(folder, 500)}: config.json has no name or no env_args, so it is not a run of EPyMARL."
        )
    ended = run.stop_time or run.heartbeat
    # Negative if the clock was set back during the run; then the duration is unknown.
    seconds = (ended - run.start_time).total_seconds() if run.start_time and ended else -1.0
    kind: Kind = "zero_shot" if config.get("evaluate") else "few_shot"
    if not config.get("transfer_from"):
        kind = "evaluation" if config.get("evaluate") else "scratch"
    trace = "".join(run.fail_trace).strip().splitlines()
    result = RunRecord(
        folder=folder,
        algorithm=shown(config["name"], NAME),
        env=shown(record.config.env, NAME),
        map_name=shown(maps.label(arguments.get("map_name") or arguments.get("key")), NAME),
        seed=record.config.seed,
        kind=kind,
        source_map=_shown(info.source_map, NAME),
        status=shown(run.status, NAME),
        reason=shown(trace[-1].strip()) if trace else "",
        t_max=int(_finite(record.config.t_max) or 0),
        series={shown(name, NAME): _series(name, metric, run.start_time) for name, metric in record.metrics.items()},
        config=config,
        command=_shown(info.command, COMMAND),
        commit=_shown(info.commit),
        version=_shown(info.version),
        hostname=_shown(run.hostname),
        started=run.start_time,
        wall_seconds=seconds if seconds >= 0 else None,
        peak_memory_mb=_finite(info.peak_memory_mb),
        resumed=_resumed(record),
        first_config=config,
        source_settings=upgrade_config(info.source_settings, info.launch) if info.source_settings else None,
    )
    return replace(result, defect="the end of its record is missing" if run.complete is False else _missing_end(result))


def _missing_end(record: RunRecord) -> str:
    """Return what is missing from the record of a completed run; empty if nothing is known to be missing.

    If the disk fails for some time, the record can lack its last measurements. A training run measures at least once
    per ``test_interval`` and ``log_interval``. The last measurement may be two of the longer intervals before t_max.
    """
    last = max((series.steps[-1] for series in record.series.values()), default=None)
    if last is None:
        return "its metrics.json has no measurements"
    imitate = record.config.get("imitate")
    is_imitation = isinstance(imitate, Mapping) and imitate.get("teacher")
    tests, logs = (_finite(record.config.get(key)) for key in ("test_interval", "log_interval"))
    if record.kind in ("zero_shot", "evaluation") or is_imitation or tests is None or logs is None:
        return ""
    is_early = last < record.t_max - 2 * max(tests, logs)
    return f"its measurements end at step {last:,} of {record.t_max:,}" if is_early else ""


def _resumed(record: Record) -> tuple[Path, ...]:
    """Follow ``resumed_from`` back to the first run. Return the folders of these records, oldest first.

    Only the folder's name is used, not its path, so that a moved results folder can still be read.
    """
    chain: list[Path] = []
    info, began = record.info, record.run.start_time
    while name := Path(info.resumed_run or "").name:
        earlier = record.folder.parent / name
        if name == ".." or earlier == record.folder or earlier in chain:
            break
        chain.insert(0, earlier)
        try:
            run = record_files.load_file(earlier, RunFile) or RunFile()
            info = record_files.load_file(earlier, InfoFile) or InfoFile()
        except RecordError:  # read_all reports it
            break
        # Sacred gives the number of a removed record to a new run. That run is not an earlier one if it started later.
        if began is not None and run.start_time is not None and run.start_time > began:
            return tuple(chain[1:])
        began = run.start_time
    return tuple(chain)


def _with_resumed(record: RunRecord, records: Mapping[Path, RunRecord]) -> RunRecord:
    """Add the time and the peak memory of the runs that ``record`` resumed."""
    resumed = [records[path.resolve()] for path in record.resumed if path.resolve() in records]
    if not resumed:
        return record
    peaks = [run.peak_memory_mb for run in (*resumed, record) if run.peak_memory_mb is not None]
    different = sorted({key for run in resumed for key in changed(run.config, record.config)})
    return replace(
        record,
        series={name: _timed(name, [*resumed, record]) for name in record.series},
        wall_seconds=sum(run.wall_seconds or 0.0 for run in (*resumed, record)),
        peak_memory_mb=max(peaks, default=None),
        started=resumed[0].started,
        first_config=resumed[0].config,
        defect=record.defect or (f"was resumed with other values of {', '.join(different[:3])}" if different else ""),
    )


def _series(name: str, metric: record_files.Metric, began: datetime | None) -> Series:
    values = tuple(math.nan if value is None else float(value) for value in metric.values)
    seconds: tuple[float, ...] = ()
    if began is not None and name.startswith(TESTS):
        times = [time for text in metric.timestamps if (time := record_files.parse_time(text))]
        seconds = tuple((time - began).total_seconds() for time in times)
        if any(later < second for second, later in pairwise((0.0, *seconds))):  # the clock was set back
            seconds = ()
    return Series(tuple(metric.steps), values, seconds)


def _timed(name: str, parts: Sequence[RunRecord]) -> Series:
    """Return the last part's series with the seconds of the first part that measured each step.

    A resumed run logs the points of its checkpoint again, with the time at which it began.
    """
    series, before = parts[-1].series[name], 0.0
    seconds: dict[int, float] = {}
    for part in parts:
        of_part = part.series.get(name, Series((), ()))
        if part.wall_seconds is None or len(of_part.seconds) != len(of_part.steps):
            return replace(series, seconds=())
        for step, second in zip(of_part.steps, of_part.seconds, strict=True):
            seconds.setdefault(step, before + second)
        before += part.wall_seconds
    return replace(series, seconds=tuple(seconds[step] for step in series.steps))


def _shown(text: str | None, limit: int = record_files.TEXT) -> str | None:
    return shown(text, limit) if text else None


def _finite(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None
