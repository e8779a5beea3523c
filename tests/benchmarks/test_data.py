"""A batch of some steps of whole battles stands for all of them."""

import numpy as np
import pytest
import torch

from benchmarks import data


@pytest.fixture(scope="module")
def battles():
    return data.play("3m", episodes=3, seed=1)


def test_all_steps_are_the_battles_themselves(battles):
    batch = data.batch(battles, steps=10**6)
    assert data.valid(batch).sum(1).tolist() == battles.lengths.tolist()
    for episode, end in enumerate(battles.lengths):
        assert np.array_equal(batch["obs"][episode, : end + 1], battles.obs[: end + 1, episode])
        assert np.array_equal(batch["actions"][episode, :end, :, 0], battles.actions[:end, episode])
        assert not batch["filled"][episode, end + 1 :].any()


def test_some_steps_keep_columns_ends_and_rewards(battles):
    batch = data.batch(battles, steps=4)
    longest = battles.lengths.max()
    columns = [int((k + 0.5) * longest / 4) for k in range(4)]
    there = torch.tensor([[column < end for column in columns] for end in battles.lengths])
    assert torch.equal(data.valid(batch), there)
    for episode, end in enumerate(battles.lengths):
        kept = [column for column in columns if column < end]
        assert np.array_equal(batch["state"][episode, : len(kept)], battles.state[kept, episode])
        assert np.array_equal(batch["state"][episode, len(kept)], battles.state[end, episode])
        assert batch["terminated"][episode].sum() == (not battles.timeout[episode])
        assert float(batch["reward"][episode].sum()) == pytest.approx(
            float(battles.reward[kept[0] : end, episode].sum()), rel=1e-5
        )


def test_a_single_step_has_as_many_decisions_as_steps_have_on_average(battles):
    def share(steps):
        return float(data.deciding(data.batch(battles, steps)).float().mean())

    longest = int(battles.lengths.max())
    by_step = data.deciding(data.batch(battles, longest)).float().mean((0, 2))
    nearest = float((by_step - by_step.mean()).abs().min())
    assert abs(share(1) - share(longest)) == pytest.approx(nearest, abs=1e-6)


def test_another_seed_is_another_battle(battles):
    assert not np.array_equal(data.play("3m", episodes=3, seed=2).obs[0], battles.obs[0])


def test_a_child_process_reads_what_was_kept(battles, tmp_path):
    batch = data.batch(battles, steps=4)
    data.save(batch, tmp_path / "batch.pt")
    read = data.load(tmp_path / "batch.pt", "cpu")
    assert all(torch.equal(read[name], batch[name]) for name in (*batch.scheme, "filled"))
    assert (read.batch_size, read.max_seq_length) == (batch.batch_size, batch.max_seq_length)
