"""Rows of unequal length into packs that waste little on padding."""

from collections.abc import Sequence

PADDING_LIMIT = 0.05  # of the tokens of a group of rows

Pack = list[list[int]]  # groups of row indices


def plan_packs(
    lengths: Sequence[int], token_budget: int, prefix_tokens: int = 0, padding_limit: float = PADDING_LIMIT
) -> list[Pack]:
    """Row indices, each exactly once, in packs of groups of rows of similar length, longest first.

    A group costs rows × longest row; a new one begins where padding would be more than ``padding_limit`` of it. A pack
    costs ``prefix_tokens``, run once, and its groups; a new one begins where that would pass ``token_budget``. A row
    that alone passes the budget goes alone.
    """
    packs: list[Pack] = []
    cost = real = 0  # of the last pack, padded; of the last group, without padding
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        group = packs[-1][-1] if packs else [row]
        width = lengths[group[0]]
        padded = (len(group) + 1) * width
        joins = bool(packs) and padded - real - lengths[row] <= padding_limit * padded
        extra = width if joins else lengths[row]
        if not packs or cost + extra > token_budget:
            packs.append([])
            cost, joins, extra = prefix_tokens, False, lengths[row]
        if joins:
            packs[-1][-1].append(row)
            real += lengths[row]
        else:
            packs[-1].append([row])
            real = lengths[row]
        cost += extra
    return packs
