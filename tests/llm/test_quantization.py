"""Tests of the checks and loader arguments of quantization."""

import importlib.machinery
import importlib.util

import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm import quantization


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
