import numpy as np
import pytest

from lolm_plugin.llm.batching import pad_right, plan_microbatches


def _random_lengths(rows, seed):
    return np.random.default_rng(seed).integers(1, 300, rows).tolist()


@pytest.mark.parametrize("prefix", [0, 60])
@pytest.mark.parametrize("seed", range(5))
def test_every_row_once_within_the_budget(seed, prefix):
    lengths = _random_lengths(200, seed)
    plan = plan_microbatches(lengths, token_budget=2000, prefix_tokens=prefix)
    assert sorted(row for batch in plan for row in batch) == list(range(200))
    assert all(prefix + len(batch) * max(lengths[row] for row in batch) <= 2000 for batch in plan)


@pytest.mark.parametrize("limit", [0.0, 0.06, 0.3])
def test_padding_stays_within_the_limit(limit):
    lengths = _random_lengths(200, 1)
    for batch in plan_microbatches(lengths, token_budget=10**6, padding_limit=limit):
        padded = len(batch) * max(lengths[row] for row in batch)
        assert padded - sum(lengths[row] for row in batch) <= limit * padded


def test_no_cut_that_would_cost_more_prefix_than_it_saves_padding():
    assert plan_microbatches([100, 70], 10**6, prefix_tokens=0) == [[0], [1]]
    assert plan_microbatches([100, 70], 10**6, prefix_tokens=29) == [[0], [1]]
    assert plan_microbatches([100, 70], 10**6, prefix_tokens=30) == [[0, 1]]


def test_equal_lengths_fill_the_budget():
    assert [len(batch) for batch in plan_microbatches([10] * 25, token_budget=100)] == [10, 10, 5]
    assert [len(batch) for batch in plan_microbatches([10] * 25, token_budget=100, prefix_tokens=1)] == [9, 9, 7]


def test_a_row_beyond_the_budget_goes_alone():
    assert plan_microbatches([5, 500, 500, 5], token_budget=100) == [[1], [2], [0, 3]]


def test_no_rows_no_microbatches():
    assert plan_microbatches([], token_budget=100) == []


def test_pad_right():
    ids, lengths = pad_right([[7, 8, 9], [4], [5, 6]], pad_id=1)
    assert ids.tolist() == [[7, 8, 9], [4, 1, 1], [5, 6, 1]]
    assert lengths.tolist() == [3, 1, 2]
    assert pad_right([], pad_id=1)[0].shape == (0, 0)
