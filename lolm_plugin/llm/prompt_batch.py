"""What the language model reads and what it answers: prompts as token ids, hidden states, and prompts in packs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# Of the tokens of a group. Larger: more padding runs through the model. Smaller: more groups, so more attention calls.
PADDING_LIMIT = 0.05
PADDING = -1  # no token has this id

Pack = list[list[int]]  # groups of prompts, by index


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that all continue one shared prefix.

    Attributes:
        prefix: token ids of the prefix.
        ids: each prompt's token ids after the prefix, int64 [tokens], at least one.
        read_positions: each prompt's tokens whose final hidden states are read, int64 [reads]; the first is its last.
        targets: int64 [prompts, n_targets], the read that ends the sentence about each target; -1: none. None: no
            prompt has such sentences.
        frozen_states: what the frozen layers compute from ``ids``, [tokens, hidden]; None: not computed yet.
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
        """Without frozen states; ``read_positions=None`` reads each prompt's last token alone."""
        if read_positions is None:
            read_positions = [torch.tensor([len(prompt) - 1]) for prompt in ids]
        return cls(tuple(prefix), ids, read_positions, targets, [None] * len(ids))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tokens(self) -> int:
        """All tokens, with the prefix in every prompt."""
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
        last: int64 [prompts], the state of each prompt's last token.
        targets: int64 [prompts, n_targets], the state at the end of the sentence about each target; -1: none.
    """

    states: Tensor
    last: Tensor
    targets: Tensor

    @classmethod
    def of(cls, batch: PromptBatch, states: Tensor) -> "HiddenStates":
        """Label the ``states`` [reads, hidden] of all prompts of a batch."""
        counts = torch.tensor([len(reads) for reads in batch.read_positions], dtype=torch.int64, device=states.device)
        last = counts.cumsum(0) - counts
        targets = last.new_zeros(len(last), 0) if batch.targets is None else batch.targets
        return cls(states, last, torch.where(targets >= 0, targets + last[:, None], -1))

    def __len__(self) -> int:
        return len(self.last)

    def __getitem__(self, prompts: Tensor) -> "HiddenStates":
        """Select prompts by index, int64 [n]; a prompt may come up several times."""
        return HiddenStates(self.states, self.last[prompts], self.targets[prompts])

    @property
    def last_states(self) -> Tensor:
        """The states of the last tokens, [prompts, hidden]."""
        return self.states[self.last]

    @property
    def sentence_states(self) -> Tensor:
        """The states of all sentences about targets, [sentences, hidden]."""
        return self.states[self.targets[self.targets >= 0]]


def plan_packs(
    lengths: Sequence[int], token_budget: int, prefix_tokens: int = 0, padding_limit: float = PADDING_LIMIT
) -> list[Pack]:
    """Divide prompts into packs of groups of similar length, the longest first.

    A group costs prompts x longest prompt; a new one begins where padding would be more than ``padding_limit`` of it. A
    pack costs ``prefix_tokens``, run once, and its groups; a new one begins where that would pass ``token_budget``. A
    prompt that alone passes the budget gets a pack of its own.
    """
    packs: list[Pack] = []
    cost = real = 0  # of the last pack, padded; of the last group, without padding
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
    """List the prompts of a pack, in its order."""
    return list(chain.from_iterable(pack))


def pad(group: Sequence[Tensor]) -> Tensor:
    """Pad the prompts of a group to its longest, end to end: [tokens, ...] each -> [prompts * longest, ...]."""
    return pad_sequence(list(group), batch_first=True).flatten(0, 1)


@dataclass(frozen=True)
class DistinctTokens:
    """The distinct tokens of prompts that are padded in groups, one group after the other.

    A causal model's state of a token depends on the tokens up to it alone. Prompts of one task begin alike ("You marine
    range5, ally marine 0 ..."), so what several begin with need be computed only once.

    Attributes:
        inverse: int64 [padded positions], the distinct token at each position; at padding an arbitrary one.
        first: int64 [distinct tokens], a position of each distinct token.
    """

    inverse: Tensor
    first: Tensor


def find_distinct_tokens(groups: Sequence[Sequence[Tensor]], device: torch.device | str = "cpu") -> DistinctTokens:
    """Find equal ids with equal ids before them in prompts, int64 [tokens] each, padded in groups."""
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
    return DistinctTokens(torch.from_numpy(inverse).to(device), torch.from_numpy(first).to(device))
