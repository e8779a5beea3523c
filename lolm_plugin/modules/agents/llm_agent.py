"""The language-model policy: prompt tokens in, action logits out."""

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lolm_plugin.llm.backbone import Backbone
from lolm_plugin.llm.reader import Rows
from lolm_plugin.llm.sources import seeded
from lolm_plugin.modules.heads.attention_action_head import AttentionActionHead
from lolm_plugin.prompts.tokens import Prompter
from lolm_plugin.randomness import keyed_seeds


class LLMAgent(nn.Module):
    """A causal LM, with LoRA or trained in full, under an attention action head, shared by all agents.

    ``usage`` counts rows, tokens and seconds spent in the LM since ``take_usage`` was last called.
    """

    def __init__(self, prompter: Prompter, backbone: Backbone, head: Mapping[str, Any], seed: int) -> None:
        super().__init__()
        self.prompter = prompter
        self.backbone = backbone
        self.n_targets = prompter.layout.n_targets
        with seeded(int(keyed_seeds(seed, "head", count=1)[0])):
            self.head = AttentionActionHead(backbone.hidden_size, head["init_std"])
        self.usage = {"rows": 0, "tokens": 0, "seconds": 0.0}

    def hidden(self, prompts: Rows, reference: bool = False, token_budget: int | None = None) -> Tensor:
        """Last hidden state of each prompt: [rows, hidden]; ``reference`` is the LM as it was at the start, frozen."""
        started = time.perf_counter()
        hidden = self.backbone.read(prompts, reference, token_budget)
        self.usage["rows"] += len(prompts)
        self.usage["tokens"] += sum(map(len, prompts.parts)) + len(prompts) * len(prompts.prefix)
        self.usage["seconds"] += time.perf_counter() - started
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [rows, hidden] -> logits [rows, n_actions], unavailable actions not yet masked."""
        return self.head(hidden, self.n_targets)

    def take_usage(self) -> dict[str, float]:
        """What was counted since the last call."""
        usage, self.usage = self.usage, {"rows": 0, "tokens": 0, "seconds": 0.0}
        return usage
