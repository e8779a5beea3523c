"""Hostile files and names: each gives a one-sentence error, and none of their code runs."""

import datetime
import json
import pickle
import shutil
from pathlib import Path

import pytest

from lolm_plugin import checkpoints
from lolm_plugin.configuration import config_files
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import hidden, hidden_words, parse
from lolm_plugin.tensor_files import load_tensors
from lolm_plugin.tracking.file_observer import FileObserver
from tests.resume.runs import line, models, steps, train


class Attack:
    """An object that creates a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    """Return a file that exists only if hostile code has run."""
    mark = tmp_path / "mark"
    yield mark
    assert not mark.exists(), "code from the file has run"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "run"
    assert train(folder, *line("updet_mappo", "probe", "duel", "t_max=50")) == 0
    return folder


def test_the_attack_itself_works(tmp_path):
    pickle.loads(pickle.dumps(Attack(tmp_path / "seen")))
    assert (tmp_path / "seen").exists()


def test_a_pickle_instead_of_tensors_is_refused(mark, tmp_path):
    path = tmp_path / "critic.safetensors"
    path.write_bytes(pickle.dumps(Attack(mark)))
    with pytest.raises(ConfigError, match=r"critic\.safetensors is damaged"):
        load_tensors(path)


@pytest.mark.parametrize("name", ["actor.safetensors", "critic_optimiser.safetensors", "random.safetensors"])
def test_a_pickle_with_a_valid_manifest_is_refused(saved, mark, tmp_path, capfd, name):
    folder = shutil.copytree(saved, tmp_path / "run")
    checkpoint = models(folder) / str(steps(folder)[-1])
    facts = checkpoints.read_facts(checkpoint)
    (checkpoint / name).write_bytes(pickle.dumps(Attack(mark)))
    (checkpoint / checkpoints.MANIFEST).unlink()
    checkpoints.seal(checkpoint, facts)
    assert train(folder, "--resume", str(models(folder)), "--epymarl=none") == 2
    assert f"{name} is damaged" in capfd.readouterr().err


def test_an_invalid_configuration_in_a_checkpoint_is_refused(saved, tmp_path, capfd):
    folder = shutil.copytree(saved, tmp_path / "run")
    checkpoint = models(folder) / str(steps(folder)[-1])
    facts = checkpoints.read_facts(checkpoint)
    for config, message in (
        ({"name": "mine"}, "has learner=None and mac=None"),
        ({**facts["config"], "name": "../../elsewhere"}, "The checkpoint says name='../../elsewhere'"),
        ({**facts["config"], "epochs": "'; rm"}, "epochs"),
    ):
        (checkpoint / checkpoints.MANIFEST).unlink()
        checkpoints.seal(checkpoint, {**facts, "config": config})
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
    ("address", "shown"),
    [
        ("mongodb://me:s3 cret@h/x", "mongodb://***@h/x"),
        ("mongodb://me:s3%2Fcret%40@h:27017,g/x", "mongodb://***@h:27017,g/x"),
        ("mongodb+srv://s3cret@h", "mongodb+srv://***@h"),
        (
            "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:s3cret&w=1",
            "mongodb://h/?authMechanismProperties=***&w=1",
        ),
        (
            "mongodb://h/x?tlsCertificateKeyFilePassword=s3 cret;tls=true",
            "mongodb://h/x?tlsCertificateKeyFilePassword=***&tls=true",
        ),
        ("mongodb://[::1]:27017/x", "mongodb://[::1]:27017/x"),
    ],
)
def test_an_address_is_shown_without_its_secrets(address, shown):
    parsed = parse(address, "--mongo")
    assert str(parsed) == shown
    assert parsed.text == address
    assert "s3" not in repr(parsed)
    assert hidden_words([f"--mongo={address}", "with", f"mongo={address}"]) == [
        f"--mongo={shown}",
        "with",
        f"mongo={shown}",
    ]
    assert "s3" not in parsed.hide(f"no server at {address}")


def test_a_drivers_error_is_shown_without_secrets():
    address = parse("mongodb://me:s3%2Fcret%40@h/?authMechanismProperties=A:b,TOKEN:s4cret", "--mongo")
    said = address.hide("neither s3/cret@ nor s3%2Fcret%40 nor s4cret is accepted")
    assert said == "neither *** nor *** nor *** is accepted"


@pytest.mark.parametrize(
    "address",
    [
        *("mongodb://me:s3/cret@h/x", "mongodb://me:s3@cret@h/x", "mongodb://me:s3?cret@h", "mongodb://me:s3:cret@h"),
        *("mongodb://me:s3%cret@h", "mongodb://me:pw@h/x?password=s3@cret", "mongodb://h/x?s3cret", "s3cret@h/x"),
        *("mongodb:///s3cret", "mongodb://me:pw@h s3cret/x", "postgres://me:s3cret@h/x"),
    ],
)
def test_an_address_that_cannot_be_parsed_is_refused_without_quoting_it(address, tmp_path, capfd):
    with pytest.raises(ConfigError) as refused:
        parse(address, "mongo")
    assert str(refused.value).startswith("mongo ")
    assert not [part for part in ("s3", "cret") if part in str(refused.value)]
    if "://" in address and not address.startswith("postgres"):
        assert "cret" not in "".join(hidden_words([f"--mongo={address}", address]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mongo=mongodb://me:s3/cret@h/x"],
        ["with", "mongo=mongodb://me:s3@cret@h/x"],
        ["mongo=mongodb://me:s3 cret@h/x"],
        ["with", "mongo", "mongodb://me:s3 cret@h/x"],
        ["with", "mongo={'a': 'mongodb://me:s3 cret@h/x'}"],
        ["--no-such-flag", "with", "mongo=mongodb://me:s3 cret@h/x"],
        ["-m", "mongodb://me:s3 cret@h/x"],
    ],
)
def test_a_refused_command_line_shows_no_secret(arguments, tmp_path, capfd):
    line = ["--config=updet_mappo", "--env-config=probe", "--epymarl=none"]
    assert train(tmp_path / "run", *line, *arguments) == 2
    printed = "".join(capfd.readouterr())
    assert printed.startswith("error: ")
    assert "s3" not in printed


@pytest.mark.parametrize(
    "text",
    [
        "lr: !!python/object/apply:os.system ['touch {mark}']",
        "lr: !!python/object/new:pathlib.Path ['{mark}']",
        "!!python/name:os.system x: 1",
    ],
)
def test_a_yaml_with_python_objects_is_refused(mark, tmp_path, text):
    path = tmp_path / "hostile.yaml"
    path.write_text(text.format(mark=mark))
    with pytest.raises(ConfigError, match="is not valid yaml"):
        config_files.read(path)
    assert train(tmp_path / "run", f"--config={path}", "--env-config=probe", "--epymarl=none") == 2


def test_a_language_model_with_its_own_code_is_refused(mark, tmp_path):
    from lolm_plugin.llm.sources import resolve

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "modeling.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Config: ...\n")
    auto = {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model", "AutoModelForCausalLM": "modeling.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "hostile", "auto_map": auto}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"llm.model=.*cannot be loaded"):
        resolve(str(folder)).load_config()


def test_a_language_model_with_pickled_weights_is_refused(mark, tmp_path):
    from lolm_plugin.llm.sources import resolve

    folder = tmp_path / "model"
    tiny = resolve("tiny-llama")
    tiny.load_config().save_pretrained(folder)
    tiny.load_tokenizer().save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Attack(mark)))
    with pytest.raises(ConfigError, match=r"llm.model=.*cannot be loaded"):
        resolve(str(folder)).load_model(None, None, True, 0)
