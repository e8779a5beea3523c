"""Episodes of several maps as one batch, padded to the sizes of the greatest map."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lolm_plugin.protocols import Batch


class MapBatches:
    """One batch for each map. As a whole it reads like one batch whose fields are padded with zeros.

    Args:
        names: the maps' names.
        parts: their batches, with at least one episode each.
        indices: the number of each map in the run. A map that played no episode is left out.
    """

    def __init__(self, names: Sequence[str], parts: Sequence[Batch], indices: Sequence[int]) -> None:
        self.names, self.parts, self.indices = names, parts, indices
        sizes = [part.batch_size for part in parts]
        self.offsets = [sum(sizes[:i]) for i in range(len(sizes))]  # of each map's first episode
        self.batch_size = sum(sizes)
        self.max_seq_length = max(part.max_seq_length for part in parts)
        self.scheme: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Tensor:
        """Return a field of all episodes [episodes, time, ...], padded with zeros to the greatest sizes."""
        return padded([part[name] for part in self.parts])

    @property
    def present(self) -> Tensor:
        """Return 1 for an agent that its map has, and 0 for padding: float [episodes, 1, agents]."""
        present = [part["avail_actions"].new_ones(part["avail_actions"].shape[0], 1, agents) for part, agents in self]
        return padded(present).float()

    def __iter__(self) -> Any:
        """Yield each map's batch and its number of agents."""
        return ((part, part["avail_actions"].shape[2]) for part in self.parts)

    @property
    def data(self) -> SimpleNamespace:
        """Return every map's fields as ``map/field``, for the record of a batch that cannot be learned from."""
        tensors = {
            f"{name}/{field}": tensor
            for name, part in zip(self.names, self.parts, strict=True)
            for field, tensor in part.data.transition_data.items()
        }
        return SimpleNamespace(transition_data=tensors)


def padded(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors [n, ...] along the first dimension; others are padded with zeros to the largest size."""
    sizes = [max(tensor.shape[dim] for tensor in tensors) for dim in range(1, tensors[0].ndim)]
    return torch.cat([pad_to(tensor, sizes) for tensor in tensors])


def pad_to(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    """Pad all dimensions after the first with zeros (False) to ``sizes``."""
    missing = [size - own for own, size in zip(tensor.shape[1:], sizes, strict=True)]
    return functional.pad(tensor, [amount for size in reversed(missing) for amount in (0, size)])
