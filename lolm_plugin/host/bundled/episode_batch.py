"""Batches of episodes: one zero-filled tensor per field, padded to the time limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

Scheme = dict[str, dict[str, Any]]
Index = int | slice | list[int] | np.ndarray | torch.Tensor

EVERYTHING = slice(None)


@dataclass
class Storage:
    """Tensors of a batch: ``[batch, time, ...]`` and, for values that are constant in an episode, ``[batch, ...]``."""

    transition_data: dict[str, torch.Tensor] = field(default_factory=dict)
    episode_data: dict[str, torch.Tensor] = field(default_factory=dict)


class EpisodeBatch:
    """``batch_size`` episodes of up to ``max_seq_length`` steps.

    ``scheme`` maps a field to its ``vshape`` (int or tuple), ``dtype`` (default float32), ``group`` (one entry per
    member of that group; ``groups`` has the sizes) and ``episode_const`` (one value per episode, not per step).
    ``preprocess`` maps a field to ``(derived field, [transforms])``; ``update`` keeps the derived field up to date.

    The batch adds the field ``filled`` ``[batch, time, 1]``: 1 where ``update`` wrote a step.
    """

    def __init__(
        self,
        scheme: Scheme,
        groups: Mapping[str, int],
        batch_size: int,
        max_seq_length: int,
        data: Storage | None = None,
        preprocess: Mapping[str, tuple[str, list[Any]]] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.scheme = scheme.copy()
        self.groups = groups
        self.batch_size = batch_size
        self.max_seq_length = max_seq_length
        self.preprocess = preprocess or {}
        self.device = device
        if data is None:
            self._complete_scheme()
            data = self._allocate()
        self.data = data

    def _complete_scheme(self) -> None:
        assert "filled" not in self.scheme, "the field 'filled' belongs to the batch"
        for source, (derived, transforms) in self.preprocess.items():
            info = dict(self.scheme[source])
            for transform in transforms:
                info["vshape"], info["dtype"] = transform.infer_output_info(info["vshape"], info["dtype"])
            self.scheme[derived] = info
        self.scheme["filled"] = {"vshape": (1,), "dtype": torch.long}

    def _allocate(self) -> Storage:
        data = Storage()
        for key, info in self.scheme.items():
            shape = (info["vshape"],) if isinstance(info["vshape"], int) else tuple(info["vshape"])
            if group := info.get("group"):
                assert group in self.groups, f"the field {key!r} belongs to the group {group!r}, which has no size"
                shape = (self.groups[group], *shape)
            if info.get("episode_const"):
                target, shape = data.episode_data, (self.batch_size, *shape)
            else:
                target, shape = data.transition_data, (self.batch_size, self.max_seq_length, *shape)
            target[key] = torch.zeros(shape, dtype=info.get("dtype", torch.float32), device=self.device)
        return data

    def to(self, device: str | torch.device) -> None:
        """Move every tensor to ``device``, in place."""
        for tensors in (self.data.transition_data, self.data.episode_data):
            tensors.update({key: tensor.to(device) for key, tensor in tensors.items()})
        self.device = device

    def update(
        self,
        data: Mapping[str, list | torch.Tensor],
        bs: Index = EVERYTHING,
        ts: int | slice = EVERYTHING,
        mark_filled: bool = True,
    ) -> None:
        """Write ``data`` (lists or tensors) into the episodes ``bs`` at the steps ``ts``.

        ``mark_filled=False`` leaves ``filled`` unchanged.

        Raises:
            ValueError: a shape differs in more than dimensions of size 1, or a step is past the end.
            KeyError: a field is not in the scheme.
        """
        episodes, steps = _span(bs), _span(ts)
        stored = self.data.transition_data
        if mark_filled and any(key in stored for key in data):
            stored["filled"][episodes, steps] = 1
        for key, value in data.items():
            target = self[key]
            where = (episodes, steps) if key in stored else (episodes,)
            if isinstance(value, list):
                value = torch.tensor(np.array(value), dtype=target.dtype, device=self.device)
            target[where] = _reshaped(value, target[where].shape)
            if key in self.preprocess:
                derived, transforms = self.preprocess[key]
                value = target[where]
                for transform in transforms:
                    value = transform.transform(value)
                self[derived][where] = _reshaped(value, self[derived][where].shape)

    def __getitem__(self, item: Any) -> Any:
        """Return a field's tensor (``batch["obs"]``) or a batch of some fields, episodes or steps.

        ``batch["obs", "state"]``, ``batch[episodes]`` and ``batch[episodes, steps]`` are batches. They share memory
        with this one, except for lists of episodes.

        Raises:
            KeyError: the field is unknown.
            IndexError: steps are neither a slice nor an integer.
        """
        if isinstance(item, str):
            return self._tensor(item)
        if isinstance(item, tuple) and all(isinstance(part, str) for part in item):
            return self._select_fields(item)
        episodes, steps = item if isinstance(item, tuple) else (item, EVERYTHING)
        if not isinstance(steps, int | slice):
            raise IndexError("steps must be a slice or an integer, because a batch is contiguous in time")
        return self._select_span(_span(episodes), slice(steps, steps + 1) if isinstance(steps, int) else steps)

    def _tensor(self, key: str) -> torch.Tensor:
        for tensors in (self.data.transition_data, self.data.episode_data):
            if key in tensors:
                return tensors[key]
        raise KeyError(f"{key} is not a field of this batch, which has {', '.join(self.scheme)}")

    def _select_fields(self, keys: Sequence[str]) -> "EpisodeBatch":
        data = Storage()
        for key in keys:
            same_kind = data.episode_data if key in self.data.episode_data else data.transition_data
            same_kind[key] = self._tensor(key)
        scheme = {key: self.scheme[key] for key in keys}
        groups = {info["group"]: self.groups[info["group"]] for info in scheme.values() if "group" in info}
        return EpisodeBatch(scheme, groups, self.batch_size, self.max_seq_length, data, device=self.device)

    def _select_span(self, episodes: Index, steps: slice) -> "EpisodeBatch":
        data = Storage(
            {key: tensor[episodes, steps] for key, tensor in self.data.transition_data.items()},
            {key: tensor[episodes] for key, tensor in self.data.episode_data.items()},
        )
        batch_size = _count(episodes, self.batch_size)
        max_seq_length = _count(steps, self.max_seq_length)
        return EpisodeBatch(self.scheme, self.groups, batch_size, max_seq_length, data, device=self.device)

    def max_t_filled(self) -> torch.Tensor:
        """Return the number of filled steps of the longest episode: int64 ``[1]``."""
        return self.data.transition_data["filled"].sum(1).max(0).values

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}({self.batch_size} episodes, {self.max_seq_length} steps, {', '.join(self.scheme)})"


def _span(index: Index) -> Index:
    """Turn an integer into a slice, so that no dimension is lost."""
    return slice(index, index + 1) if isinstance(index, int) else index


def _count(index: Index, size: int) -> int:
    assert not isinstance(index, int)
    return len(range(size)[index]) if isinstance(index, slice) else len(index)


def _reshaped(value: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """View ``value`` as ``shape``. Raises ValueError if they differ in more than dimensions of size 1."""
    unmatched = list(value.shape)
    for size in reversed(shape):
        if unmatched and unmatched[-1] == size:
            unmatched.pop()
        elif size != 1:
            raise ValueError(f"Unsafe reshape of {tuple(value.shape)} to {tuple(shape)}")
    return value.view(shape)
