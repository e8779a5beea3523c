"""Hostile files and names, tried: each ends in a sentence, and nothing in them is run."""

import datetime
import json
import pickle
import shutil
from pathlib import Path

import pytest

from lolm_plugin import config_files
from lolm_plugin.checkpoints import manifest
from lolm_plugin.checkpoints.files import load_tensors
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import hidden
from lolm_plugin.tracking.file_observer import FileObserver
from tests.resume.runs import line, models, steps, train


class Attack:
    """Unpickled, it leaves a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    """A file that is there once something hostile has run."""
    mark = tmp_path / "mark"
    yield mark
    assert not mark.exists(), "what was in the file has run"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "run"
    assert train(folder, *line("updet_mappo", "probe", "duel", "t_max=50")) == 0
    return folder


def test_an_attack_would_be_seen(tmp_path):
    pickle.loads(pickle.dumps(Attack(tmp_path / "seen")))
    assert (tmp_path / "seen").exists()


def test_a_pickle_in_the_place_of_tensors(mark, tmp_path):
    path = tmp_path / "critic.safetensors"
    path.write_bytes(pickle.dumps(Attack(mark)))
    with pytest.raises(ConfigError, match=r"critic\.safetensors is damaged"):
        load_tensors(path)


@pytest.mark.parametrize("name", ["actor.safetensors", "critic_optimiser.safetensors", "random.safetensors"])
def test_a_pickle_with_a_manifest_that_vouches_for_it(saved, mark, tmp_path, capfd, name):
    folder = shutil.copytree(saved, tmp_path / "run")
    checkpoint = models(folder) / str(steps(folder)[-1])
    facts = manifest.read(checkpoint)
    (checkpoint / name).write_bytes(pickle.dumps(Attack(mark)))
    (checkpoint / manifest.NAME).unlink()
    manifest.write(checkpoint, facts)
    assert train(folder, "--resume", str(models(folder)), "--epymarl=none") == 2
    assert f"{name} is damaged" in capfd.readouterr().err


def test_a_configuration_in_a_checkpoint_that_is_none(saved, tmp_path, capfd):
    folder = shutil.copytree(saved, tmp_path / "run")
    checkpoint = models(folder) / str(steps(folder)[-1])
    facts = manifest.read(checkpoint)
    for config, message in (
        ({"name": "mine"}, "says learner=None and mac=None"),
        ({**facts["config"], "name": "../../elsewhere"}, "The checkpoint says name='../../elsewhere'"),
        ({**facts["config"], "epochs": "'; rm"}, "epochs"),
    ):
        (checkpoint / manifest.NAME).unlink()
        manifest.write(checkpoint, {**facts, "config": config})
        assert train(folder, "--resume", str(models(folder)), "--epymarl=none") == 2
        assert message in capfd.readouterr().err
    assert not (tmp_path / "elsewhere").exists()


def test_a_password_in_an_address_is_in_no_record_and_no_output(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    observer = FileObserver(folder, copy_sources=False)
    address = "mongodb://reader:s3cret@localhost:1/db"
    observer.started_event(
        ex_info={"sources": [], "base_dir": "."},
        command="run",
        host_info={},
        start_time=datetime.datetime(2026, 1, 1),
        config={},
        meta_info={"command": "run", "options": {"--mongo_db": address, "UPDATE": [address]}},
        _id=None,
    )
    written = "".join(file.read_text() for file in folder.rglob("*") if file.is_file())
    assert "mongodb://***@localhost:1/db" in written
    assert "s3cret" not in written
    assert hidden(f"main.py -m {address} with x=1") == "main.py -m mongodb://***@localhost:1/db with x=1"


@pytest.mark.parametrize(
    "text",
    [
        "lr: !!python/object/apply:os.system ['touch {mark}']",
        "lr: !!python/object/new:pathlib.Path ['{mark}']",
        "!!python/name:os.system x: 1",
    ],
)
def test_a_yaml_with_objects(mark, tmp_path, text):
    path = tmp_path / "hostile.yaml"
    path.write_text(text.format(mark=mark))
    with pytest.raises(ConfigError, match="is not valid yaml"):
        config_files.read(path)
    assert train(tmp_path / "run", f"--config={path}", "--env-config=probe", "--epymarl=none") == 2


def test_a_language_model_with_code_of_its_own(mark, tmp_path):
    from lolm_plugin.llm.sources import resolve

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "modeling.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Config: ...\n")
    auto = {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model", "AutoModelForCausalLM": "modeling.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "hostile", "auto_map": auto}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"llm.model=.*cannot be had"):
        resolve(str(folder)).load_config()


def test_a_language_model_of_pickles(mark, tmp_path):
    from lolm_plugin.llm.sources import resolve

    folder = tmp_path / "model"
    tiny = resolve("tiny-llama")
    tiny.load_config().save_pretrained(folder)
    tiny.load_tokenizer().save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Attack(mark)))
    with pytest.raises(ConfigError, match=r"llm.model=.*cannot be had"):
        resolve(str(folder)).load_model(None, None, True, 0)
