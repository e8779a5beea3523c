"""Batches with some steps of whole battles."""

import pytest
import torch

from benchmarks import battles


@pytest.fixture(scope="module")
def whole():
    return battles.play("3m", episodes=3, seed=1)


def test_a_batch_of_all_steps_equals_the_battles(whole):
    batch = battles.some_steps(whole, steps=10**6)
    played = battles.valid(whole)
    assert torch.equal(battles.valid(batch), played)
    assert (played.sum(1) < played.shape[1]).any()  # one battle is shorter
    filled = whole["filled"][..., 0] > 0
    for name in ("obs", "state", "avail_actions"):
        assert torch.equal(batch[name][filled], whole[name][filled])
        assert not batch[name][~filled].any()
    for name in ("actions", "reward", "terminated"):
        assert torch.allclose(batch[name][:, :-1][played].float(), whole[name][:, :-1][played].float(), atol=1e-5)


def test_a_batch_of_some_steps_keeps_observations_ends_and_rewards(whole):
    batch, lengths = battles.some_steps(whole, steps=4), battles.valid(whole).sum(1)
    kept = [int((k + 0.5) * int(lengths.max()) / 4) for k in range(4)]
    assert torch.equal(battles.valid(batch), torch.tensor([[step < end for step in kept] for end in lengths]))
    for episode, end in enumerate(lengths.tolist()):
        inside = [step for step in kept if step < end]
        assert torch.equal(batch["state"][episode, : len(inside)], whole["state"][episode, inside])
        assert torch.equal(batch["state"][episode, len(inside)], whole["state"][episode, end])
        assert not batch["obs"][episode, len(inside) + 1 :].any()
        assert batch["terminated"][episode].sum() == whole["terminated"][episode].sum()
        expected = whole["reward"][episode, inside[0] : end].sum()
        assert batch["reward"][episode].sum() == pytest.approx(float(expected), rel=1e-5)


def test_a_single_step_has_an_average_number_of_decisions(whole):
    by_step = battles.deciding(whole).float().mean((0, 2))
    chosen = battles.deciding(battles.some_steps(whole, 1)).float().mean()
    nearest = float((by_step - by_step.mean()).abs().min())
    assert abs(float(chosen - by_step.mean())) == pytest.approx(nearest, abs=1e-6)


def test_battles_depend_only_on_the_seed(whole):
    assert not torch.equal(battles.play("3m", episodes=3, seed=2)["obs"][:, 0], whole["obs"][:, 0])
    battles.play.cache_clear()
    assert torch.equal(battles.play("3m", episodes=3, seed=1)["obs"], whole["obs"])
