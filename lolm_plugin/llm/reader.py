"""Reads prompts with a causal LM: packed where the architecture lets itself be packed, padded where not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from lolm_plugin.llm.batching import Pack, plan_packs
from lolm_plugin.llm.distinct_tokens import DistinctTokens, find_distinct_tokens
from lolm_plugin.llm.frozen_states import FrozenStates
from lolm_plugin.llm.packing import KeysAndValues, Packing
from lolm_plugin.llm.stages import Stages


@dataclass(frozen=True)
class Rows:
    """Prompts that all continue ``prefix``: token ids int64 [tokens] each, or the trunk's states [tokens, hidden].

    ``places`` int64 [places] each are the tokens of a part whose final states are read; None: the last of each.
    """

    prefix: tuple[int, ...]
    parts: Sequence[Tensor]
    places: Sequence[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.parts)

    def take(self, rows: Sequence[int]) -> "Rows":
        """Some of the rows."""
        places = None if self.places is None else [self.places[row] for row in rows]
        return Rows(self.prefix, [self.parts[row] for row in rows], places)

    @property
    def states(self) -> list[int]:
        """How many states are read of each row."""
        return [1] * len(self.parts) if self.places is None else [len(places) for places in self.places]

    def plan(self, token_budget: int | None = None) -> list[Pack]:
        """The rows in packs of at most ``token_budget`` tokens (None: one pack)."""
        lengths = [len(part) for part in self.parts]
        return plan_packs(lengths, token_budget or 2**62, len(self.prefix))


class Versioned(Protocol):
    """A model that counts its changes."""

    def version(self, reference: bool) -> int:
        """Another number after every change of the policy; the reference never changes."""
        ...


@dataclass(frozen=True)
class KnownPrefix:
    """What some layers, as they were at ``version``, make of a prefix: states after, keys and values in them."""

    version: int
    states: Tensor
    past: KeysAndValues


class PackedReader:
    """Reads packs. Without gradient the prefix's keys and values are kept until the weights change.

    With ``share_tokens`` the frozen layers compute a beginning that several rows of a pack have in common only once.
    """

    def __init__(self, stages: Stages, model: Versioned, share_tokens: bool) -> None:
        self._stages = stages
        self._model = model
        self._share_tokens = share_tokens
        self.frozen_states = FrozenStates()
        self._trunks: dict[tuple[int, ...], KnownPrefix] = {}
        self._tops: dict[tuple[tuple[int, ...], bool], KnownPrefix] = {}

    def read(self, rows: Rows, pack: Pack, reference: bool) -> Tensor:
        """Final states of the rows of ``pack``, in its order: [states, hidden]."""
        raw = [row for group in pack for row in group if not rows.parts[row].is_floating_point()]
        computed = dict(zip(raw, self._states(rows.take(raw)), strict=True))
        groups = [[computed.get(row, rows.parts[row]) for row in group] for group in pack]
        padded = [pad_sequence(group, batch_first=True).flatten(0, 1) for group in groups]
        past = None
        if rows.prefix and torch.is_grad_enabled():  # in the pack, for the gradients of all rows add up in it
            padded.insert(0, self._prefix_states(rows.prefix))
        elif rows.prefix:
            past = self._known_top(rows.prefix, reference).past
        places = None if rows.places is None else [[rows.places[row] for row in group] for group in pack]
        return self._stages.top(torch.cat(padded), _packing(rows.prefix, groups, past, places))

    @torch.no_grad()
    def precompute_frozen_layers(self, rows: Rows, keep_bytes: float, token_budget: int | None) -> Rows:
        """``rows`` with token ids replaced by the frozen layers' states, kept until ``drop_frozen_states``.

        What is kept already is not computed again. Longest first, until all that is kept takes ``keep_bytes``.
        """
        found = [self.frozen_states.find(rows.prefix, ids) for ids in rows.parts]
        new = [row for row, states in enumerate(found) if states is None]
        missing = rows.take(new)
        for pack in missing.plan(token_budget):
            members = [row for group in pack for row in group]
            ids = [missing.parts[row] for row in members]
            states = self._states(missing.take(members))
            if not self.frozen_states.keep(rows.prefix, ids, states, keep_bytes):
                break
            for row, of_row in zip(members, states, strict=True):
                found[new[row]] = of_row
        parts = [ids if states is None else states for ids, states in zip(rows.parts, found, strict=True)]
        return Rows(rows.prefix, parts, rows.places)

    def _states(self, rows: Rows) -> list[Tensor]:
        """Token ids of all ``rows``, through the trunk at once: [tokens, hidden] each."""
        if not len(rows):
            return []
        if not self._stages.split:
            lengths = [len(part) for part in rows.parts]
            return list(self._stages.embed(torch.cat(list(rows.parts)).to(self._stages.device)).split(lengths))
        states: list[Tensor] = [torch.empty(0)] * len(rows)
        with torch.no_grad():
            for pack in rows.plan():
                groups = [[rows.parts[row] for row in group] for group in pack]
                past = self._known_trunk(rows.prefix).past if rows.prefix else None
                ids = torch.cat([pad_sequence(group, batch_first=True).flatten() for group in groups])
                distinct = None
                if self._share_tokens:
                    distinct = find_distinct_tokens(groups)
                    ids, distinct = ids[distinct.first], distinct.to(self._stages.device)
                packing = _packing(rows.prefix, groups, past, distinct=distinct)
                found = self._stages.trunk(ids.to(self._stages.device), packing)
                blocks = packing.pad_rows(found).split([count * width for count, width in packing.groups])
                for group, block in zip(pack, blocks, strict=True):
                    for row, part in zip(group, block.chunk(len(group)), strict=True):
                        states[row] = part[: len(rows.parts[row])].clone()
        return states

    def _prefix_states(self, prefix: tuple[int, ...]) -> Tensor:
        """What the trunk makes of the prefix [tokens, hidden]."""
        if self._stages.split:
            return self._known_trunk(prefix).states
        return self._stages.embed(torch.tensor(prefix, device=self._stages.device))

    @torch.no_grad()
    def _known_trunk(self, prefix: tuple[int, ...]) -> KnownPrefix:
        if prefix not in self._trunks:
            packing = Packing(len(prefix), [], kept={})
            states = self._stages.trunk(torch.tensor(prefix, device=self._stages.device), packing)
            self._trunks[prefix] = KnownPrefix(0, states, packing.kept)
        return self._trunks[prefix]

    @torch.no_grad()
    def _known_top(self, prefix: tuple[int, ...], reference: bool) -> KnownPrefix:
        version, known = self._model.version(reference), self._tops.get((prefix, reference))
        if known is None or known.version != version:
            packing = Packing(len(prefix), [], kept={})
            states = self._stages.top(self._prefix_states(prefix), packing)
            known = self._tops[prefix, reference] = KnownPrefix(version, states, packing.kept)
        return known


class PaddedReader:
    """Reads whole prompts as transformers would, for architectures whose attention or layers cannot be reached."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def read(self, rows: Rows, pack: Pack, reference: bool) -> Tensor:
        """Final states of the rows of ``pack``, in its order: [states, hidden]."""
        members = [row for group in pack for row in group]
        parts = [rows.parts[row] for row in members]
        # Padding with 0, which every model has an embedding for; a tokenizer's pad id may lie beyond them.
        ids = pad_sequence(parts, batch_first=True).to(self._model.device)
        if rows.places is None:
            return states_at(self._model, ids, [torch.tensor([len(part) - 1]) for part in parts])
        return states_at(self._model, ids, [rows.places[row] for row in members])


def states_at(model: PreTrainedModel, ids: Tensor, places: Sequence[Tensor]) -> Tensor:
    """States at the tokens ``places`` int64 [places] of each row of ids [rows, width], row by row: [states, hidden].

    Rows are padded on the right. No attention mask: a causal model's real tokens cannot see what is to their right.
    """
    states = model(input_ids=ids, use_cache=False).last_hidden_state
    return torch.cat([row[place.to(row.device)] for row, place in zip(states, places, strict=True)])


def _packing(
    prefix: Sequence[int],
    groups: Sequence[Sequence[Tensor]],
    past: KeysAndValues | None,
    places: Sequence[Sequence[Tensor]] | None = None,
    distinct: DistinctTokens | None = None,
) -> Packing:
    lengths = [[len(row) for row in group] for group in groups]
    return Packing(len(prefix), lengths, past, places=places, distinct=distinct)
