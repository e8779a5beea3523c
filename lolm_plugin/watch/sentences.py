"""Prompts as short texts: each sentence's form is stored once, and a prompt is a list of forms and numbers."""

import re
from collections.abc import Callable

import numpy as np
from torch import Tensor

from lolm_plugin.prompts.style import Fragments, Writer
from lolm_plugin.prompts.template import FragmentTable

NUMBER = re.compile(r"(-?\d+\.\d+)")


class Sentences:
    """Encoder of prompts for ``record.Record``; collects ``forms`` and ``about``."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.forms: list[list[str]] = []
        self.about: list[int] = []
        self._numbers: dict[tuple[int, tuple[str, ...]], int] = {}
        self._known: dict[tuple[int, str], str] = {}

    def encode(self, obs: Tensor, available: Tensor, agent: Tensor, column: Callable[[int, int], int]) -> list[str]:
        """Encode the prompts of obs [rows, obs_size], available [rows, n_actions] and agent [rows].

        ``column(agent, entity)`` returns the unit of the record that an entity of an agent's observation is.
        """
        table = FragmentTable()
        prompts = self.writer.write(table, obs, available, agent)
        spans = _spans(prompts)
        texts = np.array([*table.texts], dtype=object)
        encoded = []
        for row, number in zip(prompts.fragments, agent.tolist(), strict=True):
            words = []
            for begin, end, entity in spans:
                part = row[begin:end]
                if text := "".join(texts[part[part > 0]]):
                    words += self._sentences(text, column(number, entity) if entity >= 0 else -1)
            encoded.append("|".join(words))
        return encoded

    def _sentences(self, text: str, about: int) -> list[str]:
        """Encode the lines of a text. Only the last is about the unit: a style may begin with a heading."""
        *headings, last = text.splitlines(keepends=True)
        return [*(self._sentence(line, -1) for line in headings), self._sentence(last, about)]

    def _sentence(self, text: str, about: int) -> str:
        if (known := self._known.get((about, text))) is not None:
            return known
        parts = NUMBER.split(text)
        pieces = tuple(parts[::2])
        number = self._numbers.setdefault((about, pieces), len(self.forms))
        if number == len(self.forms):
            self.forms.append(list(pieces))
            self.about.append(about)
        self._known[about, text] = " ".join([str(number), *parts[1::2]])
        return self._known[about, text]


def _spans(prompts: Fragments) -> list[tuple[int, int, int]]:
    """Return (first column, column after the last, entity or -1) of each sentence, in the order of the columns."""
    units = {int(begin): (int(end), entity) for entity, (begin, end) in enumerate(prompts.units)}
    cuts = sorted({*(part.start for part in prompts.parts.values()), *units, *(end for end, _ in units.values())})
    width = prompts.fragments.shape[1]
    spans = []
    for begin, end in zip(cuts, [*cuts[1:], width], strict=True):
        if begin < end:
            entity = units[begin][1] if begin in units and units[begin][0] == end else -1
            spans.append((begin, end, entity))
    return spans
