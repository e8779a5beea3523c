"""Rows of unequal length into microbatches that waste little on padding."""

from collections.abc import Sequence

import torch
from torch import Tensor


def plan_microbatches(
    lengths: Sequence[int], token_budget: int, prefix_tokens: int = 0, padding_limit: float = 0.06
) -> list[list[int]]:
    """Row indices, each exactly once, in microbatches of rows of similar length, longest first.

    A microbatch costs ``prefix_tokens`` (the shared prefix, run once) plus rows × longest row, and is cut
    where that would pass ``token_budget``, or where padding would be more than ``padding_limit`` of its
    rows' tokens and more than the prefix that a further microbatch runs again. A row that alone
    passes the budget goes alone.
    """
    plan: list[list[int]] = []
    real = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if plan:
            width, rows = lengths[plan[-1][0]], len(plan[-1]) + 1
            padding = rows * width - (real + lengths[row])
            fits = prefix_tokens + rows * width <= token_budget
            if fits and padding <= max(padding_limit * rows * width, prefix_tokens):
                plan[-1].append(row)
                real += lengths[row]
                continue
        plan.append([row])
        real = lengths[row]
    return plan


def pad_right(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids int64 ``[rows, longest]`` filled up with ``pad_id``, and their lengths int64 ``[rows]``."""
    lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.long)
    width = max(map(len, sequences), default=0)
    rows = [[*sequence, *[pad_id] * (width - len(sequence))] for sequence in sequences]
    return torch.tensor(rows, dtype=torch.long).reshape(len(rows), width), lengths
