"""The plain port's prompts: an f-string for every agent and a call of the tokenizer for every step."""

from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.fstrings import describer
from benchmarks.plain_scene import scenes
from lolm_plugin.llm.sources import resolve
from lolm_plugin.observations import build_layouts
from lolm_plugin.prompts.style import build_style


class PlainPrompts:
    """Whole prompts of all agents of all episodes at one step: the dead have one, and so has padding."""

    def __init__(self, args: SimpleNamespace) -> None:
        layouts = build_layouts(args.env, args.env_args, args.n_agents, args.n_actions, args.layout)
        self.layout = layouts.observation
        self.style = build_style(args.prompt["style"])
        self.describe = describer(args.prompt["style"], self.style)
        self.dynamic = args.prompt["dynamic"]
        self.tokenizer = resolve(args.llm["model"]).load_tokenizer()
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def texts(self, batch: Any, t: int) -> list[str]:
        """One text for every episode and agent, in this order."""
        obs = batch["obs"][:, t].flatten(0, 1)
        available = batch["avail_actions"][:, t].flatten(0, 1) > 0
        agents = torch.arange(self.layout.n_agents).repeat(batch.batch_size)
        beginning = f"{self.style.instruction}{self.style.goal}"
        seen = scenes(self.layout, obs, available, agents, self.dynamic)
        return [f"{beginning}{self.describe(scene)}" for scene in seen]

    def tokens(self, batch: Any, t: int) -> dict[str, torch.Tensor]:
        """``input_ids`` and ``attention_mask`` int64 [episodes × agents, longest], padded on the right."""
        padding = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
        encoded = self.tokenizer(self.texts(batch, t), return_token_type_ids=False, verbose=False, **padding)
        return {name: encoded[name].to(batch["obs"].device) for name in ("input_ids", "attention_mask")}

    def padded_tokens(self, batch: Any) -> int:
        """What one pass over all steps costs."""
        return sum(self.tokens(batch, t)["input_ids"].numel() for t in range(batch.max_seq_length - 1))
