"""Tests of where models are looked for, what is loaded, and which models are refused."""

import json
import random
import subprocess
import sys
from contextlib import nullcontext

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm import tiny
from lolm_plugin.llm.sources import TINY, resolve


def load(model, num_layers=None, pretrained=True, seed=0):
    return resolve(str(model)).load_model(num_layers, torch.float32, pretrained, seed)


# Resolving a name.


def test_resolve_imports_no_slow_libraries():
    code = (
        "import sys; from lolm_plugin.llm.sources import resolve; resolve('tiny-llama'); resolve('a/b')\n"
        "print([name for name in ('torch', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"folder without config\.json"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("model", ["smollm2", "./nowhere", "/nowhere/model", "a/b/c", "~/nowhere", ""])
def test_a_name_that_is_not_a_model_is_refused_with_the_known_names(model):
    with pytest.raises(ConfigError, match="smollm2-135m"):
        resolve(model)


@pytest.mark.parametrize("reachable", [True, False])
def test_the_error_for_an_unavailable_hub_id_names_three_alternatives(folder, fake_hub, reachable, capfd):
    with fake_hub("owner/other", folder) if reachable else nullcontext(), pytest.raises(ConfigError) as error:
        resolve("owner/model").load_tokenizer()
    assert str(error.value).startswith("llm.model=owner/model cannot be loaded (asking the hub failed")
    for way in ("Hugging Face cache", "folder with config.json", "smollm2-135m"):
        assert way in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")


def test_a_hub_model_is_downloaded_once_and_only_the_needed_files(folder, fake_hub, caplog):
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    for other in ("pytorch_model.bin", "consolidated.safetensors"):
        (folder / other).write_text("not wanted")
    expected = load_file(folder / "model.safetensors")["layers.0.mlp.up_proj.weight"]
    with fake_hub("owner/model", folder) as asked:
        # Another program may have left an incomplete model in the cache.
        huggingface_hub.hf_hub_download("owner/model", "config.json")
        caplog.clear()
        assert resolve("owner/model").load_tokenizer()("a").input_ids
        assert not any(path.endswith("safetensors") for path in asked)
        assert torch.equal(load("owner/model", num_layers=1).layers[0].mlp.up_proj.weight, expected)
        wanted = {path.rsplit("/", 1)[1] for path in asked if "/resolve/" in path}
        assert wanted == {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
        asked.clear()
        assert torch.equal(load("owner/model", num_layers=1).layers[0].mlp.up_proj.weight, expected)
        assert asked == []
    assert torch.equal(load("owner/model").layers[0].mlp.up_proj.weight, expected)
    assert caplog.records == []


def test_a_repository_without_safetensors_is_refused(folder, fake_hub):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with fake_hub("owner/model", folder), pytest.raises(ConfigError, match=r"lacks config\.json, a tokenizer or saf"):
        load("owner/model")


# Loading.


@pytest.mark.parametrize("name", TINY)
def test_a_loaded_model_is_frozen_headless_and_in_evaluation_mode(name):
    model = load(name)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    assert not hasattr(model, "lm_head")


def test_truncation_keeps_the_first_layers_and_the_final_norm(folder):
    whole, part = load(folder).state_dict(), load(folder, num_layers=1).state_dict()
    assert part.keys() == {name for name in whole if "layers.1." not in name}
    assert all(torch.equal(part[name], whole[name]) for name in part)


def test_a_truncated_model_computes_the_states_of_the_first_layers(folder):
    whole, part = load(folder), load(folder, num_layers=1)
    ids = torch.tensor([[5, 6, 7, 8]])
    assert part.config.num_hidden_layers == len(part.config.layer_types) == 1
    first = whole(input_ids=ids, output_hidden_states=True).hidden_states[1]
    assert torch.allclose(part(input_ids=ids).last_hidden_state, whole.norm(first), atol=1e-6)


@pytest.mark.parametrize("layers", [0, 3, -1])
def test_an_invalid_number_of_layers_is_refused(layers):
    with pytest.raises(ConfigError, match=rf"llm\.num_layers={layers} .* 2 layers"):
        load("tiny-gemma3", num_layers=layers)


@pytest.mark.parametrize("model", ["tiny-llama", "folder"])
def test_random_weights_depend_only_on_the_seed(model, folder):
    model = folder if model == "folder" else model
    drawn = [load(model, pretrained=False, seed=seed).layers[0].mlp.up_proj.weight for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    pretrained = [load(model, seed=seed).layers[0].mlp.up_proj.weight for seed in (1, 2)]
    assert torch.equal(*pretrained)
    assert not torch.equal(drawn[0], pretrained[0])


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("model", ["tiny-llama", "folder"])
def test_loading_does_not_change_global_random_states(model, folder, pretrained):
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = torch.rand(3), np.random.rand(3), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    load(folder if model == "folder" else model, pretrained=pretrained)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])
    assert random.random() == expected[2]


def test_loading_prints_nothing_and_restores_the_verbosity(folder, capfd, caplog):
    transformers_logging = transformers.utils.logging
    transformers_logging.set_verbosity_info()
    transformers_logging.enable_progress_bar()  # an earlier test may have run a benchmark, which switches it off
    transformers_logging.add_handler(caplog.handler)
    try:
        load(folder, num_layers=1)
        resolve(str(folder)).load_tokenizer()
        assert transformers_logging.get_verbosity() == transformers.logging.INFO
    finally:
        transformers_logging.remove_handler(caplog.handler)
        transformers_logging.set_verbosity_warning()
    assert transformers_logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


# Damaged or unsuitable models.


def test_a_checkpoint_with_missing_tensors_is_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack 1 tensors, the first is layers\.1\.mlp\.up_proj\.weight"):
        load(folder)


def _cut_short(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def _pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _other_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))


def _no_json(folder):
    (folder / "config.json").write_text("{")


def _remote_code(folder):
    code = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": code}))
    (folder / "own.py").write_text("raise SystemExit('this ran')")


@pytest.mark.parametrize("spoil", [_cut_short, _pickled, _other_shape, _no_json, _remote_code])
def test_files_that_cannot_be_used_are_refused(folder, spoil):
    spoil(folder)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"contains none of tokenizer\.json"):
        resolve(str(folder)).load_tokenizer()


@pytest.mark.parametrize("kind", ["T5Config", "Gemma3Config", "ViTConfig"])
def test_a_model_that_is_not_causal_or_not_text_only_is_refused(tmp_path, kind):
    getattr(transformers, kind)().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="not a text-only causal language model"):
        load(tmp_path)


def test_every_tiny_name_has_an_architecture():
    assert tuple(tiny.ARCHITECTURES) == TINY
