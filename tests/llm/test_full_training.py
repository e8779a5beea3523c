"""Tests of ``llm.train=full``: every weight is trained, saved and loaded; no weight is frozen."""

import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm.model import Backbone, _dtypes
from lolm_plugin.llm.sources import TINY, resolve
from lolm_plugin.tensor_files import load_tensors, save_tensors
from tests.llm import settings
from tests.llm.settings import encode

LLM = {**settings.LLM, "train": "full"}
PREFIX, SEQUENCES = [3, 9, 27, 81], [[5, 6, 7], [8], [9, 10, 11, 12, 13]]


def make(model="tiny-llama", seed=0, **llm):
    return Backbone({**LLM, "model": model, **llm}, settings.LORA, seed)


def step(backbone):
    optimiser = torch.optim.Adam(backbone.trainable(), lr=1e-2)
    encode(backbone, PREFIX, SEQUENCES).square().sum().backward()
    optimiser.step()


@pytest.mark.parametrize("model", TINY)
def test_full_training_starts_from_the_same_model_as_an_adapter(model):
    full, adapter = make(model), make(model, train="lora")
    states = encode(full, PREFIX, SEQUENCES)
    torch.testing.assert_close(states, encode(adapter, PREFIX, SEQUENCES, reference=True), atol=1e-5, rtol=0)
    assert states.requires_grad


def test_random_weights_depend_on_the_seed_but_not_on_an_adapter():
    full, adapter = make(pretrained=False, seed=1), make(pretrained=False, seed=1, train="lora")
    torch.testing.assert_close(encode(full, [], SEQUENCES), encode(adapter, [], SEQUENCES, reference=True))
    assert not torch.equal(encode(full, [], SEQUENCES), encode(make(pretrained=False, seed=2), [], SEQUENCES))


@pytest.mark.parametrize("model", TINY)
def test_a_step_changes_every_weight_of_the_model(model):
    backbone = make(model)
    plain = resolve(model).load_model(None, torch.float32, True, 0)
    assert sum(p.numel() for p in backbone.trainable()) == sum(p.numel() for p in plain.parameters())
    before = {name: weight.detach().clone() for name, weight in backbone.lm.named_parameters()}
    step(backbone)
    assert all(not torch.equal(weight, before[name]) for name, weight in backbone.lm.named_parameters())


def test_with_an_adapter_only_the_adapter_is_trained():
    backbone = make(train="lora")
    assert [id(p) for p in backbone.trainable()] == [id(p) for p in backbone.lora_parameters()]
    assert backbone.has_reference


@pytest.mark.parametrize("share", [True, False])
def test_gradients_through_a_shared_prefix_are_those_of_whole_prompts(share):
    backbone, single = make(share_prefix=share), make(share_prefix=False)
    weights = torch.randn(len(SEQUENCES), 64, generator=torch.Generator().manual_seed(1))
    (encode(backbone, PREFIX, SEQUENCES) * weights).sum().backward()
    for row, sequence in enumerate(SEQUENCES):
        (encode(single, [], [[*PREFIX, *sequence]]) * weights[row]).sum().backward()
    for got, want in zip(backbone.trainable(), single.trainable(), strict=True):
        assert (got.grad - want.grad).norm() <= 1e-4 * want.grad.norm()


def test_there_is_no_adapter_and_no_reference():
    backbone = make()
    assert not backbone.has_reference
    assert backbone.lora_parameters() == []
    with pytest.raises(AssertionError, match="neither an adapter nor a reference"):
        encode(backbone, PREFIX, SEQUENCES, reference=True)


def test_saved_weights_load_into_a_model_with_another_seed(tmp_path):
    source, target = make(pretrained=False, seed=1), make(pretrained=False, seed=2)
    step(source)
    source.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    target.load(tmp_path)
    assert torch.equal(encode(source, PREFIX, SEQUENCES), encode(target, PREFIX, SEQUENCES))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tensors: tensors.pop("norm.weight"), "missing norm.weight"),
        (lambda tensors: tensors.update(more=torch.zeros(1)), "unexpected more"),
        (lambda tensors: tensors.update({"norm.weight": torch.zeros(3)}), "norm.weight has shape"),
    ],
)
def test_missing_unexpected_or_reshaped_tensors_are_refused(tmp_path, change, complaint):
    make().save(tmp_path)
    tensors = load_tensors(tmp_path / "model.safetensors")
    change(tensors)
    save_tensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ConfigError, match=complaint):
        make().load(tmp_path)


def test_a_checkpoint_of_an_adapter_is_not_a_full_model(tmp_path):
    make(train="lora").save(tmp_path)
    with pytest.raises(ConfigError, match=r"has no file .*model\.safetensors"):
        make().load(tmp_path)


def test_trained_weights_are_float32_by_default():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert _dtypes("auto", cpu, frozen=False) == (torch.float32, False)
    assert _dtypes("auto", cuda, frozen=False) == (torch.float32, True)
    assert _dtypes("auto", cuda, frozen=True) == (torch.bfloat16, False)
    assert _dtypes("bfloat16", cuda, frozen=False) == (torch.bfloat16, False)
    assert {weight.dtype for weight in make(dtype="bfloat16").trainable()} == {torch.bfloat16}


def test_bfloat16_products_are_close_and_weights_and_gradients_stay_float32():
    exact, mixed = make(), make()
    mixed._autocast = True  # as on CUDA
    expected, states = encode(exact, PREFIX, SEQUENCES), encode(mixed, PREFIX, SEQUENCES)
    assert states.dtype == torch.float32
    assert 0 < (states - expected).norm() < 0.05 * expected.norm()
    states.square().sum().backward()
    assert {weight.grad.dtype for weight in mixed.trainable()} == {torch.float32}


# With the controller and the learner.


@pytest.fixture
def learner(new_learner, tiny_args):
    """Build learners of a random model that is trained in full."""

    def make(**changes):
        settings = {"llm.pretrained": False, "llm.train": "full", "kl.enabled": False}
        return new_learner(tiny_args({**settings, **changes}))

    return make


def test_an_update_trains_the_model_and_starts_from_the_behaviour_policy(learner, play):
    trained = learner()
    before = [weight.detach().clone() for weight in trained.mac.agent.backbone.trainable()]
    assert [group["name"] for group in trained.mac.parameter_groups()] == ["backbone", "head"]
    trained.train(play(trained.mac), 0, 0)
    after = trained.mac.agent.backbone.trainable()
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert trained.logger.logged["ratio_epoch0"] == pytest.approx([1.0], abs=1e-5)


def test_a_checkpoint_holds_the_whole_model_and_loads_with_another_seed(learner, play, tmp_path):
    trained, other = learner(), learner(seed=5)
    trained.train(play(trained.mac), 0, 0)
    trained.save_models(str(tmp_path))
    assert not (tmp_path / "adapter").exists()
    other.load_models(str(tmp_path))
    theirs, ours = other.mac.agent.state_dict(), trained.mac.agent.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_the_error_for_a_checkpoint_of_an_adapter_names_the_key(learner, tmp_path):
    learner(**{"llm.train": "lora"}).save_models(str(tmp_path))
    with pytest.raises(ConfigError, match=r"llm\.train"):
        learner().load_models(str(tmp_path))
