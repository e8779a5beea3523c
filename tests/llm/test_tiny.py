"""Tests of the tiny models' tokenizer and configurations."""

import hashlib
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel

from lolm_plugin.llm import tiny

TEXTS = [
    "You are a marine at (0.12, -0.34) with health 0.75.",
    "Available actions: stop, move north, attack enemy 10.",
    "  doubled  spaces\n\tand a tab, ends with a space ",
    "naïve ☃ 漢字 🙂 \x00 <pad>less",
    "0123456789 1e-3 -0.5",
    "",
]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_every_digit_is_one_token(tokenizer):
    tokens = tokenizer.tokenize("health 0.75 of 103, ally 12")
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("07510312")


def test_words_of_the_corpus_are_one_token(tokenizer):
    assert tokenizer.tokenize(" enemy north available") == ["Ġenemy", "Ġnorth", "Ġavailable"]


def test_ids_fit_the_models_vocabulary(tokenizer):
    assert len(tokenizer) <= tiny.VOCABULARY
    assert [tokenizer.convert_tokens_to_ids(token) for token in tiny.SPECIALS] == [0, 1, 2]


def _digest() -> str:
    ids = [tiny.tokenizer()(text).input_ids for text in [*TEXTS, *tiny.CORPUS]]
    return hashlib.sha256(repr(ids).encode()).hexdigest()


def test_other_processes_make_the_same_tokenizer():
    code = (
        "import hashlib; from lolm_plugin.llm import tiny\n"
        f"ids = [tiny.tokenizer()(text).input_ids for text in [*{TEXTS!r}, *tiny.CORPUS]]\n"
        "print(hashlib.sha256(repr(ids).encode()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == _digest()


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_sizes_replace_the_defaults(name):
    config = tiny.config(name, num_hidden_layers=3, hidden_size=32)
    model = AutoModel.from_config(config)
    assert len(model.layers) == 3
    assert model(input_ids=torch.tensor([[3, 4]])).last_hidden_state.shape == (1, 2, 32)
