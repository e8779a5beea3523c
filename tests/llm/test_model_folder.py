"""Tests that a model folder is refused unless it contains exactly one complete language model."""

import json
import struct

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm import tiny
from lolm_plugin.llm.sources import resolve


@pytest.fixture
def adapter(tmp_path):
    """Return the folder of a random adapter for that model, in PEFT's format."""
    model = resolve("tiny-qwen3").load_model(None, torch.float32, True, 0)
    peft = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    peft.peft_config["default"].base_model_name_or_path = "Qwen/Qwen3-0.6B"
    peft.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def load(model):
    source = resolve(str(model))
    source.load_tokenizer()
    return source.load_model(None, torch.float32, True, 0)


def refused(model, *words):
    """Check that a folder is refused in one line that contains ``words``."""
    with pytest.raises(ConfigError) as error:
        load(model)
    sentence = str(error.value)
    assert len(sentence.splitlines()) == 1
    for word in ("llm.model", *words):
        assert word in sentence, sentence
    return sentence


def edit(folder, file="config.json", **changes):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# Adapters.


def test_full_weights_with_an_adapter_are_refused(folder, adapter):
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / file).rename(folder / file)
    refused(folder, "full weights and an adapter", "adapter_config.json")
    with pytest.raises(ConfigError, match="full weights and an adapter"):
        resolve(str(folder))  # before anything is loaded


def test_full_weights_without_an_adapter_are_loaded(folder):
    expected = load(folder).state_dict()
    assert not any("lora" in name for name in expected)


@pytest.mark.parametrize("with_config", [False, True])
def test_the_error_for_an_adapter_alone_says_what_to_do(folder, adapter, with_config):
    if with_config:
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (folder / file).rename(adapter / file)
    refused(adapter, "is an adapter of 'Qwen/Qwen3-0.6B'", "merge_and_unload", "checkpoint_path")


@pytest.mark.parametrize(
    "text", ["{", "[]", "null", '{"base_model_name_or_path": 7}', '{"base_model_name_or_path": "a\\nb"}']
)
def test_a_damaged_adapter_is_refused_as_an_adapter(adapter, text):
    (adapter / "adapter_config.json").write_text(text)
    refused(adapter, "is an adapter")


# Weights.


def _missing(tensors):
    del tensors["norm.weight"]


def _nan(tensors):
    tensors["layers.1.mlp.up_proj.weight"][3, 4] = torch.nan


def _infinite(tensors):
    tensors["embed_tokens.weight"][7, 0] = -torch.inf


def _bias(tensors):
    tensors["layers.0.self_attn.q_proj.bias"] = torch.ones(64)


def _adapted(tensors):
    tensors["layers.0.self_attn.q_proj.base_layer.weight"] = tensors.pop("layers.0.self_attn.q_proj.weight")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_missing, "lack 1 tensors, the first is norm.weight"),
        (_nan, "NaN or infinite numbers in its weights, first in layers.1.mlp.up_proj.weight"),
        (_infinite, "first in embed_tokens.weight"),
        (_bias, "layers.0.self_attn.q_proj.bias, which its config.json switches off"),
        (_adapted, "lack 1 tensors, the first is layers.0.self_attn.q_proj.weight"),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(folder, change, complaint):
    edit_weights(folder, change)
    refused(folder, complaint)


def test_unused_task_heads_and_layers_are_accepted(folder):
    edit_weights(
        folder, lambda tensors: tensors.update({"lm_head.weight": torch.ones(512, 64), "score.bias": torch.ones(2)})
    )
    load(folder)
    resolve(str(folder)).load_model(1, torch.float32, True, 0)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_weights_are_refused(folder, share):
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(share * len(content))])
    refused(folder, "cannot be loaded")


def test_a_header_longer_than_the_file_is_refused(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    refused(folder, "cannot be loaded")


@pytest.mark.parametrize(
    "index",
    [
        '{"weight_map": {"norm.weight": "../outside.safetensors"}}',
        '{"weight_map": {"norm.weight": "/etc/passwd"}}',
        '{"weight_map": {"norm.weight": "model-00001-of-00002.safetensors"}}',
        '{"weight_map": {"norm.weight": 3}}',
        '{"weight_map": []}',
        "{",
        "[" * 100_000,
    ],
)
def test_a_damaged_index_or_one_of_files_outside_the_folder_is_refused(folder, index):
    save_file(load_file(folder / "model.safetensors"), folder.parent / "outside.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    refused(folder, "model.safetensors.index.json")


# Configuration and tokenizer.


@pytest.mark.parametrize(
    "changes",
    [
        {"pad_token_id": 512},
        {"pad_token_id": "x"},
        {"num_attention_heads": 0},
        {"num_attention_heads": 5},
        {"num_attention_heads": -4},
        {"hidden_size": 65},
        {"hidden_size": "wide"},
        {"hidden_size": None},
        {"vocab_size": 40},
        {"vocab_size": None},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": 2.5},
        {"num_hidden_layers": None},
        {"hidden_act": "nothing"},
        {"rope_parameters": {"rope_type": "nothing"}},
        {"layer_types": ["full_attention"]},
    ],
    ids=str,
)
def test_a_damaged_configuration_is_refused(folder, changes):
    edit(folder, **changes)
    refused(folder)


def test_special_ids_beyond_the_vocabulary_are_accepted(folder):
    """They are used only to generate text; prompts do not contain them."""
    edit(folder, bos_token_id=100_000, eos_token_id=[100_001])
    load(folder)


def test_a_tokenizer_of_another_model_is_refused(folder):
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens([f"further token {number}" for number in range(600 - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    refused(folder, "ids up to 599", "ids up to 511", "tokenizer is another model's")


def test_a_damaged_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    refused(folder, "cannot be loaded")


def test_a_hub_model_with_an_adapter_is_refused(folder, adapter, fake_hub):
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / file).rename(folder / file)
    with fake_hub("owner/model", folder), pytest.raises(ConfigError, match="full weights and an adapter"):
        resolve("owner/model").load_model(None, torch.float32, True, 0)
