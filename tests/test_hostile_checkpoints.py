"""Checkpoints from a generator of attacks: no code in them runs, no outside file is opened, an error is one sentence.

``LOLM_HOSTILE=5000 pytest tests/test_hostile_checkpoints.py`` generates 5000 checkpoints instead of 200.
"""

import json
import os
import pickle
import random
import shutil
import signal
import struct
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lolm_plugin import checkpoints
from lolm_plugin.commands import train as train_command
from lolm_plugin.configuration import command_line, config_check, config_files
from lolm_plugin.configuration.config_files import flatten
from lolm_plugin.configuration.fields import Withheld
from lolm_plugin.configuration.schema import FIELDS
from lolm_plugin.errors import ConfigError
from lolm_plugin.run import loop, loop_state
from lolm_plugin.run.transfer import transfer
from tests.resume.runs import line, models, steps, train

COUNT = int(os.environ.get("LOLM_HOSTILE", "200"))
SECONDS = 10  # time limit per checkpoint; detects one that hangs
WATCHED = ("open", "import", "socket.connect", "subprocess.Popen", "os.system", "os.exec", "os.mkdir", "os.rename")
WIDTHS = ("updet.head_width=8", "updet.heads=1", "updet.feature_width=8", "save_model=True")

MARKS = {key: mark for key, field in FIELDS.items() if (mark := field.get(Withheld)) is not None}
WITHHELD = {key: mark.default for key, mark in MARKS.items() if not mark.needed}
DEFAULTS = {key: mark.default for key, mark in MARKS.items() if mark.needed}

known_keys, read = cache(config_files.known_keys), cache(config_files.read)
events = []
watching = False


def _watch(event, arguments):
    if watching and event in WATCHED:
        events.append((event, *map(str, arguments)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a run's folder, and its components for loading checkpoints."""
    folder, kept = tmp_path_factory.mktemp("whole") / "run", []
    assemble = loop.assemble
    patch = pytest.MonkeyPatch()
    patch.setattr(loop, "assemble", lambda *given: kept.append(assemble(*given)) or kept[-1])
    assert train(folder, *line("updet_mappo", "probe", "duel", "t_max=20", *WIDTHS)) == 0
    patch.undo()
    parts = kept[-1]
    parts.logger.setup_sacred(None)
    return folder, parts


class Attack:
    """An object that creates a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


class Generator:
    """Generator of attacks on the checkpoint in ``folder``. Nothing in ``outside`` may be opened or changed."""

    def __init__(self, seed, folder, outside):
        self.draw, self.folder, self.outside = random.Random(seed), folder, outside
        self.facts = checkpoints.read_facts_unchecked(folder)

    def attack(self):
        """Carry out one random attack and return its name."""
        chosen = self.draw.choice(
            [
                *(self.names_something,) * 4,
                *(self.changes_a_setting,) * 3,
                *(self.changes_a_fact, self.breaks_the_manifest, self.lists_another_file, self.puts_no_file),
                *(self.spoils_tensors, self.spoils_json, self.spoils_json, self.names_a_step),
            ]
        )
        what = chosen()
        return f"{chosen.__name__}: {what}"

    def seal(self):
        """Write a manifest with correct checksums of the current files."""
        (self.folder / checkpoints.MANIFEST).unlink(missing_ok=True)
        checkpoints.seal(self.folder, self.facts)

    def value(self):
        """Return a random JSON value."""
        deep = []
        for _ in range(self.draw.choice([3, 100, 400])):
            deep = [deep]
        return self.draw.choice(
            [
                *(None, True, -1, 0, 2**31, 10**30, -(10**30), 0.5, float("nan"), float("inf"), [], [[]], {}, deep),
                *("", "a", "\x1b[2J\n\0", "²", "../../x", "~/x", "/etc/hostname", str(self.outside), "é" * 3000),
                *({"a": {"b": 1}}, [None] * 2000, {"": ""}, {"env_args.key": "evil:X-v0"}, "9" * 50),
            ]
        )

    def names_something(self):
        module, path = self.draw.choice(["evil", "results.models.run.evil"]), str(self.outside / "new")
        key, value = self.draw.choice(
            [
                ("env_args.key", f"{module}:X-v0"),
                ("env_args.key", f"pz-{module}-x-v1"),
                ("layout.description", f"{module}:describe"),
                ("env_args.map_name", f"../../../{self.outside}/secret"),
                ("llm.model", str(self.outside)),
                ("llm.model", "stranger/model"),
                ("prompt.style", f"{module}:Style"),
                *((key, f"{module}:Thing") for key in ("env", "runner", "mac", "agent", "learner", "critic_type")),
                *((key, path) for key in (*WITHHELD, *DEFAULTS, "checkpoint_path", "transfer_from", "name", "label")),
                ("mongo", "mongodb://127.0.0.1:9/x"),
                ("use_wandb", True),
            ]
        )
        where = self.facts["config"]
        for section in key.split(".")[:-1] if self.draw.random() < 0.7 else ():
            where = where[section]
        last = key.split(".")[-1] if where is not self.facts["config"] else key  # a key with a dot has the same meaning
        where[last] = value
        if key.startswith("env_args.") and self.draw.random() < 0.5:
            self.facts["config"]["env"] = self.draw.choice(["gymma", "sc2v2", "smaclite"])
        self.seal()
        return f"{key}={value}"

    def changes_a_setting(self):
        flat = flatten(self.facts["config"])
        key, value = self.draw.choice(sorted(flat)), self.value()
        where = self.facts["config"]
        for section in key.split(".")[:-1]:
            where = where[section]
        where[key.split(".")[-1]] = value
        self.seal()
        return f"{key}={str(value)[:50]}"

    def changes_a_fact(self):
        key = self.draw.choice([*sorted(self.facts), "unheard"])
        self.facts[key] = self.value()
        if self.draw.random() < 0.2:
            del self.facts[key]
        self.seal()
        return key

    def breaks_the_manifest(self):
        path = self.folder / checkpoints.MANIFEST
        text = path.read_bytes()
        body = json.loads(text)["body"]
        body[self.draw.choice(sorted(body))] = self.value()
        content = self.draw.choice(
            [text[: self.draw.randrange(len(text))], b"[" * 10_000, b"{}", b"[]", b"null", b'{"body": []}', b"\xff\xfe"]
            + [b"1" * 10_000, json.dumps({"body": body, "sha256": checkpoints._body_sum(body)}).encode()] * 2
        )
        path.write_bytes(content)
        if self.draw.random() < 0.2:
            os.truncate(path, 50 * 2**20)
        return content[:50]

    def lists_another_file(self):
        path = self.folder / checkpoints.MANIFEST
        body = json.loads(path.read_text())["body"]
        name = self.draw.choice(["../../../secret", "/etc/hostname", str(self.outside / "secret"), "a\0b", "", "."])
        body["files"][name] = self.draw.choice([self.value(), {"bytes": 6, "sha256": self.value()}, {"bytes": 6}])
        path.write_text(json.dumps({"body": body, "sha256": checkpoints._body_sum(body)}))
        return name

    def puts_no_file(self):
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        path = self.draw.choice([*files, self.folder / "more.safetensors"])
        path.unlink(missing_ok=True)
        how = self.draw.choice(["pipe", "link", "dangling", "folder", "loop", "device"])
        if how == "pipe":
            os.mkfifo(path)
        elif how == "folder":
            path.mkdir()
        else:
            path.symlink_to({"link": self.outside / "secret", "loop": path, "device": "/dev/zero"}.get(how, "nowhere"))
        if self.draw.random() < 0.3:
            manifest = self.folder / checkpoints.MANIFEST
            if path != manifest:
                body = json.loads(manifest.read_text())["body"]
                body["files"].pop(path.name, None)
                manifest.write_text(json.dumps({"body": body, "sha256": checkpoints._body_sum(body)}))
        return f"{path.name} {how}"

    def spoils_tensors(self):
        path = self.draw.choice(sorted(self.folder.glob("*.safetensors")))
        tensors = load_file(path)
        name = self.draw.choice(sorted(tensors))
        how = self.draw.choice(["pickle", "noise", "long header", "vast", "name", "shape", "kind", "none", "claims"])
        path.unlink()
        if how == "pickle":
            path.write_bytes(pickle.dumps(Attack(self.outside / "mark")))
        elif how == "noise":
            path.write_bytes(self.draw.randbytes(500))
        elif how == "long header":
            path.write_bytes(struct.pack("<Q", 90 * 2**20))
            os.truncate(path, 91 * 2**20)
        elif how in ("vast", "claims"):
            header = {"w": {"dtype": "F32", "shape": [2**28], "data_offsets": [0, 2**30]}}
            text = json.dumps(header).encode()
            path.write_bytes(struct.pack("<Q", len(text)) + text)
            if how == "vast":
                os.truncate(path, 8 + len(text) + 2**30)
        else:
            if how == "name":
                tensors["\x1b[2J"] = tensors.pop(name)
            elif how == "shape":
                tensors[name] = torch.zeros(3, 1, 2)
            elif how == "kind":
                tensors[name] = torch.zeros(tensors[name].shape, dtype=self.draw.choice([torch.bool, torch.float64]))
            else:
                tensors = {}
            save_file(tensors, path)
        if how == "vast":  # no checksum: that of a gigabyte takes seconds
            return f"{path.name} {how}"
        self.seal()
        return f"{path.name} {name} {how}"

    def spoils_json(self):
        name = self.draw.choice(["learner", "loop", "metrics.json"])
        path = self.folder / name
        content = json.loads(path.read_text()) if path.exists() else self.facts[name]
        where = content
        for _ in range(self.draw.choice([0, 0, 1, 2])):
            below = [key for key in where if isinstance(where[key], dict)]
            where = where[self.draw.choice(below)] if below else where
        key = self.draw.choice([*where, "unheard"])
        where[key] = self.value()
        if self.draw.random() < 0.2:
            del where[key]
        content = content if self.draw.random() < 0.9 else self.value()
        if path.exists():
            path.unlink()
            path.write_text(json.dumps(content))
        else:
            self.facts[name] = content
        self.seal()
        return f"{name} {key}"

    def names_a_step(self):
        name = self.draw.choice(["²", "٣", "007", "-1", "1e3", "9" * 200, "9" * 14, " 7", "7\n"])
        self.folder.rename(self.folder.with_name(name))
        return repr(name)


def hardlinked(source, target):
    """Copy a checkpoint with hard links, except the manifest. The generator never writes into linked files."""
    shutil.copytree(source, target, copy_function=os.link)
    (target / checkpoints.MANIFEST).unlink()
    shutil.copy(source / checkpoints.MANIFEST, target / checkpoints.MANIFEST)


def loads(parts, config, asked):
    """Load a checkpoint as a run does before its first step, and check the configuration."""
    global watching
    folder = asked.resume.folder
    found = checkpoints.find(folder, strict=config["strict"], key="--resume")
    parts.args.t_max = config["t_max"]
    parts.learner.load_models(str(found.path))
    parts.logger.stats.clear()
    loop_state.load(parts, found)
    flat = flatten(config)
    assert {key: flat[key] for key in WITHHELD if key in flat} == {
        key: WITHHELD[key] for key in WITHHELD if key in flat
    }
    assert flat["layout.description"] == ""
    assert Path(config["name"]).name == config["name"]
    return 0


@pytest.mark.parametrize("seed", range(0, COUNT, 20))
def test_hostile_checkpoints(whole, seed, tmp_path, monkeypatch, capfd):
    """Each test tries 20 checkpoints; a failure shows the seed of its checkpoint."""
    source, parts = whole
    sys.addaudithook(_watch)  # cannot be removed, so it checks the flag ``watching``
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    before = json.dumps(checkpoints.read_facts_unchecked(models(source) / str(steps(source)[-1])))
    for each in range(seed, min(seed + 20, COUNT)):
        folder = tmp_path / f"{each}"
        run = folder / "results/models/run"
        checkpoint = run / str(steps(source)[-1])
        run.mkdir(parents=True)
        (run / "evil.py").write_text(f"open({str(outside / 'mark')!r}, 'w')")
        hardlinked(models(source) / checkpoint.name, checkpoint)
        what = Generator(each, checkpoint, outside).attack()
        capfd.readouterr()
        code = _tried(folder, parts, monkeypatch, each)
        printed = capfd.readouterr().err
        errors = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert code in (0, 2), (each, what, printed)
        assert len(errors) == (code == 2), (each, what, printed)
        assert "Traceback" not in printed, (each, what, printed)
        assert "\x1b" not in printed, (each, what)
        _check_events(each, what, outside)
        assert [path.name for path in outside.iterdir()] == ["secret"], (each, what)
        shutil.rmtree(folder)
    after = json.dumps(checkpoints.read_facts_unchecked(models(source) / str(steps(source)[-1])))
    assert after == before, "the harness is broken"


def _tried(folder, parts, monkeypatch, seed):
    """Resume or transfer the checkpoint in ``folder`` and return the exit code."""
    global watching
    monkeypatch.setattr(train_command, "launch", lambda config, host, asked: loads(parts, config, asked))
    # For speed: skip Sacred's command line, and read each yaml file once.
    monkeypatch.setattr(command_line, "sacred_options", lambda *given: {"COMMAND": None})
    monkeypatch.setattr(config_check, "known_keys", known_keys)
    monkeypatch.setattr(config_files, "read", read)
    monkeypatch.syspath_prepend(str(folder))  # as with `python -m`
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    events.clear()
    watching = True
    try:
        if seed % 8:
            return train(folder, "--resume", "results/models/run", "--epymarl=none", *(["--strict"] * (seed % 2)))
        found = checkpoints.find(folder / "results/models/run", key="transfer_from")
        parts.args.transfer_from, parts.args.transfer_critic = "run", True
        transfer(parts, found)
        return 0
    except ConfigError as error:
        print(f"error: {str(error)!a}", file=sys.stderr)
        return 2
    finally:
        watching = False
        signal.alarm(0)
        sys.path.remove(str(folder))


def _too_long(*_):
    raise TimeoutError("it hangs")


def _check_events(each, what, outside):
    """Check that no foreign module was imported, no connection or process was made, and no outside file was opened."""
    for event, first, *_ in events:
        assert event not in ("socket.connect", "subprocess.Popen", "os.system", "os.exec"), (each, what, event, first)
        assert event != "import" or not first.startswith(("evil", "results")), (each, what, first)
        if event == "open":
            assert str(outside) not in first, (each, what)
            assert "/../" not in first, (each, what, first)


def test_the_audit_hook_records_events(tmp_path):
    global watching
    sys.addaudithook(_watch)
    events.clear()
    watching = True
    (tmp_path / "seen").write_text("")
    watching = False
    assert ("open", str(tmp_path / "seen")) in {event[:2] for event in events}
