import torch

from lolm_plugin.llm.distinct_tokens import find_distinct_tokens


def test_tokens_by_hand():
    #   5 6 7    groups as they lie padded: places 0 1 2 | 3 4 5 | 6 7 | 8 9
    #   5 6 9
    #   5 6      its group's width is 2
    #   8 -      one token of padding
    groups = [[torch.tensor([5, 6, 7]), torch.tensor([5, 6, 9])], [torch.tensor([5, 6]), torch.tensor([8])]]
    distinct = find_distinct_tokens(groups)
    ids = torch.tensor([5, 6, 7, 5, 6, 9, 5, 6, 8, 0])
    assert len(distinct) == 5  # 5, 5 6, 5 6 7, 5 6 9, 8
    assert sorted(ids[distinct.first].tolist()) == [5, 6, 7, 8, 9]
    real = torch.arange(9)
    assert ids[distinct.first][distinct.inverse[real]].tolist() == ids[:9].tolist()
    assert distinct.inverse[0] == distinct.inverse[3] == distinct.inverse[6]
    assert distinct.inverse[1] == distinct.inverse[4] == distinct.inverse[7]


def test_every_token_is_found_with_what_comes_before_it():
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, (int(n),), generator=generator) for n in torch.randint(1, 7, (60,), generator=generator)]
    rows.sort(key=len, reverse=True)
    groups = [rows[:25], rows[25:50], rows[50:]]
    beginnings = [
        tuple(row[: i + 1].tolist()) if i < len(row) else None
        for group in groups
        for row in group
        for i in range(len(group[0]))
    ]
    distinct = find_distinct_tokens(groups)
    assert len(distinct) == len(set(beginnings) - {None})
    for place, beginning in enumerate(beginnings):
        if beginning is not None:
            assert beginnings[distinct.first[distinct.inverse[place]]] == beginning
