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


# Where a model is looked for.


def test_resolve_loads_nothing_heavy():
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
def test_what_can_be_no_model_is_refused_with_the_names_that_are(model):
    with pytest.raises(ConfigError, match="smollm2-135m"):
        resolve(model)


@pytest.mark.parametrize("reachable", [True, False])
def test_a_hub_id_that_cannot_be_had_names_three_ways_and_prints_nothing(folder, fake_hub, reachable, capfd):
    with fake_hub("owner/other", folder) if reachable else nullcontext(), pytest.raises(ConfigError) as error:
        resolve("owner/model").load_tokenizer()
    assert str(error.value).startswith("llm.model=owner/model cannot be had (asking the hub failed")
    for way in ("Hugging Face cache", "folder with config.json", "smollm2-135m"):
        assert way in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")


def test_a_hub_id_is_downloaded_once_and_only_what_is_needed(folder, fake_hub, caplog):
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    for other in ("pytorch_model.bin", "consolidated.safetensors"):
        (folder / other).write_text("not wanted")
    expected = load_file(folder / "model.safetensors")["layers.0.mlp.up_proj.weight"]
    with fake_hub("owner/model", folder) as asked:
        # What another program left in the cache may be a part of the model.
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


# What is in it.


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


def test_a_truncated_model_computes_what_the_first_layers_compute(folder):
    whole, part = load(folder), load(folder, num_layers=1)
    ids = torch.tensor([[5, 6, 7, 8]])
    assert part.config.num_hidden_layers == len(part.config.layer_types) == 1
    first = whole(input_ids=ids, output_hidden_states=True).hidden_states[1]
    assert torch.allclose(part(input_ids=ids).last_hidden_state, whole.norm(first), atol=1e-6)


@pytest.mark.parametrize("layers", [0, 3, -1])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(ConfigError, match=rf"llm\.num_layers={layers} .* 2 layers"):
        load("tiny-gemma3", num_layers=layers)


@pytest.mark.parametrize("model", ["tiny-llama", "folder"])
def test_random_weights_come_from_the_seed_alone(model, folder):
    model = folder if model == "folder" else model
    drawn = [load(model, pretrained=False, seed=seed).layers[0].mlp.up_proj.weight for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    pretrained = [load(model, seed=seed).layers[0].mlp.up_proj.weight for seed in (1, 2)]
    assert torch.equal(*pretrained)
    assert not torch.equal(drawn[0], pretrained[0])


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("model", ["tiny-llama", "folder"])
def test_loading_leaves_global_random_states_alone(model, folder, pretrained):
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = torch.rand(3), np.random.rand(3), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    load(folder if model == "folder" else model, pretrained=pretrained)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])
    assert random.random() == expected[2]


def test_loading_prints_nothing_and_leaves_the_volume_as_it_was(folder, capfd, caplog):
    chatter = transformers.utils.logging
    chatter.set_verbosity_info()
    chatter.enable_progress_bar()  # a test before may have run a benchmark, which switches it off
    chatter.add_handler(caplog.handler)
    try:
        load(folder, num_layers=1)
        resolve(str(folder)).load_tokenizer()
        assert chatter.get_verbosity() == transformers.logging.INFO
    finally:
        chatter.remove_handler(caplog.handler)
        chatter.set_verbosity_warning()
    assert chatter.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


# What is wrong with it.


def test_a_checkpoint_that_lacks_tensors_is_refused(folder):
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
def test_files_that_cannot_be_used_end_in_one_sentence(folder, spoil):
    spoil(folder)
    with pytest.raises(ConfigError, match="cannot be had"):
        load(folder)


def test_a_folder_without_tokenizer_is_refused(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"holds none of tokenizer\.json"):
        resolve(str(folder)).load_tokenizer()


@pytest.mark.parametrize("kind", ["T5Config", "Gemma3Config", "ViTConfig"])
def test_what_is_no_causal_model_of_text_alone_is_refused(tmp_path, kind):
    getattr(transformers, kind)().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="not a causal language model of text alone"):
        load(tmp_path)


def test_every_tiny_name_has_an_architecture():
    assert tuple(tiny.ARCHITECTURES) == TINY
