"""From observations to token ids: layout, style and tokenizer put together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.layout import ObservationLayout
from lolm_plugin.prompts.assembly import Assembler, TokenRows, keeps_cuts
from lolm_plugin.prompts.columns import look
from lolm_plugin.prompts.pieces import Pieces
from lolm_plugin.prompts.samples import varied_views
from lolm_plugin.prompts.scene import Scene, fullest_scenes, scenes
from lolm_plugin.prompts.template import PromptStyle


class Prompter:
    """Turns what agents see into a shared ``prefix`` and one token sequence per row.

    A prompt is ``prefix + sequence``; it is never truncated: one that cannot fit is refused at the start.
    Its ids are put together from pieces tokenised before, in a hundredth of the time that whole texts take; unless the
    tokenizer could join two pieces, as ``whole_because`` then tells in a sentence.
    """

    def __init__(self, layout: ObservationLayout, style: PromptStyle, tokenizer: Any, dynamic: bool) -> None:
        self.layout = layout
        self.style = style
        self.tokenizer = tokenizer
        self.dynamic = dynamic
        self._pieces = Pieces()
        self._assembler = Assembler(self._ids)
        self.whole_because = self._obstacle()
        self.prefix: list[int] = self._beginning() + self._ids([style.instruction + style.goal])[0]

    @property
    def assembles(self) -> bool:
        """Whether prompts are put together from pieces instead of tokenised as whole texts."""
        return not self.whole_because

    def scenes(self, obs: Tensor, available: Tensor, agent: Tensor) -> list[Scene]:
        """What each row sees: obs [rows, obs_size], available [rows, n_actions], agent [rows]."""
        return scenes(self.layout, obs, available, agent, self.dynamic)

    def encode(self, obs: Tensor, available: Tensor, agent: Tensor) -> list[list[int]]:
        """Token ids of each row's own part, to be read after ``prefix``."""
        return self.tokens(obs, available, agent).lists()

    def tokens(self, obs: Tensor, available: Tensor, agent: Tensor) -> TokenRows:
        """The same without Python lists: put together from known pieces, or else by tokenising the texts."""
        pieces = self._lay(obs, available, agent)
        if self.assembles:
            return self._assembler.rows(pieces, self._pieces.texts)
        return TokenRows.of(self._ids(self._texts(pieces)))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has."""
        return [len(ids) for ids in self._ids(list(texts))]

    @property
    def max_tokens(self) -> int:
        """Length of the longest prompt this map can need, with a small reserve."""
        candidates = fullest_scenes(self.layout, self.dynamic)
        longest = max(self.count_tokens([self.style.describe(scene).text for scene in candidates]))
        return len(self.prefix) + longest + 8

    def check_fits(self, context_length: int, model: str) -> None:
        """Raise ConfigError if the longest prompt of this map is longer than the model can read."""
        if self.max_tokens > context_length:
            raise ConfigError(
                f"A prompt on map_name={self.layout.map_name} can have {self.max_tokens} tokens but "
                f"llm.model={model} reads at most {context_length}; set prompt.style=compact or an llm.model with a "
                "longer context."
            )

    def _lay(self, obs: Tensor, available: Tensor, agent: Tensor) -> np.ndarray:
        """Each row's own part as pieces, int64 [rows, width]."""
        parts = self.style.phrases(look(self.layout, obs, available, agent, self.dynamic))
        return self._pieces.lay([phrase for part in parts for phrase in part], len(obs))

    def _texts(self, pieces: np.ndarray) -> list[str]:
        return ["".join(self._pieces.split(row)) for row in pieces]

    def _obstacle(self) -> str:
        """Why whole texts have to be tokenised; empty if they can only have the ids of their pieces, and some do."""
        pieces = self._lay(*varied_views(self.layout, rows=32))
        whole = "Prompts are tokenised as whole texts, which takes longer"
        if not all(keeps_cuts(self.tokenizer, self._pieces.split(row)) for row in pieces):
            return f"{whole}: the tokenizer of this model can join words of two pieces."
        if self._assembler.rows(pieces, self._pieces.texts).lists() != self._ids(self._texts(pieces)):
            return f"{whole}: the tokenizer of this model reads pieces of a text otherwise than the text."
        return ""

    def _beginning(self) -> list[int]:
        """The begin-of-text token where the tokenizer puts one by itself."""
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos] else []

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
