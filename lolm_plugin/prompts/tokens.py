"""From observations to token ids: writer and tokenizer put together."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from lolm_plugin.errors import ConfigError
from lolm_plugin.prompts.assembly import Assembler, TokenRows, keeps_cuts
from lolm_plugin.prompts.pieces import Pieces
from lolm_plugin.prompts.writer import Writer, Written


class Laid(NamedTuple):
    """Prompts as pieces int64 [rows, width], and the columns [units] between which the sentence of each unit lies."""

    pieces: np.ndarray
    begin: np.ndarray
    end: np.ndarray


class Prompter:
    """Turns what agents see into a shared ``prefix`` and one token sequence per row.

    A prompt is ``prefix + sequence``; it is never truncated: one that cannot fit is refused at the start.
    Its ids are put together from pieces tokenised before, in a hundredth of the time that whole texts take; unless the
    tokenizer could join two pieces, as ``whole_because`` then tells in a sentence.
    """

    def __init__(self, writer: Writer, tokenizer: Any) -> None:
        self.writer = writer
        self.layout = writer.layout
        self.tokenizer = tokenizer
        self._pieces = Pieces()
        self._assembler = Assembler(self._ids)
        self.whole_because = self._obstacle()
        self.prefix: list[int] = self._beginning() + self._ids([writer.beginning])[0]

    @property
    def assembles(self) -> bool:
        """Whether prompts are put together from pieces instead of tokenised as whole texts."""
        return not self.whole_because

    def encode(self, obs: Tensor, available: Tensor, agent: Tensor) -> list[list[int]]:
        """Token ids of each row's own part, to be read after ``prefix``."""
        return self.tokens(obs, available, agent).lists()

    def tokens(self, obs: Tensor, available: Tensor, agent: Tensor, targets: bool = False) -> TokenRows:
        """The same without Python lists: put together from known pieces, or else by tokenising the texts.

        ``targets`` asks where the sentences about available targets end.
        """
        written = self.writer.write(obs, available, agent)
        laid = self._lay(written, len(obs))
        if self.assembles:
            rows = self._assembler.rows(laid.pieces, self._pieces.texts)
        else:
            rows = TokenRows.of(self._ids(self._texts(laid.pieces)))
        ends = np.full((len(obs), self.layout.n_targets), -1)
        if targets and ends.size:
            offered = available[:, self.layout.n_base_actions :].cpu().numpy() > 0
            unit = np.where(offered, written.target, -1)
            ends = np.take_along_axis(np.pad(self._ends(laid), ((0, 0), (0, 1)), constant_values=-1), unit, axis=1)
        return replace(rows, targets=ends)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has."""
        return [len(ids) for ids in self._ids(list(texts))]

    @property
    def max_tokens(self) -> int:
        """Length of the longest prompt this map can need, with a small reserve."""
        return len(self.prefix) + max(self.count_tokens(self.writer.fullest())) + 8

    def check_fits(self, context_length: int, model: str) -> None:
        """Raise ConfigError if the longest prompt of this map is longer than the model can read."""
        if self.max_tokens > context_length:
            raise ConfigError(
                f"A prompt on map_name={self.layout.map_name} can have {self.max_tokens} tokens but "
                f"llm.model={model} reads at most {context_length}; set prompt.style=terse or an llm.model with a "
                "longer context."
            )

    def _lay(self, written: Written, rows: int) -> Laid:
        """Each row's own part as pieces, and where the sentences of units lie."""
        blocks, spans, column = [], [np.zeros((0, 2), np.int64)], 0
        for name, laid in written.blocks(self._pieces, rows).items():
            if name in written.units and laid[0].shape[1]:
                ends = column + np.arange(0, laid[0].shape[1] + 1, len(written.parts[name][0]))
                spans.append(np.stack([ends[:-1], ends[1:]], axis=1))
            blocks += laid
            column += sum(block.shape[1] for block in laid)
        span = np.concatenate(spans)
        return Laid(np.concatenate(blocks, axis=1), span[:, 0], span[:, 1])

    def _ends(self, laid: Laid) -> np.ndarray:
        """The last token of each unit's sentence, int64 [rows, units]; -1 for a unit that is not named."""
        before = np.pad((laid.pieces > 0).cumsum(1), ((0, 0), (1, 0)))
        if self.assembles:
            upto = self._assembler.lengths(laid.pieces, self._pieces.texts).cumsum(1)
            last = upto[:, laid.end - 1] - 1
        else:
            last = self._whole_ends(laid)
        return np.where(before[:, laid.end] > before[:, laid.begin], last, -1)

    def _whole_ends(self, laid: Laid) -> np.ndarray:
        """The same for texts that are tokenised whole: the token that the sentence's last letter is in."""
        if not getattr(self.tokenizer, "is_fast", False):
            raise ConfigError(
                "head.attack_keys=entity has to know where in a text a token lies, which this model's tokenizer does "
                "not tell: set head.attack_keys=shared, or llm.model to one with a fast tokenizer."
            )
        letters = np.array([len(text) for text in self._pieces.texts])[laid.pieces].cumsum(1)[:, laid.end - 1] - 1
        spans = self.tokenizer(
            self._texts(laid.pieces), add_special_tokens=False, verbose=False, return_offsets_mapping=True
        )["offset_mapping"]
        starts = [np.array([start for start, _ in row]) for row in spans]
        return np.stack([np.searchsorted(own, at, side="right") - 1 for own, at in zip(starts, letters, strict=True)])

    def _texts(self, pieces: np.ndarray) -> list[str]:
        return ["".join(self._pieces.split(row)) for row in pieces]

    def _obstacle(self) -> str:
        """Why whole texts have to be tokenised; empty if they can only have the ids of their pieces, and some do."""
        pieces = self._lay(self.writer.write(*self.writer.varied(rows=32)), rows=32).pieces
        whole = "Prompts are tokenised as whole texts, which takes longer"
        if not all(keeps_cuts(self.tokenizer, self._pieces.split(row)) for row in pieces):
            return f"{whole}: the tokenizer of this model can join words of two pieces."
        if self._assembler.rows(pieces, self._pieces.texts).lists() != self._ids(self._texts(pieces)):
            return f"{whole}: the tokenizer of this model reads pieces of a text otherwise than the text."
        return ""

    def _beginning(self) -> list[int]:
        """The begin-of-text token where the tokenizer puts one by itself; a chat template has its own."""
        bos = self.tokenizer.bos_token_id if self.writer.adds_bos else None
        return [bos] if bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos] else []

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
