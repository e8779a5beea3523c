"""Read Sacred's file records from disk: the one reader behind reports, imports, the dashboard and suites.

A record may be damaged, half written, or made by a stranger. So nothing is opened but plain files inside the record's
folder, sizes are checked before reading and types after it, and whatever is wrong ends in one sentence for that record
alone.
"""

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lolm_plugin.untrusted import Unreadable, open_plain

MB = 2**20
# Largest file read, in bytes. A training of 10 million steps with 40 series writes a metrics.json of 31 MB; EPyMARL
# repeats its series in info.json. Smaller limits refuse long runs, larger ones let a stranger's file fill the memory.
LIMITS = {"run.json": 8 * MB, "config.json": 8 * MB, "info.json": 64 * MB, "metrics.json": 64 * MB}
# Commas and brackets of a JSON file: what a file of that size costs once parsed. That training has 1.2 million.
ELEMENTS = 4_000_000
DEPTH = 50  # of nested values; a MongoDB takes 100, and the deepest configuration of ours has 3
TEXT = 200  # characters shown of a text
PLAIN = "no plain file of its own (a link, pipe or device)"

_TIMES = dict.fromkeys(("start_time", "stop_time", "heartbeat"), str)
# What each fact is where it is there; dots go into sections.
TYPES: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "run.json": {
        **_TIMES,
        **{"status": str, "fail_trace": list, "artifacts": list},
        **{"host": dict, "host.hostname": str, "experiment": dict, "experiment.sources": list},
    },
    "config.json": {"env": str, "env_args": dict, "seed": int, "t_max": (int, float)},
    "info.json": {
        **{"launch": dict, "transfer": dict, "resumed_from": dict, "launch.peak_memory_mb": (int, float)},
        **dict.fromkeys((f"launch.{name}" for name in ("command", "commit", "version", "host")), str),
        **{"transfer.source_map": str, "transfer.source_settings": dict, "resumed_from.sacred_run": str},
    },
}
NAMES = {dict: "a section", list: "a list", str: "a text", int: "a whole number", (int, float): "a number"}


class RecordError(Exception):
    """A record that cannot be used. The message is one sentence that names its folder and the reason."""


class Metric(NamedTuple):
    """One series as it was written: steps ascending or not, values None where they were no number."""

    steps: list[int]
    values: list[int | float | None]
    timestamps: list[str]


@dataclass(frozen=True)
class Files:
    """The content of a record's files, with checked types. ``info`` and ``metrics`` are empty without their files."""

    folder: Path
    run: dict[str, Any]
    config: dict[str, Any]
    info: dict[str, Any]
    metrics: dict[str, Metric]


def find(folder: Path) -> Iterator[Path]:
    """Yield the folders below ``folder`` that hold a run.json, in the order of their paths; links are not followed."""
    yield from (path.parent for path in sorted(folder.rglob("run.json")))


def load(folder: Path) -> Files:
    """Read the record in ``folder``. Raises RecordError where it is damaged, half written or of other types."""
    run, config, info = (load_file(folder, name) for name in TYPES)
    if run is None or config is None:
        raise _error(folder, "run.json" if run is None else "config.json", "is missing")
    return Files(folder, run, config, info or {}, load_metrics(folder))


def load_file(folder: Path, name: str) -> dict[str, Any] | None:
    """Read one of the files in TYPES; None where there is none. Raises RecordError."""
    content = _json(folder, name)
    if content is None:
        return None
    try:
        _check_values(content)
        for key, kind in TYPES[name].items():
            _check_type(content, key, kind)
        if name == "run.json":
            _check_lists(content)
    except ValueError as error:
        raise _error(folder, name, str(error)) from error
    return content


def load_metrics(folder: Path) -> dict[str, Metric]:
    """Read the series of a record, those with at least one point. Raises RecordError."""
    found = {}
    for name, metric in sorted((_json(folder, "metrics.json") or {}).items()):
        try:
            _check_text(name)
            series = _metric(metric)
        except ValueError as error:
            raise _error(folder, "metrics.json", f"holds a series {shown(name)} that {error}") from error
        if series.steps:
            found[name] = series
    return found


def read_bytes(folder: Path, name: str, limit: int) -> bytes:
    """Read the plain file ``name`` inside ``folder``, of at most ``limit`` bytes.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it lies outside of the folder, is no plain file or reached through a link, or is too long; the
            message continues a sentence about the file.
        OSError: it cannot be read.
    """
    with _open(folder, name) as file:
        is_long = os.fstat(file.fileno()).st_size > limit
        data = b"" if is_long else file.read(limit + 1)  # it may have grown since
    if is_long or len(data) > limit:
        raise ValueError(f"is longer than {limit // MB} MB")
    return data


def read_tail(folder: Path, name: str, limit: int) -> tuple[bytes, int]:
    """Read the last ``limit`` bytes of a plain file; returns them with the file's size. Raises as read_bytes does."""
    with _open(folder, name) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - limit))
        return file.read(limit), size


def shown(text: object, limit: int = TEXT) -> str:
    """Make a stranger's text fit to be printed: no control characters, no broken Unicode, no more than ``limit``."""
    line = "".join(
        sign if sign.isprintable() else " " if sign in "\n\t" else "\ufffd" for sign in str(text)[: limit + 1]
    )
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def time(text: str | None, what: str = "a time") -> datetime | None:
    """Parse a time of Sacred's, which is UTC without saying so. Raises ValueError, which continues a sentence."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"has {what} that is none ({shown(text, 40)})") from error
    return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found


def _open(folder: Path, name: str) -> BinaryIO:
    relative = Path(name)
    if "\0" in name or relative.anchor or ".." in relative.parts or not relative.parts:
        raise ValueError("lies outside of the record's folder")
    for parent in [folder / parent for parent in reversed(relative.parents) if parent.parts]:
        if not stat.S_ISDIR(parent.lstat().st_mode):
            raise ValueError(f"is {PLAIN}")
    try:
        return open_plain(folder / relative)
    except Unreadable as error:
        raise ValueError(f"is {PLAIN}") from error


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
        raise _error(folder, name, "is cut or damaged (no JSON)" if data else "is empty") from error
    except RecursionError as error:
        raise _error(folder, name, "is nested too deeply") from error
    except OSError as error:
        raise _error(folder, name, f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # of read_bytes, or a number of thousands of digits
        why = str(error) if "digits" not in str(error) else "holds a number beyond 64 bits"
        raise _error(folder, name, why) from error
    if not isinstance(content, dict):
        raise _error(folder, name, f"holds no key: value pairs, but {shown(json.dumps(content), 20)}")
    return content


def _check_values(content: dict[str, Any]) -> None:
    """Refuse what no database, table or page could show. Not recursive: the content may be as deep as JSON allows."""
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
        raise ValueError("holds text that is no Unicode") from error
    if "\0" in text:
        raise ValueError("holds a text with a null character")


def _check_type(content: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> None:
    *sections, last = key.split(".")
    for section in sections:
        content = content.get(section) or {}  # its own type was checked before
    value = content.get(last)
    if value is None:
        return
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"has {key}={shown(json.dumps(value), 40)}, which is not {NAMES[kind]}")


def _check_lists(run: Mapping[str, Any]) -> None:
    sources = (run.get("experiment") or {}).get("sources") or []
    texts = {"fail_trace": run.get("fail_trace") or [], "artifacts": run.get("artifacts") or []}
    for key, values in texts.items():
        if not all(isinstance(value, str) for value in values):
            raise ValueError(f"has a {key} that is no list of texts")
    if not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in pair) for pair in sources
    ):
        raise ValueError("has experiment.sources that are no pairs of texts")
    for key in _TIMES:
        time(run.get(key), f"a {key}")


def _metric(metric: Any) -> Metric:
    if not isinstance(metric, dict):
        raise ValueError("is no section with steps and values")
    steps, values, times = (metric.get(key) or [] for key in ("steps", "values", "timestamps"))
    if not all(isinstance(column, list) for column in (steps, values, times)):
        raise ValueError("has steps, values or timestamps that are no list")
    if len(steps) != len(values) or (times and len(times) != len(steps)):
        raise ValueError(f"has {len(steps)} steps and {len(values)} values")
    numbers = [_number(step) for step in steps]
    if not all(number is not None and 0 <= number < 2**63 and number == int(number) for number in numbers):
        raise ValueError("has a step that is no whole number of 0 or more")
    for moment in times:
        time(moment, "a timestamp")
    return Metric([int(number) for number in numbers], [_number(value) for value in values], times)


def _number(value: Any) -> int | float | None:
    """Sacred writes numpy's numbers as ``{"dtype": ..., "value": ...}``, and null stands for a NaN."""
    if isinstance(value, dict):
        value = value.get("value")
    if value is None or isinstance(value, float):
        return value
    if not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise ValueError(f"has {shown(json.dumps(value), 40)} for a number")
    return value


def _error(folder: Path, name: str, why: str) -> RecordError:
    return RecordError(f"{shown(folder, 500)}: {name} {why}.")
