"""From observations to token ids: layout, style and tokenizer put together."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.layout import ObservationLayout
from lolm_plugin.prompts.scene import Scene, fullest_scenes, scenes
from lolm_plugin.prompts.template import PromptStyle


class Prompter:
    """Turns what agents see into a shared ``prefix`` and one token sequence per row.

    A prompt is ``prefix + sequence``; it is never truncated: one that cannot fit is refused at the start.
    """

    def __init__(self, layout: ObservationLayout, style: PromptStyle, tokenizer: Any, dynamic: bool) -> None:
        self.layout = layout
        self.style = style
        self.tokenizer = tokenizer
        self.dynamic = dynamic
        self.prefix: list[int] = self._beginning() + self._ids([style.instruction + style.goal])[0]

    def scenes(self, obs: Tensor, available: Tensor, agent: Tensor) -> list[Scene]:
        """What each row sees: obs [rows, obs_size], available [rows, n_actions], agent [rows]."""
        return scenes(self.layout, obs, available, agent, self.dynamic)

    def encode(self, obs: Tensor, available: Tensor, agent: Tensor) -> list[list[int]]:
        """Token ids of each row's own part, to be read after ``prefix``."""
        return self._ids([self.style.describe(scene).text for scene in self.scenes(obs, available, agent)])

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

    def _beginning(self) -> list[int]:
        """The begin-of-text token where the tokenizer puts one by itself."""
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos] else []

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
