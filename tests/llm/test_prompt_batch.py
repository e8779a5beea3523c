"""Tests of packs, distinct tokens and prompt batches."""

import numpy as np
import pytest
import torch

from lolm_plugin.llm.prompt_batch import HiddenStates, PromptBatch, find_distinct_tokens, plan_packs


def _random_lengths(prompts, seed):
    return np.random.default_rng(seed).integers(1, 300, prompts).tolist()


def _width(group, lengths):
    return max(lengths[prompt] for prompt in group)


@pytest.mark.parametrize("prefix", [0, 60])
@pytest.mark.parametrize("seed", range(5))
def test_every_prompt_is_in_one_pack_within_the_budget(seed, prefix):
    lengths = _random_lengths(200, seed)
    plan = plan_packs(lengths, token_budget=2000, prefix_tokens=prefix)
    assert sorted(prompt for pack in plan for group in pack for prompt in group) == list(range(200))
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
        assert padded - sum(lengths[prompt] for prompt in group) <= limit * padded


def test_prompts_of_similar_length_share_a_group():
    assert plan_packs([100, 99, 50], 10**6) == [[[0, 1], [2]]]
    assert plan_packs([100, 70, 100], 10**6, padding_limit=0.1) == [[[0, 2, 1]]]


def test_equal_lengths_fill_the_budget():
    sizes = [[len(group) for group in pack] for pack in plan_packs([10] * 25, token_budget=100)]
    assert sizes == [[10], [10], [5]]
    sizes = [[len(group) for group in pack] for pack in plan_packs([10] * 25, token_budget=100, prefix_tokens=1)]
    assert sizes == [[9], [9], [7]]


def test_a_prompt_beyond_the_budget_gets_a_separate_pack():
    assert plan_packs([5, 500, 500, 5], token_budget=100) == [[[1]], [[2]], [[0, 3]]]


def test_without_prompts_there_are_no_packs():
    assert plan_packs([], token_budget=100) == []


def test_distinct_tokens_by_hand():
    #   5 6 7    positions of the padded groups: 0 1 2 | 3 4 5 | 6 7 | 8 9
    #   5 6 9
    #   5 6      its group's width is 2
    #   8 -      one token of padding
    groups = [[torch.tensor([5, 6, 7]), torch.tensor([5, 6, 9])], [torch.tensor([5, 6]), torch.tensor([8])]]
    distinct = find_distinct_tokens(groups)
    ids = torch.tensor([5, 6, 7, 5, 6, 9, 5, 6, 8, 0])
    assert len(distinct.first) == 5  # 5, 5 6, 5 6 7, 5 6 9, 8
    assert sorted(ids[distinct.first].tolist()) == [5, 6, 7, 8, 9]
    real = torch.arange(9)
    assert ids[distinct.first][distinct.inverse[real]].tolist() == ids[:9].tolist()
    assert distinct.inverse[0] == distinct.inverse[3] == distinct.inverse[6]
    assert distinct.inverse[1] == distinct.inverse[4] == distinct.inverse[7]


def test_tokens_are_equal_if_all_ids_up_to_them_are():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 7, (60,), generator=generator)
    prompts = [torch.randint(3, (int(n),), generator=generator) for n in lengths]
    prompts.sort(key=len, reverse=True)
    groups = [prompts[:25], prompts[25:50], prompts[50:]]
    beginnings = [
        tuple(prompt[: i + 1].tolist()) if i < len(prompt) else None
        for group in groups
        for prompt in group
        for i in range(len(group[0]))
    ]
    distinct = find_distinct_tokens(groups)
    assert len(distinct.first) == len(set(beginnings) - {None})
    for position, beginning in enumerate(beginnings):
        if beginning is not None:
            assert beginnings[distinct.first[distinct.inverse[position]]] == beginning


@pytest.fixture
def two_prompts():
    """Build two prompts with two targets. The first has a sentence about target 1, which ends at its first token."""
    ids = [torch.tensor([7, 8, 9]), torch.tensor([7, 8])]
    reads = [torch.tensor([2, 0]), torch.tensor([1])]
    return PromptBatch.of([1, 2], ids, reads, targets=torch.tensor([[-1, 1], [-1, -1]]))


def test_hidden_states_are_indexed_by_prompt_and_target(two_prompts):
    states = HiddenStates.of(two_prompts, torch.tensor([[10.0], [11.0], [12.0]]))
    assert states.last_states.tolist() == [[10], [12]]
    assert states.sentence_states.tolist() == [[11]]
    twice = HiddenStates.of(two_prompts.take([1, 0]), torch.tensor([[12.0], [10.0], [11.0]]))[torch.tensor([1, 0, 1])]
    assert twice.last_states.tolist() == [[10], [12], [10]]
    assert twice.sentence_states.tolist() == [[11], [11]]


def test_repeat_prefix_puts_the_prefix_into_every_prompt(two_prompts):
    whole = two_prompts.repeat_prefix()
    assert [ids.tolist() for ids in whole.ids] == [[1, 2, 7, 8, 9], [1, 2, 7, 8]]
    assert [reads.tolist() for reads in whole.read_positions] == [[4, 2], [3]]
    assert whole.prefix == ()
    assert whole.tokens == two_prompts.tokens == 9
