"""Read Sacred's file records from disk, for reports, imports, the dashboard, suites and summaries.

A record may be damaged, half written, or from an untrusted source. So only regular files inside its folder are opened.
Sizes are checked before reading, types afterwards. A defect gives one sentence and does not affect other records.
"""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar, NamedTuple, TypeVar

from annotated_types import Len
from pydantic import AliasChoices, AliasPath, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lolm_plugin.untrusted import Unreadable, open_plain

MB = 2**20
# Largest file read, in bytes. A training of 10 million steps with 40 series writes a metrics.json of 31 MB; EPyMARL
# repeats its series in info.json. Smaller limits refuse long runs, larger ones let an untrusted file fill the memory.
LIMITS = {"run.json": 8 * MB, "config.json": 8 * MB, "info.json": 64 * MB, "metrics.json": 64 * MB}
# Most commas and brackets in a JSON file: they bound the memory after parsing. That training has 1.2 million.
ELEMENTS = 4_000_000
DEPTH = 50  # of nested values; a MongoDB takes 100, and the deepest configuration of ours has 3
TEXT = 200  # characters shown of a text
NOT_REGULAR = "is not a regular file (but a link, pipe or device)"


class RecordError(Exception):
    """A record that cannot be used. The message is one sentence that names its folder and the reason."""


def shown(text: object, limit: int = TEXT) -> str:
    """Make an untrusted text printable: no control characters, valid Unicode, at most ``limit`` characters."""
    line = "".join(
        sign if sign.isprintable() else " " if sign in "\n\t" else "\ufffd" for sign in str(text)[: limit + 1]
    )
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def parse_time(text: str | None) -> datetime | None:
    """Parse a time of Sacred's, which is in UTC but has no time zone. Raises ValueError."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise ValueError("no time") from error
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


Time = Annotated[datetime | None, BeforeValidator(parse_time)]


def _at(*path: str) -> Any:
    """Declare a value inside a section, such as ``host.hostname``; None if it is absent."""
    return Field(None, validation_alias=AliasPath(*path))


class RecordFile(BaseModel):
    """A file of a record: the keys that are read and their types. Every key may be absent."""

    model_config = ConfigDict(strict=True)
    file: ClassVar[str]
    content: dict[str, Any] = {}  # the whole file


class RunFile(RecordFile):
    """run.json. Only our own writer adds the key ``complete``; see ``FileObserver``."""

    file = "run.json"
    status: str | None = None
    complete: Annotated[Any, Field(validation_alias=AliasChoices("complete", "whole"))] = None  # "whole" before 0.2.0
    start_time: Time = None
    stop_time: Time = None
    heartbeat: Time = None
    fail_trace: list[str] = []
    artifacts: list[str] = []
    host: dict[str, Any] = {}
    hostname: str | None = _at("host", "hostname")
    experiment: dict[str, Any] = {}
    sources: list[Annotated[list[str], Len(2, 2)]] | None = _at("experiment", "sources")  # name shown, stored file


class ConfigFile(RecordFile):
    """config.json."""

    file = "config.json"
    env: str | None = None
    env_args: dict[str, Any] | None = None
    seed: int = 0
    t_max: float = 0.0


class InfoFile(RecordFile):
    """info.json: provenance, and the runs that this run resumed or took its weights from."""

    file = "info.json"
    launch: dict[str, Any] = {}
    command: str | None = _at("launch", "command")
    commit: str | None = _at("launch", "commit")
    version: str | None = _at("launch", "version")
    host: str | None = _at("launch", "host")
    peak_memory_mb: float | None = _at("launch", "peak_memory_mb")
    transfer: dict[str, Any] = {}
    source_map: str | None = _at("transfer", "source_map")
    source_settings: dict[str, Any] | None = _at("transfer", "source_settings")
    resumed_from: dict[str, Any] = {}
    resumed_run: str | None = _at("resumed_from", "sacred_run")


class Metric(NamedTuple):
    """One series as written: steps may be out of order, and non-finite values are None."""

    steps: list[int]
    values: list[int | float | None]
    timestamps: list[str]


@dataclass(frozen=True)
class Record:
    """Checked files of a record. ``info`` and ``metrics`` are empty if their files are missing."""

    folder: Path
    run: RunFile
    config: ConfigFile
    info: InfoFile
    metrics: dict[str, Metric]


def find(folder: Path) -> Iterator[Path]:
    """Yield the folders below ``folder`` that have a run.json, sorted by path; links are not followed."""
    yield from (path.parent for path in sorted(folder.rglob("run.json")))


def load(folder: Path) -> Record:
    """Read the record in ``folder``. Raises RecordError if it is damaged, half written or has values of wrong types."""
    run, config, info = load_file(folder, RunFile), load_file(folder, ConfigFile), load_file(folder, InfoFile)
    if run is None or config is None:
        raise _error(folder, "run.json" if run is None else "config.json", "is missing")
    return Record(folder, run, config, info or InfoFile(), load_metrics(folder))


AnyFile = TypeVar("AnyFile", bound=RecordFile)


def load_file(folder: Path, kind: type[AnyFile]) -> AnyFile | None:
    """Read a file of a record. Returns None if it is missing. Raises RecordError if it is damaged."""
    content = _json(folder, kind.file)
    if content is None:
        return None
    try:
        _check_values(content)
        # A key with null counts as absent.
        return kind.model_validate({**{k: v for k, v in content.items() if v is not None}, "content": content})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        why = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        raise _error(folder, kind.file, f"has {key}={shown(json.dumps(first['input']), 40)} ({shown(why)})") from error
    except ValueError as error:
        raise _error(folder, kind.file, str(error)) from error


def load_metrics(folder: Path) -> dict[str, Metric]:
    """Read the series of a record that have at least one point. Raises RecordError."""
    series = {}
    for name, content in sorted((_json(folder, "metrics.json") or {}).items()):
        try:
            _check_text(name)
            metric = _metric(content)
        except ValueError as error:
            raise _error(folder, "metrics.json", f"holds a series {shown(name)} that {error}") from error
        if metric.steps:
            series[name] = metric
    return series


def read_bytes(folder: Path, name: str, limit: int) -> bytes:
    """Read the regular file ``name`` inside ``folder``, of at most ``limit`` bytes.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is outside the folder, not a regular file, reached through a link, or too long. The message
            continues a sentence about the file.
        OSError: it cannot be read.
    """
    with _open(folder, name) as file:
        is_long = os.fstat(file.fileno()).st_size > limit
        data = b"" if is_long else file.read(limit + 1)  # it may have grown since
    if is_long or len(data) > limit:
        raise ValueError(f"is longer than {limit // MB} MB")
    return data


def read_tail(folder: Path, name: str, limit: int) -> tuple[bytes, int]:
    """Read the last ``limit`` bytes of a regular file. Returns them and the file's size. Raises as ``read_bytes``."""
    with _open(folder, name) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - limit))
        return file.read(limit), size


def _open(folder: Path, name: str) -> BinaryIO:
    relative = Path(name)
    if "\0" in name or relative.anchor or ".." in relative.parts or not relative.parts:
        raise ValueError("is outside the record's folder")
    for parent in [folder / parent for parent in reversed(relative.parents) if parent.parts]:
        if not stat.S_ISDIR(parent.lstat().st_mode):
            raise ValueError(NOT_REGULAR)
    try:
        return open_plain(folder / relative)
    except Unreadable as error:
        raise ValueError(NOT_REGULAR) from error


def _json(folder: Path, name: str) -> dict[str, Any] | None:
    try:
        data = read_bytes(folder, name, LIMITS[name])
        if sum(map(data.count, (b",", b"[", b"{"))) > ELEMENTS:
            raise ValueError(f"holds more than {ELEMENTS:,} values")
        content = json.loads(data.decode())
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise _error(folder, name, "is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise _error(folder, name, "is cut or damaged (not JSON)" if data else "is empty") from error
    except RecursionError as error:
        raise _error(folder, name, "is nested too deeply") from error
    except OSError as error:
        raise _error(folder, name, f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # from read_bytes, or for a number with thousands of digits
        why = str(error) if "digits" not in str(error) else "holds a number beyond 64 bits"
        raise _error(folder, name, why) from error
    if not isinstance(content, dict):
        raise _error(folder, name, f"has no key: value pairs, but {shown(json.dumps(content), 20)}")
    return content


def _check_values(content: dict[str, Any]) -> None:
    """Raise ValueError for values that no database can store. Not recursive, because JSON may be nested deeply."""
    level: list[Any] = [content]
    for _ in range(DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str):
                _check_text(value)
            elif isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError("holds a number beyond 64 bits")
        if not below:
            return
        level = below
    raise ValueError(f"is nested more than {DEPTH} deep")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds text that is not valid Unicode") from error
    if "\0" in text:
        raise ValueError("holds a text with a null character")


def _metric(metric: Any) -> Metric:
    if not isinstance(metric, dict):
        raise ValueError("is not a section with steps and values")
    steps, values, times = (metric.get(key) or [] for key in ("steps", "values", "timestamps"))
    if not all(isinstance(column, list) for column in (steps, values, times)):
        raise ValueError("has steps, values or timestamps that are not a list")
    if len(steps) != len(values) or (times and len(times) != len(steps)):
        raise ValueError(f"has {len(steps)} steps and {len(values)} values")
    whole = [int(step) for step in map(_number, steps) if step is not None and 0 <= step < 2**63 and step == int(step)]
    if len(whole) < len(steps):
        raise ValueError("has a step that is not a whole number of 0 or more")
    try:
        for time in times:
            parse_time(time)
    except ValueError as error:
        raise ValueError("has an invalid timestamp") from error
    return Metric(whole, [_number(value) for value in values], times)


def _number(value: Any) -> int | float | None:
    """Return a value of a series. Sacred stores NumPy's numbers as ``{"dtype": ..., "value": ...}``, NaN as null."""
    if isinstance(value, dict):
        value = value.get("value")
    if value is None or isinstance(value, float):
        return value
    if not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise ValueError(f"has {shown(json.dumps(value), 40)} instead of a number")
    return value


def _error(folder: Path, name: str, why: str) -> RecordError:
    return RecordError(f"{shown(folder, 500)}: {name} {why}.")
