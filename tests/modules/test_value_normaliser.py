"""Tests of the value normaliser: debiased moments, a minimum variance, an exact inverse."""

import pytest
import torch

from lolm_plugin.modules.critics import ValueNormaliser

RETURNS = torch.tensor([1.0, 2.0, 3.0, 6.0])  # mean 3, variance 3.5


def updated(returns, times=1, **settings):
    normaliser = ValueNormaliser(**settings)
    for _ in range(times):
        normaliser.update(returns, torch.ones_like(returns))
    return normaliser


def test_without_returns_values_pass_unchanged():
    assert torch.equal(ValueNormaliser().normalise(RETURNS), RETURNS)
    assert torch.equal(ValueNormaliser().denormalise(RETURNS), RETURNS)


@pytest.mark.parametrize("times", [1, 2, 1000])
def test_repeated_returns_give_their_exact_moments(times):
    normal = updated(RETURNS, times).normalise(RETURNS)
    assert normal.tolist() == pytest.approx(((RETURNS - 3) / 3.5**0.5).tolist(), abs=1e-5)


def test_two_updates_by_hand():
    normaliser = updated(torch.tensor([0.0, 2.0]), beta=0.75)
    normaliser.update(torch.tensor([5.0, 5.0]), torch.ones(2))
    # Weights 0.1875 and 0.25 of 0.4375: mean (0.1875*1 + 0.25*5) / 0.4375, square (0.1875*2 + 0.25*25) / 0.4375.
    mean = 1.4375 / 0.4375
    std = (6.625 / 0.4375 - mean**2) ** 0.5
    assert normaliser.denormalise(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([mean, mean + std])


def test_denormalise_inverts_normalise():
    normaliser = updated(torch.tensor([100.0, 250.0, -30.0]), times=3)
    values = torch.tensor([-5.0, 0.0, 123.0])
    assert torch.allclose(normaliser.denormalise(normaliser.normalise(values)), values, atol=1e-4)


def test_the_variance_is_never_below_its_minimum():
    assert updated(torch.full((3,), 7.0), min_variance=0.04).normalise(torch.tensor([7.0, 9.0])).tolist() == (
        pytest.approx([0, 10], abs=1e-4)
    )


def test_only_returns_in_the_mask_are_counted():
    normaliser = ValueNormaliser()
    normaliser.update(torch.tensor([[1.0, 2.0], [3.0, 1e6], [6.0, 1e6]]), torch.tensor([[1, 1], [1, 0], [1, 0]]))
    assert torch.allclose(normaliser.normalise(RETURNS), updated(RETURNS).normalise(RETURNS))


def test_an_update_without_returns_changes_nothing():
    normaliser = updated(RETURNS)
    before = normaliser.normalise(RETURNS)
    normaliser.update(torch.tensor([1e6]), torch.zeros(1))
    assert torch.equal(normaliser.normalise(RETURNS), before)


def test_its_state_is_complete():
    first, second = updated(RETURNS, times=5), ValueNormaliser()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.normalise(RETURNS), second.normalise(RETURNS))


def test_numbers_keep_their_dtype():
    assert updated(RETURNS).normalise(RETURNS).dtype == updated(RETURNS).denormalise(RETURNS).dtype == torch.float32
