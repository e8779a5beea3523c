"""Which tokens of some prompts are the same to a causal model: equal ids with equal ids before them.

Prompts of one task begin alike ("You marine range5, ally marine 0 ..."), and what a causal model makes of a token
depends on nothing that comes later. So each such token need be computed only once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PADDING = -1  # no token has this id


@dataclass(frozen=True)
class SharedTokens:
    """The different tokens of rows that lie padded in groups, one group after the other.

    ``token`` int64 [places] is the token at each place of the padded groups (at padding any token), ``place``
    int64 [tokens] one place of each token.
    """

    token: Tensor
    place: Tensor

    def __len__(self) -> int:
        return len(self.place)

    def to(self, device: torch.device) -> "SharedTokens":
        """The same on another device."""
        return SharedTokens(self.token.to(device), self.place.to(device))


def find_shared(groups: Sequence[Sequence[Tensor]]) -> SharedTokens:
    """Find the different tokens of rows of ids, int64 [length] each, in groups that are padded to their longest row."""
    rows = [row for group in groups for row in group]
    widths = np.array([max(map(len, group)) for group in groups for _ in group])
    ids = np.full((len(rows), int(widths.max())), PADDING)
    for row, of_row in zip(ids, rows, strict=True):
        row[: len(of_row)] = of_row.numpy()
    # In alphabetical order whatever two rows share is also shared by all rows between them, so that each row need be
    # compared with the one before it alone.
    order = np.lexsort(ids.T[::-1])
    ids = ids[order]
    new = ids != PADDING
    new[1:] &= ~np.logical_and.accumulate(ids[1:] == ids[:-1], axis=1)
    # A token that is not new is the latest new one in its column.
    numbers = np.where(new, new.cumsum().reshape(new.shape) - 1, 0)
    token = np.empty_like(numbers)
    token[order] = np.maximum.accumulate(numbers, axis=0)
    places = np.arange(ids.shape[1]) < widths[:, None]
    first = np.empty_like(new)
    first[order] = new
    by_place, number_by_place = first[places], token[places]
    place = np.empty(new.sum(), dtype=np.int64)
    place[number_by_place[by_place]] = by_place.nonzero()[0]
    return SharedTokens(torch.from_numpy(number_by_place), torch.from_numpy(place))
