"""A checkpoint is whole or absent, also after a kill, a disk error or damage to its files."""

import errno
import json
import logging
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lolm_plugin import __version__, checkpoints
from lolm_plugin.checkpoints import SaveError, Store
from lolm_plugin.errors import ConfigError
from lolm_plugin.tensor_files import load_tensors, save_tensors

LOG = logging.getLogger("store")
ROOT = Path(__file__).parents[2]


def fill(value):
    """Return a function that writes ``value`` into every file of a checkpoint."""

    def write(folder):
        (folder / "adapter").mkdir()
        save_tensors(folder / "adapter/weights.safetensors", {"w": torch.full((40,), float(value))})
        save_tensors(folder / "critic.safetensors", {"w": torch.full((40,), float(value))})
        (folder / "metrics.json").write_text(json.dumps({"value": value}))
        checkpoints.add_facts(folder, learner={"value": value})

    return write


def value(checkpoint):
    """Return the number in a checkpoint, which must be the same in all its files."""
    found = {int(load_tensors(file)["w"][-1]) for file in checkpoint.path.rglob("*.safetensors")}
    found.add(json.loads((checkpoint.path / "metrics.json").read_text())["value"])
    found |= {checkpoint.facts["value"], checkpoint.facts["learner"]["value"]}
    assert len(found) == 1, found
    return found.pop()


def saved(folder, *steps, keep=None, scores=()):
    """Save a checkpoint for each step, with the step as its number; return the folder."""
    with Store(folder, keep) as opened:
        for step, score in zip(steps, [*scores, *[None] * len(steps)], strict=False):
            opened.save(step, fill(step), {"value": step, "score": score})
    return folder


def test_settings_are_found_under_their_name_before_0_2_0(tmp_path):
    checkpoints.seal(tmp_path, {"settled": {"torch_threads": 2}})
    assert checkpoints.read_facts(tmp_path) == {"resolved_settings": {"torch_threads": 2}}


@pytest.mark.parametrize("facts", ["settled", ["settled"], 5, {"settled": 5}])
def test_facts_of_another_type_are_damage(tmp_path, facts):
    checkpoints._write(tmp_path, {}, facts)
    with pytest.raises(checkpoints.Damaged):
        checkpoints.read_facts(tmp_path)


def test_the_newest_checkpoint_or_the_nearest_to_load_step_is_found(tmp_path):
    folder = saved(tmp_path / "run", 5, 10, 20)
    assert value(checkpoints.find(folder)) == 20
    assert checkpoints.find(folder).step == 20
    assert value(checkpoints.find(folder, load_step=6)) == 5
    assert value(checkpoints.find(folder, load_step=12)) == 10


def test_the_newest_and_the_best_are_kept(tmp_path):
    folder = saved(tmp_path / "run", 1, 2, 3, 4, 5, keep=2, scores=([0.1, 3], [0.9, 1], [0.5, 9], [0.2, 9], None))
    assert checkpoints.steps(folder) == [2, 4, 5]
    with Store(folder, 2) as opened:
        assert opened.best_score() == [0.9, 1]
        opened.save(6, fill(6), {"value": 6, "score": [0.9, 2]})
    assert checkpoints.steps(folder) == [5, 6]
    assert sorted(path.name for path in folder.iterdir()) == ["5", "6"], "other files were left"


def test_a_second_save_of_a_step_replaces_the_first(tmp_path):
    folder = saved(tmp_path / "run", 5)
    with Store(folder, None) as opened:
        opened.save(5, fill(7), {"value": 7})
    assert value(checkpoints.find(folder)) == 7


@pytest.mark.parametrize(
    "name", ["critic.safetensors", "adapter/weights.safetensors", "metrics.json", checkpoints.MANIFEST]
)
@pytest.mark.parametrize("how", ["flipped", "cut", "missing", "empty"])
def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path, caplog, name, how):
    folder = saved(tmp_path / "run", 5, 10)
    damage(folder / "10" / name, how, random.Random(0))
    found = checkpoints.find(folder, log=LOG)
    assert value(found) == 5
    (warning,) = [record.getMessage() for record in caplog.records]
    assert str(folder / "10") in warning
    assert Path(name).name in warning
    assert "Going back to step 5" in warning
    with pytest.raises(ConfigError, match=r"10 is damaged: .*leave out --strict"):
        checkpoints.find(folder, strict=True)


def damage(path, how, generator):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: generator.randrange(len(content))])
    else:
        at = generator.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << generator.randrange(8)]) + content[at + 1 :])


def test_no_checkpoint_with_random_damage_is_loaded(tmp_path):
    whole = saved(tmp_path / "whole", 5, 10)
    generator = random.Random(1)
    for trial in range(200):
        folder = tmp_path / "run"
        shutil.copytree(whole, folder)
        files = sorted(path for path in (folder / "10").rglob("*") if path.is_file())
        changed = generator.choice(files)
        before = changed.read_bytes()
        damage(changed, generator.choice(["flipped", "cut", "missing"]), generator)
        if not changed.exists() or changed.read_bytes() != before:
            assert value(checkpoints.find(folder)) == 5, (trial, changed)
        shutil.rmtree(folder)


def test_an_error_is_raised_if_no_whole_checkpoint_is_left(tmp_path):
    folder = saved(tmp_path / "run", 5)
    (folder / "5/critic.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"critic.safetensors is missing: no whole checkpoint is left"):
        checkpoints.find(folder)
    with pytest.raises(ConfigError, match="has no checkpoint"):
        checkpoints.find(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        checkpoints.find(tmp_path / "nowhere")


def without_manifest(path):
    """Turn a checkpoint into one of the released 0.1.0."""
    path.unlink()
    (path.parent / "learner.json").write_text('{"format": 1}')


def older_manifest(path, version="0.1.0"):
    """Replace a manifest by one of a later revision of 0.1.0."""
    body = {"format": 2, "files": {}, "facts": {"version": version, "env": "probe"}}
    path.write_text(json.dumps({"sha256": checkpoints._body_sum(body), "body": body}))


@pytest.mark.parametrize("older", [without_manifest, older_manifest])
def test_a_checkpoint_of_another_version_is_refused_in_a_sentence(tmp_path, older):
    folder = saved(tmp_path / "run", 5, 10)
    older(folder / "10" / checkpoints.MANIFEST)
    with pytest.raises(ConfigError) as error:
        checkpoints.find(folder, key="transfer_from")
    assert str(error.value) == (
        f"transfer_from={folder}: step 10 was written by lolm_plugin 0.1.0, whose checkpoints version {__version__} "
        "cannot read: train again, or install lolm_plugin 0.1.0."
    )
    assert checkpoints.read_facts_unchecked(folder / "10") == {}


def test_an_untrusted_version_is_not_printed(tmp_path):
    folder = saved(tmp_path / "run", 5)
    older_manifest(folder / "5" / checkpoints.MANIFEST, version="9; rm -rf ~")
    with pytest.raises(ConfigError, match=r"another version.*cannot read: train again\.$"):
        checkpoints.find(folder)


def test_a_checkpoint_without_a_manifest_is_damaged(tmp_path):
    folder = saved(tmp_path / "run", 5, 10)
    (folder / "10" / checkpoints.MANIFEST).unlink()
    assert checkpoints.find(folder).step == 5


@pytest.mark.parametrize("outside", ["../secret", "/etc/hostname"])
def test_a_manifest_with_a_path_outside_its_folder_is_refused(tmp_path, outside):
    folder = saved(tmp_path / "run", 5)
    (tmp_path / "run/secret").write_text("secret")
    path = folder / "5" / checkpoints.MANIFEST
    body = json.loads(path.read_text())["body"]
    body["files"][outside] = {"bytes": 6, "sha256": checkpoints._file_sum(tmp_path / "run/secret")}
    path.write_text(json.dumps({"sha256": checkpoints._body_sum(body), "body": body}))
    with pytest.raises(ConfigError, match=f"names {outside}, which is not inside the checkpoint"):
        checkpoints.find(folder)


def link(checkpoint):
    (checkpoint.parent / "secret").write_text("secret")
    (checkpoint / "link").symlink_to(checkpoint.parent / "secret")


def pipe(checkpoint):
    (checkpoint / checkpoints.MANIFEST).unlink()
    os.mkfifo(checkpoint / checkpoints.MANIFEST)


def unlisted_pipe(checkpoint):
    os.mkfifo(checkpoint / "more.safetensors")


def long_manifest(checkpoint):
    os.truncate(checkpoint / checkpoints.MANIFEST, 51 * 2**20)


def deep_manifest(checkpoint):
    (checkpoint / checkpoints.MANIFEST).write_text("[" * 100_000)


def many_files(checkpoint):
    for number in range(1100):
        (checkpoint / f"{number}.txt").touch()


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (link, "link is a link"),
        (pipe, "manifest.json is neither a file nor a folder"),
        (unlisted_pipe, "more.safetensors is neither a file nor a folder"),
        (long_manifest, "manifest.json has 53,477,376 bytes, more than the limit of 1,048,576"),
        (deep_manifest, "manifest.json is not valid JSON"),
        (many_files, "more than 1000 files are in it"),
    ],
)
def test_links_pipes_and_oversized_files_make_a_checkpoint_damaged(tmp_path, attack, reason):
    folder = saved(tmp_path / "run", 5, 10)
    attack(folder / "10")
    assert value(checkpoints.find(folder)) == 5
    with pytest.raises(ConfigError, match=f"10 is damaged: {reason}"):
        checkpoints.find(folder, strict=True)


@pytest.mark.parametrize(
    ("key", "hostile"),
    [
        *(("sacred_runs", 5), ("sacred_runs", [{}]), ("host", []), ("config", [1]), ("env_args", 3), ("seed", "1")),
        *(("score", "high"), ("score", []), ("transfer", "all"), ("t_env", True), ("packages", {"torch": 2})),
        ("sacred_starts", [["a"]]),
    ],
)
def test_facts_of_a_wrong_type_make_a_checkpoint_damaged(tmp_path, key, hostile):
    with Store(tmp_path / "run", None) as opened:
        opened.save(5, fill(5), {"value": 5, key: hostile})
    with pytest.raises(ConfigError, match=f"has an invalid value for {key}"):
        checkpoints.find(tmp_path / "run")


@pytest.mark.parametrize("name", ["²", "007", "9" * 400, "-5", "link"])
def test_a_folder_whose_name_is_not_a_step_is_no_checkpoint(tmp_path, name):
    folder = saved(tmp_path / "run", 5, 10)
    (folder / "5").rename(folder / "aside")
    if len(name) < 255:
        (folder / name).mkdir()
    if name == "link":
        (folder / "11").symlink_to(folder / "aside")
    assert checkpoints.steps(folder) == [10]


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    folder = saved(tmp_path / "run", 5)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with Store(folder, 1) as opened, pytest.raises(SaveError, match=r"run/10 could not be written \(No space left"):
        opened.save(10, fill(10), {"value": 10})
    assert sorted(path.name for path in folder.iterdir()) == ["5"]
    assert value(checkpoints.find(folder)) == 5


def test_tensors_that_cannot_be_written_raise_a_save_error(tmp_path):
    """Limit the size of files in a separate process, so that the system refuses a write inside safetensors."""
    program = f"""
import resource, signal, torch
from pathlib import Path
from lolm_plugin.tensor_files import save_tensors
from lolm_plugin.checkpoints import SaveError, Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with Store(Path({str(tmp_path / "run")!r}), 1) as opened:
    try:
        opened.save(5, lambda folder: save_tensors(folder / "w.safetensors", {{"w": torch.zeros(9999)}}), {{}})
    except SaveError as error:
        print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert "refused: The checkpoint" in done.stdout, done.stderr
    assert checkpoints.steps(tmp_path / "run") == []


def test_two_processes_cannot_write_into_one_folder(tmp_path):
    with Store(tmp_path / "run", 1), pytest.raises(ConfigError, match="belongs to a run that is still running"):
        Store(tmp_path / "run", 1).__enter__()
    with Store(tmp_path / "run", 1):
        pass


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    folder = saved(tmp_path / "run", 5, 10)
    (folder / ".writing-15").mkdir()
    (folder / "10").rename(folder / ".writing-10-before")  # killed between the two renames
    with Store(folder, None):
        pass
    assert checkpoints.steps(folder) == [5, 10]
    assert value(checkpoints.find(folder)) == 10
    assert not list(folder.glob(".*"))


def test_later_checkpoints_are_set_aside(tmp_path):
    folder = saved(tmp_path / "run", 5, 10, 15)
    with Store(folder, None) as opened:
        opened.set_aside_after(5)
    assert sorted(path.name for path in folder.iterdir()) == ["10.damaged", "15.damaged", "5"]


def test_checkpoints_set_aside_earlier_are_kept(tmp_path):
    folder = saved(tmp_path / "run", 5, 10)
    for _ in range(2):
        with Store(folder, None) as opened:
            opened.set_aside_after(5)
            opened.save(10, fill(10), {"value": 10})
    assert sorted(path.name for path in folder.iterdir()) == ["10", "10.damaged", "10.damaged-2", "5"]


KILLER = """
import itertools, os, random, signal, sys, time
from pathlib import Path
from lolm_plugin import __version__, checkpoints
from tests.run.test_store import fill, value

folder, generator, step = Path(sys.argv[1]), random.Random(2), 0
completed = folder.with_name("completed")
completed.write_text("0")
for kill in range(50):
    child = os.fork()
    if child == 0:  # saves without a pause, and every second step twice, as in a resumed run
        with checkpoints.Store(folder, 2) as opened:
            for next_step in itertools.count(step + 1):
                for _ in range(1 + next_step % 2):
                    opened.save(next_step, fill(next_step), {"value": next_step, "score": [next_step % 7]})
                completed.with_suffix(".new").write_text(str(next_step))
                completed.with_suffix(".new").rename(completed)
    before = completed.read_text()
    while completed.read_text() == before:  # wait for one more save, also on a slow disk
        time.sleep(0.001)
    time.sleep(generator.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    unfinished = len(list(folder.glob(".writing-*")))
    if checkpoints.steps(folder):
        damaged = [at for at in checkpoints.steps(folder) if not checkpoints.is_intact(folder / str(at))]
        found = checkpoints.find(folder)
        assert value(found) >= int(completed.read_text()), (kill, found)
        assert not damaged, (kill, damaged)
        step = found.step
    print("loaded", step, "unfinished", unfinished)
"""


def test_50_kills_at_random_moments_of_saving(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True
    )
    loads = [line.split() for line in done.stdout.splitlines()]
    assert len(loads) == 50, done.stderr
    assert int(loads[-1][1]) >= 50, "too few checkpoints were saved"
    assert sum(int(unfinished) > 0 for *_, unfinished in loads) > 10, "too few kills hit a save"


def test_an_error_during_a_save_leaves_no_files(tmp_path):
    def broken(folder):
        fill(5)(folder)
        raise ArithmeticError("not finite")

    folder = saved(tmp_path / "run", 5)
    with Store(folder, None) as opened:
        with pytest.raises(ArithmeticError):
            opened.save(10, broken, {})
        assert [path.name for path in folder.iterdir()] == ["5"]
