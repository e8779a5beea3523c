"""Prompts as token ids without tokenising them: every piece is tokenised once, prompts are gathered from these."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

Tokenize = Callable[[list[str]], list[list[int]]]


@dataclass(frozen=True)
class TokenRows:
    """Token sequences of different lengths end to end: ``ids`` int64 [tokens], ``lengths`` int64 [rows].

    ``targets`` int64 [rows, n_targets] is the token of a row that ends the sentence about each target; -1: there is no
    such sentence, or nobody asks.
    """

    ids: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    @staticmethod
    def of(sequences: Sequence[Sequence[int]]) -> "TokenRows":
        """From one list of ids per row."""
        flat = [token for sequence in sequences for token in sequence]
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        return TokenRows(np.array(flat, np.int64), lengths, np.zeros((len(lengths), 0), np.int64))

    def distinct(self) -> tuple["TokenRows", np.ndarray]:
        """The different rows as they first appear, and for each row which of them it is, int64 [rows].

        Rows are different, too, where the same words are about other targets.
        """
        ends = self.lengths.cumsum()
        rows = [self.ids[start:end] for start, end in zip(ends - self.lengths, ends, strict=True)]
        keys = (row.tobytes() + about.tobytes() for row, about in zip(rows, self.targets, strict=True))
        places: dict[bytes, int] = {}
        place = np.array([places.setdefault(key, len(places)) for key in keys], np.int64)
        _, first = np.unique(place, return_index=True)
        ids = np.concatenate([self.ids[:0], *(rows[i] for i in first)])
        return TokenRows(ids, self.lengths[first], self.targets[first]), place

    def lists(self) -> list[list[int]]:
        """One list of ids per row."""
        ids, ends = self.ids.tolist(), self.lengths.cumsum().tolist()
        return [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]


class Assembler:
    """Token ids of pieces (see ``Pieces``), and prompts put together from them.

    That is the same as tokenising the text where the tokenizer never merges the end of a piece with the beginning of
    the next (``keeps_cuts``): most split a text into words, signs and digits or numbers before all else, and pieces
    end where such a one does.
    """

    def __init__(self, tokenize: Tokenize) -> None:
        self._tokenize = tokenize
        self._ids = np.zeros(0, np.int64)  # of all pieces, end to end
        self._lengths = np.zeros(0, np.int64)
        self._starts = np.zeros(0, np.int64)

    def lengths(self, pieces: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """How many tokens each of the pieces [...] has, int64 [...]."""
        self._learn(texts[len(self._lengths) :])
        return self._lengths[pieces]

    def rows(self, pieces: np.ndarray, texts: Sequence[str]) -> TokenRows:
        """Prompts as pieces int64 [rows, width], and the text of every piece -> their token ids."""
        self._learn(texts[len(self._lengths) :])
        flat = pieces[pieces > 0]
        lengths = self._lengths[flat]
        # Where each token lies: its place in the result, moved by how far its piece lies from where it goes.
        shift = self._starts[flat] - (lengths.cumsum() - lengths)
        ids = self._ids[np.arange(lengths.sum()) + shift.repeat(lengths)]
        return TokenRows(ids, self._lengths[pieces].sum(1), np.zeros((len(pieces), 0), np.int64))

    def _learn(self, texts: Sequence[str]) -> None:
        """Tokenise the pieces that came up since the last time."""
        if texts:
            new = TokenRows.of(self._tokenize(list(texts)))
            self._ids = np.concatenate([self._ids, new.ids])
            self._lengths = np.concatenate([self._lengths, new.lengths])
            self._starts = self._lengths.cumsum() - self._lengths


def keeps_cuts(tokenizer: Any, pieces: Sequence[str]) -> bool:
    """Whether a tokenizer splits the joined text at every cut between pieces before it looks for tokens.

    No token reaches over such a split. Of a tokenizer that does not split texts first, or will not tell where, a
    sample of texts cannot show that it never joins two pieces. Added tokens, such as those of a chat template, are cut
    out of the text before all else.
    """
    splits = getattr(getattr(tokenizer, "backend_tokenizer", None), "pre_tokenizer", None)
    if splits is None:
        return False
    text = "".join(pieces)
    added = [match.span() for match in re.finditer(_any_of(tokenizer.added_tokens_decoder.values()), text)]
    ends = [0, *(end for _, end in added)]
    between = zip(ends, [*(start for start, _ in added), len(text)], strict=True)
    spans = [
        (begin + start, begin + end)
        for begin, stop in between
        for _, (start, end) in splits.pre_tokenize_str(text[begin:stop])
    ]
    inside = {place for start, end in (*spans, *added) for place in range(start + 1, end)}
    return inside.isdisjoint(accumulate(map(len, pieces)))


def _any_of(added: Iterable[Any]) -> str:
    """A pattern of all added tokens, the longest first, with the spaces that they take in."""
    tokens = sorted((token for token in added if token.content), key=lambda token: -len(token.content))
    each = [r"\s*" * token.lstrip + re.escape(token.content) + r"\s*" * token.rstrip for token in tokens]
    return "|".join(each) or r"(?!)"  # which matches nothing
