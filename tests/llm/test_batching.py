import numpy as np
import pytest

from lolm_plugin.llm.batching import plan_packs


def _random_lengths(rows, seed):
    return np.random.default_rng(seed).integers(1, 300, rows).tolist()


def _width(group, lengths):
    return max(lengths[row] for row in group)


@pytest.mark.parametrize("prefix", [0, 60])
@pytest.mark.parametrize("seed", range(5))
def test_every_row_once_within_the_budget(seed, prefix):
    lengths = _random_lengths(200, seed)
    plan = plan_packs(lengths, token_budget=2000, prefix_tokens=prefix)
    assert sorted(row for pack in plan for group in pack for row in group) == list(range(200))
    for pack in plan:
        assert prefix + sum(len(group) * _width(group, lengths) for group in pack) <= 2000


def test_packs_are_filled():
    lengths = _random_lengths(200, 0)
    plan = plan_packs(lengths, token_budget=2000)
    for pack in plan[:-1]:
        assert sum(len(group) * _width(group, lengths) for group in pack) > 2000 - 300


@pytest.mark.parametrize("limit", [0.0, 0.05, 0.3])
def test_padding_stays_within_the_limit(limit):
    lengths = _random_lengths(200, 1)
    for group in plan_packs(lengths, token_budget=10**6, padding_limit=limit)[0]:
        padded = len(group) * _width(group, lengths)
        assert padded - sum(lengths[row] for row in group) <= limit * padded


def test_rows_of_similar_length_share_a_group():
    assert plan_packs([100, 99, 50], 10**6) == [[[0, 1], [2]]]
    assert plan_packs([100, 70, 100], 10**6, padding_limit=0.1) == [[[0, 2, 1]]]


def test_equal_lengths_fill_the_budget():
    sizes = [[len(group) for group in pack] for pack in plan_packs([10] * 25, token_budget=100)]
    assert sizes == [[10], [10], [5]]
    sizes = [[len(group) for group in pack] for pack in plan_packs([10] * 25, token_budget=100, prefix_tokens=1)]
    assert sizes == [[9], [9], [7]]


def test_a_row_beyond_the_budget_goes_alone():
    assert plan_packs([5, 500, 500, 5], token_budget=100) == [[[1]], [[2]], [[0, 3]]]


def test_no_rows_no_packs():
    assert plan_packs([], token_budget=100) == []
