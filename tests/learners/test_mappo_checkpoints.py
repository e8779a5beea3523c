"""Checkpoints of a learner: all trained state is restored, on any map; what does not fit is refused with a reason."""

from pathlib import Path

import pytest
import torch

from lolm_plugin.checkpoints import MANIFEST, read_facts_unchecked, seal
from lolm_plugin.errors import ConfigError
from lolm_plugin.tensor_files import load_tensors, optimiser_tensors, save_tensors

TENSOR_FILES = (
    "adapter/adapter_model.safetensors",
    "head.safetensors",
    "critic.safetensors",
    "value_normaliser.safetensors",
    "actor_optimiser.safetensors",
    "critic_optimiser.safetensors",
)


def everything(learner):
    """Return copies of all tensors that a checkpoint restores, by name."""
    parts = {
        "agent": learner.mac.agent.state_dict(),
        "critic": learner.critic.state_dict(),
        "normaliser": learner.value_normaliser.state_dict(),
        "actor": optimiser_tensors(learner.actor_optimiser),
        "critic_optimiser": optimiser_tensors(learner.critic_optimiser),
    }
    return {f"{part}.{name}": tensor.clone() for part, named in parts.items() for name, tensor in named.items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, made_up):
    """Return (folder, learner): a checkpoint after one update, and the learner that wrote it."""
    learner = made_up.new_learner(made_up.tiny_args())
    learner.train(made_up.play(learner.mac), 0, 0)
    folder = tmp_path_factory.mktemp("checkpoint")
    learner.save_models(str(folder))
    return folder, learner


@pytest.fixture
def copied(saved, tmp_path):
    """Return a copy of the checkpoint, to damage."""
    for source in filter(Path.is_file, saved[0].rglob("*")):
        target = tmp_path / source.relative_to(saved[0])
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
    return tmp_path


def refused(learner, folder, name):
    """Return the error message of loading, which must name the file."""
    with pytest.raises(ConfigError) as error:
        learner.load_models(str(folder))
    assert Path(name).name in str(error.value)
    return str(error.value)


def test_a_checkpoint_is_restored_bitwise(saved, new_learner, tiny_args):
    folder, learner = saved
    fresh = new_learner(tiny_args({"seed": 1}))
    assert not equal(everything(learner), everything(fresh))
    fresh.load_models(str(folder))
    assert equal(everything(learner), everything(fresh))
    assert fresh.kl.initial == learner.kl.initial > 0


def test_a_resumed_learner_equals_the_uninterrupted_one(new_learner, tiny_args, play, tmp_path):
    whole, resumed = (new_learner(tiny_args({"minibatches": 2})) for _ in range(2))
    whole.train(play(whole.mac, t_env=0, seed=0), 0, 0)
    whole.save_models(str(tmp_path))
    resumed.load_models(str(tmp_path))
    for learner in (whole, resumed):
        learner.train(play(learner.mac, t_env=9, seed=1), 9, 1)
    assert equal(everything(whole), everything(resumed))


def test_a_checkpoint_of_one_map_size_plays_and_trains_on_another(saved, new_learner, tiny_args, play):
    folder, learner = saved
    other = new_learner(tiny_args(n_agents=4, n_enemies=5))
    other.load_models(str(folder))
    assert equal(everything(learner), everything(other))
    other.train(play(other.mac), 0, 0)
    assert not equal(everything(learner), everything(other))


def test_a_checkpoint_from_before_the_first_update_loads(new_learner, tiny_args, tmp_path):
    first, second = new_learner(tiny_args()), new_learner(tiny_args({"seed": 2}))
    first.save_models(str(tmp_path))
    second.load_models(str(tmp_path))
    assert second.kl.initial is None
    assert torch.equal(second.mac.agent.head.base, first.mac.agent.head.base)


def test_the_learning_rate_comes_from_the_new_run(saved, new_learner, tiny_args):
    fresh = new_learner(tiny_args({"lr": 0.5}))
    fresh.load_models(str(saved[0]))
    assert fresh.actor_optimiser.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("name", [*TENSOR_FILES, MANIFEST])
def test_a_missing_file_is_refused_by_name(copied, new_learner, tiny_args, name):
    (copied / name).unlink()
    refused(new_learner(tiny_args()), copied, name)


@pytest.mark.parametrize("name", [*TENSOR_FILES, MANIFEST])
def test_a_damaged_file_is_refused_by_name(copied, new_learner, tiny_args, name):
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: len(content) // 2])
    assert "damaged" in refused(new_learner(tiny_args()), copied, name)


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_a_tensor_of_another_shape_is_refused_by_name(copied, new_learner, tiny_args, name):
    tensors = load_tensors(copied / name)
    widest = max(tensors, key=lambda key: tensors[key].dim())
    tensors[widest] = torch.zeros(3, 1, 4)
    save_tensors(copied / name, tensors)
    refused(new_learner(tiny_args()), copied, name if "adapter" not in name else "adapter")


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_a_missing_tensor_is_refused_by_name(copied, new_learner, tiny_args, name):
    tensors = load_tensors(copied / name)
    tensors.pop(sorted(tensors)[0])
    save_tensors(copied / name, tensors)
    refused(new_learner(tiny_args()), copied, name if "adapter" not in name else "adapter")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llm.model": "tiny-qwen3"}, r"trained with llm.model=tiny-llama but this run has llm.model=tiny-qwen3"),
        ({"llm.num_layers": 1}, r"trained with llm.num_layers=None but this run has llm.num_layers=1"),
        ({"lora.rank": 4}, r"trained with lora.rank=16 but this run has lora.rank=4"),
        ({"lora.alpha": 1}, r"trained with lora.alpha=32 but this run has lora.alpha=1"),
        ({"llm.pretrained": False}, r"trained with llm.pretrained=True but"),
        ({"critic.width": 16}, r"critic.safetensors does not fit this model"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_and_the_key_named(saved, new_learner, tiny_args, changes, message):
    with pytest.raises(ConfigError, match=message):
        new_learner(tiny_args(changes)).load_models(str(saved[0]))


def test_a_policy_from_before_the_place_to_read_was_a_setting_reads_the_last_token(saved, new_learner, tiny_args):
    folder, _ = saved
    learner = read_facts_unchecked(folder)["learner"]
    del learner["shape"]["head.read"]
    seal(folder, {"learner": learner})
    new_learner(tiny_args()).load_models(str(folder))
    with pytest.raises(ConfigError, match=r"trained with head\.read=last but this run has head\.read=mean"):
        new_learner(tiny_args({"head.read": "mean"})).load_models(str(folder))


def test_a_checkpoint_has_only_metadata_and_safetensors(saved):
    files = {str(path.relative_to(saved[0])) for path in saved[0].rglob("*") if path.is_file()}
    assert {*TENSOR_FILES, MANIFEST, "adapter/adapter_config.json"} <= files
    assert {Path(name).suffix for name in files} <= {".safetensors", ".json", ".md"}
    facts = read_facts_unchecked(saved[0])["learner"]
    assert facts["shape"]["llm.model"] == "tiny-llama"


def test_a_checkpoint_excludes_the_frozen_language_model(saved):
    folder, learner = saved
    frozen = sum(
        tensor.numel() for name, tensor in learner.mac.agent.backbone.state_dict().items() if "lora_" not in name
    )
    adapter = load_tensors(folder / "adapter/adapter_model.safetensors")
    assert all("lora_" in name for name in adapter)
    assert sum(tensor.numel() for tensor in adapter.values()) < frozen
