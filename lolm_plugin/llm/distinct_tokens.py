"""Find tokens that a causal model would compute several times: equal ids with equal ids before them.

Prompts of one task begin alike ("You marine range5, ally marine 0 ..."). A causal model's state of a token depends on
the tokens up to it alone, so a common beginning need be computed only once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PADDING = -1  # no token has this id


@dataclass(frozen=True)
class DistinctTokens:
    """Index the distinct tokens of prompts that are padded in groups, one group after the other.

    Attributes:
        inverse: int64 [padded positions], the distinct token at each position; at padding an arbitrary one.
        first: int64 [distinct tokens], a position of each distinct token.
    """

    inverse: Tensor
    first: Tensor

    def __len__(self) -> int:
        return len(self.first)

    def to(self, device: torch.device) -> "DistinctTokens":
        """Copy to ``device``."""
        return DistinctTokens(self.inverse.to(device), self.first.to(device))


def find_distinct_tokens(groups: Sequence[Sequence[Tensor]]) -> DistinctTokens:
    """Compare prompts, int64 ids [tokens] each, in groups that are padded to their longest prompt."""
    prompts = [prompt for group in groups for prompt in group]
    widths = np.array([max(map(len, group)) for group in groups for _ in group])
    ids = np.full((len(prompts), int(widths.max())), PADDING)
    for padded, prompt in zip(ids, prompts, strict=True):
        padded[: len(prompt)] = prompt.numpy()
    # In lexicographic order, what two prompts have in common all prompts between them have too. So comparing each with
    # the one before it finds every common beginning.
    order = np.lexsort(ids.T[::-1])
    ordered = ids[order]
    new = ordered != PADDING
    new[1:] &= ~np.logical_and.accumulate(ordered[1:] == ordered[:-1], axis=1)
    # A token that is not new equals the latest new one in its column.
    inverse = np.empty_like(ids)
    inverse[order] = np.maximum.accumulate(np.where(new, new.cumsum().reshape(new.shape) - 1, 0), axis=0)
    in_group = np.arange(ids.shape[1]) < widths[:, None]
    inverse, real = inverse[in_group], (ids != PADDING)[in_group]
    first = np.empty(new.sum(), dtype=np.int64)
    # From the end, so that of several positions the first is written last.
    positions = real.nonzero()[0][::-1]
    first[inverse[positions]] = positions
    return DistinctTokens(torch.from_numpy(inverse), torch.from_numpy(first))
