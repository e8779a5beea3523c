"""Tests of the checks and loader arguments of quantization."""

import importlib.machinery
import importlib.util

import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm import quantization, sources


def test_without_quantization_nothing_is_required():
    quantization.check("none", "full", use_cuda=False)
    assert quantization.loading("none", torch.float32, "cpu") == {}


@pytest.mark.parametrize(
    ("train", "use_cuda", "complaint"),
    [
        ("lora", False, "8bit needs a CUDA GPU.*llm.quantization=none"),
        ("full", True, "freezes the weights that llm.train=full trains"),
        ("lora", True, r"needs bitsandbytes; pip install 'lolm_plugin\[quantization\]'"),
    ],
)
def test_quantization_that_cannot_be_used_is_refused(train, use_cuda, complaint, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=complaint):
        quantization.check("8bit", train, use_cuda)


def test_quantization_is_allowed_with_the_package_and_a_gpu(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    quantization.check("4bit", "lora", use_cuda=True)


@pytest.mark.parametrize(("bits", "four"), [("8bit", False), ("4bit", True)])
def test_arguments_of_the_loader(bits, four):
    arguments = quantization.loading(bits, torch.bfloat16, "cuda")
    config = arguments["quantization_config"]
    assert arguments["device_map"] == {"": "cuda"}
    assert (config.load_in_4bit, config.load_in_8bit) == (four, not four)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


@pytest.mark.parametrize(("model", "pretrained"), [("tiny-llama", True), ("tiny-llama", False)])
def test_drawn_weights_are_quantised_like_loaded_ones(model, pretrained, monkeypatch):
    """transformers gets the arguments together with the drawn weights, which it reads from files."""
    from transformers import AutoModel

    source, read = sources.resolve(model), AutoModel.from_pretrained
    drawn = source.load_model(None, torch.float32, pretrained, seed=3)
    asked = {}

    def from_pretrained(folder, quantization_config, **others):
        asked.update(others, quantization_config=quantization_config)
        return read(folder, **others)

    monkeypatch.setattr(AutoModel, "from_pretrained", from_pretrained)
    loaded = source.load_model(None, torch.float32, pretrained, seed=3, quantization_config="8 bits")
    assert asked["quantization_config"] == "8 bits"
    assert all(map(torch.equal, drawn.state_dict().values(), loaded.state_dict().values()))
