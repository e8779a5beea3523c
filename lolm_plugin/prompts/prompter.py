"""Conversion of observations to token ids: each text fragment is tokenised once, then prompts are assembled."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from torch import Tensor

from lolm_plugin.errors import ConfigError
from lolm_plugin.prompts.style import Fragments, Writer
from lolm_plugin.prompts.template import FragmentTable

Tokenize = Callable[[list[str]], list[list[int]]]


@dataclass(frozen=True)
class TokenBatch:
    """Token sequences of different lengths, concatenated: ``ids`` int64 [tokens], ``lengths`` int64 [rows].

    ``targets`` int64 [rows, n_targets] is the index in the row's sequence of the last token of the sentence about each
    target. It is -1 if there is no such sentence, or if it was not requested.
    """

    ids: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    @staticmethod
    def of(sequences: Sequence[Sequence[int]]) -> "TokenBatch":
        """Build a batch from one list of ids per row."""
        flat = [token for sequence in sequences for token in sequence]
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        return TokenBatch(np.array(flat, np.int64), lengths, np.zeros((len(lengths), 0), np.int64))

    def distinct(self) -> tuple["TokenBatch", np.ndarray]:
        """Return the distinct sequences in order of appearance, and the index of each row's sequence, int64 [rows].

        Equal sequences with different ``targets`` are distinct.
        """
        ends = self.lengths.cumsum()
        rows = [self.ids[start:end] for start, end in zip(ends - self.lengths, ends, strict=True)]
        keys = (row.tobytes() + about.tobytes() for row, about in zip(rows, self.targets, strict=True))
        numbers: dict[bytes, int] = {}
        number = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
        _, first = np.unique(number, return_index=True)
        ids = np.concatenate([self.ids[:0], *(rows[i] for i in first)])
        return TokenBatch(ids, self.lengths[first], self.targets[first]), number

    def lists(self) -> list[list[int]]:
        """Return one list of ids per row."""
        ids, ends = self.ids.tolist(), self.lengths.cumsum().tolist()
        return [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]


class TokenTable(FragmentTable):
    """A fragment table with the token ids of every fragment.

    Joined ids are those of the whole text if the tokenizer never merges the end of a fragment with the beginning of the
    next (``keeps_cuts``). Most tokenizers first split a text into words, signs, and digits or numbers. Fragments end at
    such splits.
    """

    def __init__(self, tokenize: Tokenize) -> None:
        super().__init__()
        self._tokenize = tokenize
        self._ids = np.zeros(0, np.int64)  # of all fragments, concatenated
        self._lengths = np.zeros(0, np.int64)
        self._starts = np.zeros(0, np.int64)

    def lengths(self, fragments: np.ndarray) -> np.ndarray:
        """Return the number of tokens of each fragment [...], int64 [...]."""
        self._tokenize_new()
        return self._lengths[fragments]

    def tokens(self, fragments: np.ndarray) -> TokenBatch:
        """Return the token ids of prompts as fragments int64 [rows, width]."""
        self._tokenize_new()
        flat = fragments[fragments > 0]
        lengths = self._lengths[flat]
        # A token's index in _ids is its index in the result plus the shift of its fragment.
        shift = self._starts[flat] - (lengths.cumsum() - lengths)
        ids = self._ids[np.arange(lengths.sum()) + shift.repeat(lengths)]
        return TokenBatch(ids, self._lengths[fragments].sum(1), np.zeros((len(fragments), 0), np.int64))

    def _tokenize_new(self) -> None:
        """Tokenise the fragments that are new since the last call."""
        if texts := self.texts[len(self._lengths) :]:
            new = TokenBatch.of(self._tokenize(texts))
            self._ids = np.concatenate([self._ids, new.ids])
            self._lengths = np.concatenate([self._lengths, new.lengths])
            self._starts = self._lengths.cumsum() - self._lengths


class Prompter:
    """Converter from observations to a shared ``prefix`` and one token sequence per row.

    A prompt is ``prefix + sequence``. It is never truncated: a prompt that cannot fit is refused at the start. Its ids
    are assembled from tokenised fragments, in a hundredth of the time of tokenising whole texts. If the tokenizer could
    join two fragments, whole texts are tokenised, and ``whole_text_reason`` says why.
    """

    def __init__(self, writer: Writer, tokenizer: Any) -> None:
        self.writer = writer
        self.layout = writer.layout
        self.tokenizer = tokenizer
        self._table = TokenTable(self._ids)
        self.whole_text_reason = self._obstacle()
        self.prefix: list[int] = self._begin_token() + self._ids([writer.prefix])[0]

    @property
    def assembles(self) -> bool:
        """Return True if prompts are assembled from fragments instead of tokenised as whole texts."""
        return not self.whole_text_reason

    def encode(self, obs: Tensor, available: Tensor, agent: Tensor) -> list[list[int]]:
        """Return the token ids of each row that follow ``prefix``."""
        return self.tokens(obs, available, agent).lists()

    def tokens(self, obs: Tensor, available: Tensor, agent: Tensor, targets: bool = False) -> TokenBatch:
        """Return the ids of ``encode`` as arrays; ``targets`` adds where sentences about available targets end."""
        prompts = self.writer.write(self._table, obs, available, agent)
        if self.assembles:
            tokens = self._table.tokens(prompts.fragments)
        else:
            tokens = TokenBatch.of(self._ids(self._texts(prompts.fragments)))
        ends = np.full((len(obs), self.layout.n_targets), -1)
        if targets and ends.size:
            offered = available[:, self.layout.n_base_actions :].cpu().numpy() > 0
            unit = np.where(offered, prompts.target, -1)
            ends = np.take_along_axis(np.pad(self._ends(prompts), ((0, 0), (0, 1)), constant_values=-1), unit, axis=1)
        return replace(tokens, targets=ends)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text."""
        return [len(ids) for ids in self._ids(list(texts))]

    @property
    def max_tokens(self) -> int:
        """Number of tokens of the longest prompt on this map, plus a reserve of 8."""
        return len(self.prefix) + max(self.count_tokens(self.writer.fullest())) + 8

    def check_fits(self, context_length: int, model: str) -> None:
        """Raise ConfigError if the longest prompt on this map is longer than the model's context."""
        if self.max_tokens > context_length:
            raise ConfigError(
                f"A prompt on map_name={self.layout.map_name} can have {self.max_tokens} tokens but "
                f"llm.model={model} reads at most {context_length}; set prompt.style=terse or an llm.model with a "
                "longer context."
            )

    def _ends(self, prompts: Fragments) -> np.ndarray:
        """Return the last token of each unit's sentence, int64 [rows, units]; -1 for a unit that is not named."""
        begin, end = prompts.units.T
        before = np.pad((prompts.fragments > 0).cumsum(1), ((0, 0), (1, 0)))
        if self.assembles:
            last = self._table.lengths(prompts.fragments).cumsum(1)[:, end - 1] - 1
        else:
            last = self._whole_ends(prompts.fragments, end)
        return np.where(before[:, end] > before[:, begin], last, -1)

    def _whole_ends(self, fragments: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Return the same for texts that are tokenised whole: the token with the last letter of the sentence."""
        if not getattr(self.tokenizer, "is_fast", False):
            raise ConfigError(
                "head.attack_keys=entity needs the position of each token in the text, but this model's tokenizer does "
                "not return it; set head.attack_keys=shared, or llm.model to a model with a fast tokenizer."
            )
        letters = np.array([len(text) for text in self._table.texts])[fragments].cumsum(1)[:, end - 1] - 1
        spans = self.tokenizer(
            self._texts(fragments), add_special_tokens=False, verbose=False, return_offsets_mapping=True
        )["offset_mapping"]
        starts = [np.array([start for start, _ in row]) for row in spans]
        return np.stack([np.searchsorted(own, at, side="right") - 1 for own, at in zip(starts, letters, strict=True)])

    def _texts(self, fragments: np.ndarray) -> list[str]:
        return ["".join(self._table.split(row)) for row in fragments]

    def _obstacle(self) -> str:
        """Return why whole texts have to be tokenised; empty if they always have the ids of their fragments."""
        fragments = self.writer.write(self._table, *self.writer.sample(rows=32)).fragments
        whole = "Prompts are tokenised as whole texts, which takes longer"
        if not all(keeps_cuts(self.tokenizer, self._table.split(row)) for row in fragments):
            return f"{whole}: the tokenizer of this model can join words of two fragments."
        if self._table.tokens(fragments).lists() != self._ids(self._texts(fragments)):
            return f"{whole}: the tokenizer of this model reads fragments differently from the whole text."
        return ""

    def _begin_token(self) -> list[int]:
        """Return the begin-of-text token if the tokenizer adds one by itself. A chat template has its own."""
        bos = self.tokenizer.bos_token_id if self.writer.adds_bos else None
        return [bos] if bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos] else []

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def keeps_cuts(tokenizer: Any, fragments: Sequence[str]) -> bool:
    """Return True if a tokenizer splits the joined text at every cut between fragments before it forms tokens.

    No token reaches over such a split. If a tokenizer does not split texts first, or does not show where, the result is
    False: no sample of texts can prove that it never joins two fragments. Added tokens, such as those of a chat
    template, are cut out of the text first.
    """
    splits = getattr(getattr(tokenizer, "backend_tokenizer", None), "pre_tokenizer", None)
    if splits is None:
        return False
    text = "".join(fragments)
    added = [match.span() for match in re.finditer(_any_of(tokenizer.added_tokens_decoder.values()), text)]
    ends = [0, *(end for _, end in added)]
    between = zip(ends, [*(start for start, _ in added), len(text)], strict=True)
    spans = [
        (begin + start, begin + end)
        for begin, stop in between
        for _, (start, end) in splits.pre_tokenize_str(text[begin:stop])
    ]
    inside = {index for start, end in (*spans, *added) for index in range(start + 1, end)}
    return inside.isdisjoint(accumulate(map(len, fragments)))


def _any_of(added: Iterable[Any]) -> str:
    """Return a pattern of all added tokens, the longest first, with the spaces that they absorb."""
    tokens = sorted((token for token in added if token.content), key=lambda token: -len(token.content))
    each = [r"\s*" * token.lstrip + re.escape(token.content) + r"\s*" * token.rstrip for token in tokens]
    return "|".join(each) or r"(?!)"  # which matches nothing
