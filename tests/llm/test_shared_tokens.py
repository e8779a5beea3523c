import torch

from lolm_plugin.llm.shared_tokens import find_shared
from tests.llm.test_backbone import PREFIX, embedded, filled, gradients, make, model, one_at_a_time  # noqa: F401

# Two rows are the same, one is the beginning of another, one shares all but its last token, one nothing.
ALIKE = [[9, 8, 7, 6], [9, 8, 7, 5], [9, 8], [9, 8, 7, 6], [4, 8, 7, 6], [9, 8, 7, 6, 9, 8, 7]]


def test_tokens_by_hand():
    #   5 6 7    groups as they lie padded: places 0 1 2 | 3 4 5 | 6 7 | 8 9
    #   5 6 9
    #   5 6      its group's width is 2
    #   8 -      one token of padding
    groups = [[torch.tensor([5, 6, 7]), torch.tensor([5, 6, 9])], [torch.tensor([5, 6]), torch.tensor([8])]]
    shared = find_shared(groups)
    ids = torch.tensor([5, 6, 7, 5, 6, 9, 5, 6, 8, 0])
    assert len(shared) == 5  # 5, 5 6, 5 6 7, 5 6 9, 8
    assert sorted(ids[shared.place].tolist()) == [5, 6, 7, 8, 9]
    real = torch.arange(9)
    assert ids[shared.place][shared.token[real]].tolist() == ids[:9].tolist()
    assert shared.token[0] == shared.token[3] == shared.token[6]
    assert shared.token[1] == shared.token[4] == shared.token[7]


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
    shared = find_shared(groups)
    assert len(shared) == len(set(beginnings) - {None})
    for place, beginning in enumerate(beginnings):
        if beginning is not None:
            assert beginnings[shared.place[shared.token[place]]] == beginning


def test_what_rows_begin_with_is_computed_once(model):  # noqa: F811
    backbone = filled(make(model, lora={"layers": 1}))
    rows = backbone.rows(PREFIX, ALIKE)
    counts = embedded(backbone)
    kept = backbone.precompute_frozen_layers(rows, 10**9)
    assert counts == [len(PREFIX), 12]  # of 25: 9 8 7 6, 5, 9 8 7 and 4 8 7 6
    expected = one_at_a_time(backbone, PREFIX, ALIKE)
    states = backbone.read(kept)
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)
    for got, want in zip(gradients(backbone, states), gradients(backbone, expected), strict=True):
        assert (got - want).norm() <= 1e-4 * want.norm()
    with torch.no_grad():
        torch.testing.assert_close(backbone.read(rows), expected, atol=1e-5, rtol=0)


def test_without_sharing_every_row_is_computed_alone():
    backbone = filled(make(share_prefix=False, lora={"layers": 1}))
    counts = embedded(backbone)
    backbone.precompute_frozen_layers(backbone.rows(PREFIX, ALIKE), 10**9)
    (tokens,) = counts
    assert tokens >= sum(len(PREFIX) + len(row) for row in ALIKE)  # with padding
