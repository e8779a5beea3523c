"""Prompts as token ids, their division into packs, and the hidden states that the language model returns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# Maximum share of padding in a group. Larger: more padding runs through the model. Smaller: more groups, so more
# attention calls.
PADDING_LIMIT = 0.05
PADDING = -1  # no token has this id

Pack = list[list[int]]  # groups of prompt indices


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that all begin with one shared prefix.

    Attributes:
        prefix: token ids of the prefix.
        ids: each prompt's token ids after the prefix, int64 [tokens], at least one.
        read_positions: each prompt's tokens whose final hidden states are read, int64 [reads]. The prompt's last token
            comes first.
        targets: int64 [prompts, n_targets], which of the prompt's reads ends the sentence about each target; -1: none.
            None: no prompt has such sentences.
        frozen_states: each prompt's states after the frozen layers, [tokens, hidden]; None: not computed yet.
    """

    prefix: tuple[int, ...]
    ids: Sequence[Tensor]
    read_positions: Sequence[Tensor]
    targets: Tensor | None
    frozen_states: Sequence[Tensor | None]

    @classmethod
    def of(
        cls,
        prefix: Sequence[int],
        ids: Sequence[Tensor],
        read_positions: Sequence[Tensor] | None = None,
        targets: Tensor | None = None,
    ) -> "PromptBatch":
        """Build a batch without frozen states. ``read_positions=None`` reads only each prompt's last token."""
        if read_positions is None:
            read_positions = [torch.tensor([len(prompt) - 1]) for prompt in ids]
        return cls(tuple(prefix), ids, read_positions, targets, [None] * len(ids))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tokens(self) -> int:
        """Number of tokens, with the prefix counted in every prompt."""
        return sum(map(len, self.ids)) + len(self) * len(self.prefix)

    def take(self, prompts: Sequence[int] | Tensor) -> "PromptBatch":
        """Select prompts by index, int64 [n]."""
        index = torch.as_tensor(prompts).tolist()
        return PromptBatch(
            self.prefix,
            [self.ids[i] for i in index],
            [self.read_positions[i] for i in index],
            None if self.targets is None else self.targets[index],
            [self.frozen_states[i] for i in index],
        )

    def repeat_prefix(self) -> "PromptBatch":
        """Put the prefix into every prompt, for models that cannot share it."""
        prefix = torch.tensor(self.prefix, dtype=torch.int64)
        ids = [torch.cat([prefix, prompt]) for prompt in self.ids]
        return replace(self, prefix=(), ids=ids, read_positions=[len(prefix) + reads for reads in self.read_positions])

    def plan(self, token_budget: int | None = None) -> list[Pack]:
        """Divide the prompts into packs of at most ``token_budget`` tokens (None: one pack)."""
        return plan_packs([len(prompt) for prompt in self.ids], token_budget or 2**62, len(self.prefix))


@dataclass(frozen=True)
class HiddenStates:
    """Final hidden states of prompts.

    Attributes:
        states: [reads, hidden] of all prompts.
        last: int64 [prompts], index in ``states`` of each prompt's last token.
        targets: int64 [prompts, n_targets], index in ``states`` of the end of the sentence about each target; -1: none.
    """

    states: Tensor
    last: Tensor
    targets: Tensor

    @classmethod
    def of(cls, batch: PromptBatch, states: Tensor) -> "HiddenStates":
        """Index the ``states`` [reads, hidden] of a batch by prompt and target."""
        counts = torch.tensor([len(reads) for reads in batch.read_positions], dtype=torch.int64, device=states.device)
        last = counts.cumsum(0) - counts
        targets = last.new_zeros(len(last), 0) if batch.targets is None else batch.targets
        return cls(states, last, torch.where(targets >= 0, targets + last[:, None], -1))

    def __len__(self) -> int:
        return len(self.last)

    def __getitem__(self, prompts: Tensor) -> "HiddenStates":
        """Select prompts by index, int64 [n]; an index may be repeated."""
        return HiddenStates(self.states, self.last[prompts], self.targets[prompts])

    @property
    def last_states(self) -> Tensor:
        """States of the last tokens, [prompts, hidden]."""
        return self.states[self.last]

    @property
    def sentence_states(self) -> Tensor:
        """States at the ends of all sentences about targets, [sentences, hidden]."""
        return self.states[self.targets[self.targets >= 0]]


def plan_packs(
    lengths: Sequence[int], token_budget: int, prefix_tokens: int = 0, padding_limit: float = PADDING_LIMIT
) -> list[Pack]:
    """Divide prompts into packs of groups of similar length, the longest first.

    A group costs its number of prompts times its longest prompt. A new group begins if padding would exceed the share
    ``padding_limit`` of this cost. A pack costs its groups and, once, ``prefix_tokens``. A new pack begins if this cost
    would exceed ``token_budget``. A prompt that alone exceeds the budget gets a separate pack.
    """
    packs: list[Pack] = []
    cost = real = 0  # tokens of the last pack, with padding, and of the last group, without
    for prompt in sorted(range(len(lengths)), key=lambda prompt: -lengths[prompt]):
        group = packs[-1][-1] if packs else [prompt]
        width = lengths[group[0]]
        padded = (len(group) + 1) * width
        joins = bool(packs) and padded - real - lengths[prompt] <= padding_limit * padded
        extra = width if joins else lengths[prompt]
        if not packs or cost + extra > token_budget:
            packs.append([])
            cost, joins, extra = prefix_tokens, False, lengths[prompt]
        if joins:
            packs[-1][-1].append(prompt)
            real += lengths[prompt]
        else:
            packs[-1].append([prompt])
            real = lengths[prompt]
        cost += extra
    return packs


def members(pack: Pack) -> list[int]:
    """List the prompt indices of a pack, in its order."""
    return list(chain.from_iterable(pack))


def pad(group: Sequence[Tensor]) -> Tensor:
    """Pad the prompts of a group to the longest and join them: [tokens, ...] each -> [prompts * longest, ...]."""
    return pad_sequence(list(group), batch_first=True).flatten(0, 1)


@dataclass(frozen=True)
class DistinctTokens:
    """Distinct tokens of prompts that are padded in groups, one group after the other.

    A causal model's state of a token depends only on the tokens up to it. Tokens are therefore the same if they and all
    tokens before them have the same ids. Prompts of one task begin alike ("You marine range5, ally marine 0 ..."), so
    this common beginning needs to be computed only once.

    Attributes:
        inverse: int64 [padded positions], the distinct token at each position; an arbitrary one at padding.
        first: int64 [distinct tokens], the first position of each distinct token.
    """

    inverse: Tensor
    first: Tensor


def find_distinct_tokens(groups: Sequence[Sequence[Tensor]], device: torch.device | str = "cpu") -> DistinctTokens:
    """Find the distinct tokens of prompts, int64 [tokens] each, that are padded in groups."""
    prompts = [prompt for group in groups for prompt in group]
    widths = np.array([max(map(len, group)) for group in groups for _ in group])
    ids = np.full((len(prompts), int(widths.max())), PADDING)
    for padded, prompt in zip(ids, prompts, strict=True):
        padded[: len(prompt)] = prompt.numpy()
    # In lexicographic order, all prompts between two others share the common beginning of these two. So comparing each
    # prompt with the one before it finds every common beginning.
    order = np.lexsort(ids.T[::-1])
    ordered = ids[order]
    new = ordered != PADDING
    new[1:] &= ~np.logical_and.accumulate(ordered[1:] == ordered[:-1], axis=1)
    # A token that is not new equals the last new token above it in its column.
    inverse = np.empty_like(ids)
    inverse[order] = np.maximum.accumulate(np.where(new, new.cumsum().reshape(new.shape) - 1, 0), axis=0)
    in_group = np.arange(ids.shape[1]) < widths[:, None]
    inverse, real = inverse[in_group], (ids != PADDING)[in_group]
    first = np.empty(new.sum(), dtype=np.int64)
    # In reverse, so that the first of several positions is written last.
    positions = real.nonzero()[0][::-1]
    first[inverse[positions]] = positions
    return DistinctTokens(torch.from_numpy(inverse).to(device), torch.from_numpy(first).to(device))
