"""Damaged and hostile records, made from a valid one with a seeded generator."""

import json
import os
import random

from lolm_plugin.tracking.record_files import DEPTH, LIMITS
from tests.report.test_records import write

FILES = tuple(LIMITS)
WRONG = ([], {}, "x", 7.5, True, [1], {"a": 1}, -1)
TYPES = {  # the type of each key that is read; a dot separates section and key
    "run.json": {
        **dict.fromkeys(("status", "start_time", "stop_time", "heartbeat", "host.hostname"), str),
        **dict.fromkeys(("fail_trace", "artifacts", "experiment.sources"), list),
        **dict.fromkeys(("host", "experiment"), dict),
    },
    "config.json": {"env": str, "env_args": dict, "seed": int, "t_max": (int, float)},
    "info.json": {
        **dict.fromkeys(("launch", "transfer", "resumed_from", "transfer.source_settings"), dict),
        **dict.fromkeys((f"launch.{name}" for name in ("command", "commit", "version", "host")), str),
        **dict.fromkeys(("transfer.source_map", "resumed_from.sacred_run"), str),
        "launch.peak_memory_mb": (int, float),
    },
}
STRANGE_FOLDERS = ("²", "a\nb", "\x1b[31mred", "x" * 200, os.fsdecode(b"\xff\xfe"), "run.json.d", "..a", " ")
OUTSIDE = ("../../../../../../../../{secret}", "{secret}", "link", "pipe", "folder", "a/../../../{name}", "nul\0l")


def damaged(folder, secret, seed):
    """Write an unusable record below ``folder``; return its folder."""
    draw = random.Random(seed)
    record = _record(folder, draw, seed)
    draw.choice((_damage_bytes, _damage_file, _damage_content, _damage_content, _damage_series))(record, draw, secret)
    return record


def prying(folder, secret, seed):
    """Write a valid record that names files outside it; return its folder and the number of these names."""
    draw = random.Random(seed)
    record = _record(folder, draw, seed)
    (record / "link").symlink_to(secret)
    (record / "folder").mkdir()
    os.mkfifo(record / "pipe")
    names = [name.format(secret=secret, name=secret.name) for name in draw.sample(OUTSIDE[:-1], k=3)]
    _change(record, "run.json", lambda run: run.update(artifacts=names, experiment={"sources": [["a.py", names[0]]]}))
    parent = draw.choice((record.name, "..", "/", "../..", "no-such", "."))
    (record / "info.json").write_text(json.dumps({"resumed_from": {"sacred_run": parent}}))
    return record, len(names) + 1


def _record(folder, draw, seed):
    name = f"{seed}{draw.choice(STRANGE_FOLDERS)}" if draw.random() < 0.4 else str(seed)
    return write(folder / name, config={"seed": seed}, info={"launch": {"command": "c"}})


def _change(record, name, change):
    content = json.loads((record / name).read_text())
    change(content)
    (record / name).write_text(json.dumps(content))


def _damage_bytes(record, draw, secret):
    path = record / draw.choice(FILES)
    data = path.read_bytes()
    path.write_bytes(
        draw.choice(
            (
                data[: draw.randrange(1, len(data))],
                b"",
                b"\xff\xfe" + data,
                draw.randbytes(50),
                data.decode().encode("utf-16"),
                b"[" * 100_000,
                b'{"a": ' * 100_000,
                b'{"a": ' + b"9" * 5000 + b"}",
                *(json.dumps(value).encode() for value in ([], None, 3, "text", True, [{}])),
            )
        )
    )


def _damage_file(record, draw, secret):
    path = record / draw.choice(FILES)
    kind = draw.choice(("link", "pipe", "folder", "device", "long"))
    if kind == "long":
        os.truncate(path, LIMITS[path.name] + 1)  # a sparse file, which takes no disk space
        return
    path.unlink()
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)


def _damage_content(record, draw, secret):
    name = draw.choice(tuple(TYPES))
    if draw.random() < 0.3:
        nested = {}
        for _ in range(DEPTH + 10):
            nested = {"a": nested}
        bad = draw.choice((10**30, "\ud800", nested, [nested], "a\0b"))
        _change(record, name, lambda content: content.update(further=bad))
        return
    key, kind = draw.choice(tuple(TYPES[name].items()))
    bad = draw.choice([value for value in WRONG if not isinstance(value, kind) or isinstance(value, bool)])
    *sections, last = key.split(".")

    def change(content):
        for section in sections:
            content = content.setdefault(section, {})
        content[last] = bad

    _change(record, name, change)


def _damage_series(record, draw, secret):
    good = {"steps": [1, 2], "values": [0.5, 0.25]}
    bad = draw.choice(
        (
            [],
            "text",
            {**good, "steps": [1]},
            {**good, "steps": [-1, 2]},
            {**good, "steps": [1, 2.5]},
            {**good, "steps": [1, 10**30]},
            {**good, "values": [1, "2"]},
            {**good, "values": [1, [2]]},
            {**good, "values": [1, 10**400]},
            {**good, "values": "12"},
            {**good, "timestamps": ["yesterday", "today"]},
            {**good, "timestamps": [1, 2]},
        )
    )
    _change(record, "metrics.json", lambda metrics: metrics.update({draw.choice(("test_return_mean", "loss")): bad}))
