"""Tensors and optimiser states are written and read back; any other file is refused with one sentence."""

import re

import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.tensor_files import (
    check_tensors,
    load_optimiser_tensors,
    load_tensors,
    optimiser_tensors,
    save_tensors,
)

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3.5, dtype=torch.float64)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.safetensors"
    save_tensors(path, TENSORS)
    return path


def refused(path, expected=None):
    with pytest.raises(ConfigError) as error:
        load_tensors(path, expected)
    assert str(path) in str(error.value)
    return str(error.value)


def test_tensors_come_back_bitwise_with_their_dtypes(file):
    loaded = load_tensors(file, expected=TENSORS)
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(loaded[name], tensor)
        assert loaded[name].dtype == tensor.dtype


def test_views_and_parameters_can_be_saved(tmp_path):
    views = {"transposed": TENSORS["a"].T, "parameter": torch.nn.Parameter(torch.ones(2))}
    save_tensors(tmp_path / "views.safetensors", views)
    assert torch.equal(load_tensors(tmp_path / "views.safetensors")["transposed"], TENSORS["a"].T)


def test_a_missing_file_is_refused(tmp_path):
    assert "has no file" in refused(tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_a_cut_file_is_refused_as_damaged(file, keep):
    file.write_bytes(file.read_bytes()[:keep])
    assert "damaged" in refused(file)


def test_a_pickle_is_refused_as_damaged(file):
    torch.save(TENSORS, file)
    assert "damaged" in refused(file)


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        ({**TENSORS, "c": torch.ones(1)}, "missing c"),
        ({"a": TENSORS["a"]}, "unexpected b"),
        ({**TENSORS, "a": torch.ones(2, 4)}, "a has shape (2, 3) instead of (2, 4)"),
    ],
)
def test_an_error_names_missing_unexpected_and_misshaped_tensors(file, expected, problem):
    assert problem in refused(file, expected)


def test_many_differences_are_counted_and_three_shown():
    with pytest.raises(ConfigError, match=re.escape("(missing a; missing b; missing c and 2 more)")):
        check_tensors({}, dict.fromkeys("abcde", torch.ones(1)), "here")


def stepped(steps=3, width=2):
    """Return a parameter and its Adam optimiser after some steps."""
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(width))
    optimiser = torch.optim.Adam([parameter], lr=0.1)
    for _ in range(steps):
        step(parameter, optimiser)
    return parameter, optimiser


def step(parameter, optimiser):
    optimiser.zero_grad()
    (parameter**2).sum().backward()
    optimiser.step()


def test_a_restored_optimiser_steps_as_the_original_would(tmp_path):
    parameter, optimiser = stepped()
    save_tensors(tmp_path / "optimiser.safetensors", optimiser_tensors(optimiser))
    copy = torch.nn.Parameter(parameter.detach().clone())
    restored = torch.optim.Adam([copy], lr=0.1)
    load_optimiser_tensors(restored, load_tensors(tmp_path / "optimiser.safetensors"))
    step(parameter, optimiser)
    step(copy, restored)
    assert torch.equal(parameter, copy)


def test_learning_rates_come_from_the_configuration():
    _, optimiser = stepped()
    other = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=0.7)
    load_optimiser_tensors(other, optimiser_tensors(optimiser))
    assert other.param_groups[0]["lr"] == 0.7


def test_a_fresh_optimiser_has_no_state_to_save(tmp_path):
    _, fresh = stepped(steps=0)
    save_tensors(tmp_path / "fresh.safetensors", optimiser_tensors(fresh))
    _, used = stepped()
    load_optimiser_tensors(used, load_tensors(tmp_path / "fresh.safetensors"))
    assert not used.state
