"""Every text that was ever used in a prompt, once, and prompts as rows of their numbers."""

import math
from collections.abc import Sequence

import numpy as np

from lolm_plugin.prompts.phrases import Column, Phrase


class Pieces:
    """Texts as they come up, ``texts[0]`` being none; made of columns and values, from which they are found again."""

    def __init__(self) -> None:
        self.texts: list[str] = [""]
        self._shorter: dict[int, int] = {}  # piece -> the piece without its newline
        self._places: dict[Column, np.ndarray] = {}  # column -> piece by value, -1 where it never came up

    def lay(self, phrases: Sequence[Phrase], rows: int) -> np.ndarray:
        """Phrases of [rows] or [rows, units], one after the other, as pieces int64 [rows, width]."""
        return np.concatenate(self.blocks(phrases, rows), axis=1)

    def blocks(self, phrases: Sequence[Phrase], rows: int) -> list[np.ndarray]:
        """The pieces of each phrase, int64 [rows, width]: all of its first unit, then all of the second, and so on."""
        return [self._lay(phrase, rows) for phrase in phrases]

    def split(self, row: np.ndarray) -> list[str]:
        """The texts of one row of pieces [width], to be read one after the other."""
        return [self.texts[piece] for piece in row[row > 0].tolist()]

    def without_newline(self, pieces: np.ndarray) -> np.ndarray:
        """The pieces [...] whose texts are those of ``pieces`` without a newline at the end."""
        for piece in np.unique(pieces).tolist():
            text = self.texts[piece].removesuffix("\n")
            if piece not in self._shorter:
                self._shorter[piece] = piece if text == self.texts[piece] else len(self.texts) if text else 0
                if self._shorter[piece] == len(self.texts):
                    self.texts.append(text)
        return np.array([self._shorter[piece] for piece in pieces.flat], np.int64).reshape(pieces.shape)

    def _lay(self, phrase: Phrase, rows: int) -> np.ndarray:
        """All columns of the first unit, then all of the second, and so on: [rows, units * columns]."""
        if not phrase:
            return np.zeros((rows, 0), np.int64)
        found = np.broadcast_arrays(*(self._find(column, np.asarray(value)) for column, value in phrase))
        columns = np.stack(found, -1)
        if columns.ndim == 1:  # words without any slot: the same in all rows
            return np.broadcast_to(columns, (rows, len(columns)))
        return columns.reshape(rows, math.prod(columns.shape[1:]))

    def _find(self, column: Column, value: np.ndarray) -> np.ndarray:
        """The piece of each value [...]."""
        places = self._places.get(column, np.zeros(1, np.int64))
        top = value.max(initial=0)
        if top >= len(places):
            places = np.concatenate([places, np.full(top + 1 - len(places), -1)])
            self._places[column] = places
        pieces = places[value]
        if pieces.min(initial=0) < 0:
            for new in np.unique(value[pieces < 0]).tolist():
                places[new] = len(self.texts)
                self.texts.append(column.text(new))
            pieces = places[value]
        return pieces
