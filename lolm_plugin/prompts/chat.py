"""Prompts as a user's turn in the chat template of an instruction model."""

from dataclasses import replace
from typing import Any

import numpy as np
from jinja2 import TemplateError
from torch import Tensor

from lolm_plugin.errors import ConfigError
from lolm_plugin.prompts.style import Fragments, Writer
from lolm_plugin.prompts.template import FragmentTable, constant

MARKER = "PROMPT-GOES-HERE"


class ChatWriter(Writer):
    """Writer that puts another writer's prompts into a chat template.

    Instruction to actions are the user's turn. The cue begins the answer. The template's text before the turn becomes
    part of the shared ``prefix``. The text after it (end of turn, then the generation prompt) comes before the cue. The
    turn does not end in a newline, because some templates strip it.

    Args:
        writer: writes the prompts.
        tokenizer: has the chat template. It writes its own begin-of-text token if the model wants one.
        model: ``llm.model``, for the error.

    Raises:
        ConfigError: the tokenizer has no chat template, or a user's turn cannot be put into it.
    """

    adds_bos = False

    def __init__(self, writer: Writer, tokenizer: Any, model: str) -> None:
        before, self._after = _around(tokenizer, model)
        self.layout = writer.layout
        self.prefix = before + writer.prefix
        self.cue = self._after + writer.cue
        self._writer = writer

    def write(self, table: FragmentTable, obs: Tensor, available: Tensor, agent: Tensor) -> Fragments:
        """Write the same parts, with the template's text before the cue and no newline at the end of the turn."""
        prompts = self._writer.write(table, obs, available, agent)
        turn = prompts.parts["cue"].start
        fragments = prompts.fragments[:, :turn].copy()
        named = fragments > 0
        rows = np.flatnonzero(named.any(1))
        last = turn - 1 - named[rows, ::-1].argmax(1)
        fragments[rows, last] = table.without_newline(fragments[rows, last])
        # The cue is one fragment, because a tokenizer may join the end of the template's text with it.
        cue = table.fragments(constant(self.cue), len(fragments))
        parts = {**prompts.parts, "cue": slice(turn, turn + 1)}
        return replace(prompts, fragments=np.concatenate([fragments, cue], axis=1), parts=parts)

    def sample(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the samples of the other writer."""
        return self._writer.sample(rows)

    def fullest(self) -> list[str]:
        """Return the texts of the other writer, with the template's text before the cue."""
        cue = self._writer.cue
        return [text.removesuffix(cue).removesuffix("\n") + self.cue for text in self._writer.fullest()]


def _around(tokenizer: Any, model: str) -> tuple[str, str]:
    """Return the texts of the chat template before and after the user's content."""
    refused = f"prompt.chat=True cannot be used with llm.model={model}, whose"
    advice = "set prompt.chat=False, or llm.model to an instruction model."
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(f"{refused} tokenizer has no chat template; {advice}")
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": MARKER}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # Qwen3's templates read it, others ignore it
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise ConfigError(f"{refused} chat template refuses a single user's turn ({error}); {advice}") from error
    if text.count(MARKER) != 1:
        raise ConfigError(f"{refused} chat template repeats a user's turn {text.count(MARKER)} times; {advice}")
    before, after = text.split(MARKER)
    return before, after
