"""The language-model policy: observations -> prompts -> hidden states -> action logits."""

import copy
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm.model import Backbone
from lolm_plugin.llm.prompt_batch import HiddenStates, PromptBatch
from lolm_plugin.llm.sources import seeded
from lolm_plugin.modules.heads import build_head
from lolm_plugin.prompts.prompter import Prompter
from lolm_plugin.randomness import keyed_seeds

# Made-up observations for the first feature statistics. More only delay the start, because collected battles soon
# replace them. Fewer give noisier deviations.
FEATURE_VIEWS = 64
FEATURE_TOKENS = 2048  # that run at once for them; at 4096 they, not training, set lolm_mappo_smol's peak memory


class LLMAgent(nn.Module):
    """Policy of all agents: a causal LM, with LoRA or trained in full, and an attention action head.

    ``initial_head`` is a frozen copy of the head before training, if ``keep_initial_head`` is set. ``usage`` counts the
    ``prompts``, ``tokens`` and ``seconds`` of the LM since the last ``pop_usage``.
    """

    def __init__(
        self,
        prompter: Prompter,
        backbone: Backbone,
        head: Mapping[str, Any],
        seed: int,
        keep_initial_head: bool = False,
    ) -> None:
        super().__init__()
        self.prompter = prompter
        self.backbone = backbone
        self.n_targets = prompter.layout.n_targets
        self.reads_targets = head["attack_keys"] == "entity"
        self.reads_mean = head["read"] == "mean"
        if self.reads_mean and not backbone.encoder.packed:
            raise ConfigError(
                "head.read=mean needs the states of a packed model, but this llm.model runs padded; set head.read=last."
            )
        with seeded(int(keyed_seeds(seed, "head", count=1)[0])):
            self.head = build_head(backbone.hidden_size, head, prompter.layout.n_base_actions)
        if head["keys"] == "words":
            self.head.start_from(self._word_states(), head["word_scale"])
        self.initial_head = None
        if keep_initial_head:
            self.initial_head = copy.deepcopy(self.head).requires_grad_(False)
            self.initial_head.share_statistics(self.head)
        self.usage = {"prompts": 0, "tokens": 0, "seconds": 0.0}

    def for_prompter(self, prompter: Prompter) -> "LLMAgent":
        """Return the same policy with another map's prompter: both have the same modules."""
        other = copy.copy(self)
        other.prompter, other.n_targets = prompter, prompter.layout.n_targets
        other.usage = {"prompts": 0, "tokens": 0, "seconds": 0.0}
        return other

    def prompts(self, obs: Tensor, available: Tensor, agent: Tensor) -> tuple[PromptBatch, Tensor]:
        """Write the distinct prompts of some decisions.

        Args:
            obs: [decisions, obs_size].
            available: [decisions, n_actions].
            agent: int64 [decisions], id of the deciding agent.

        Returns:
            The prompts, and the index of each decision's prompt, int64 [decisions].
        """
        tokens, prompt = self.prompter.tokens(obs, available, agent, self.reads_targets).distinct()
        sequences = torch.from_numpy(tokens.ids).split(tokens.lengths.tolist())
        ends = torch.from_numpy(tokens.targets)
        named, read_positions = ends >= 0, None
        if self.reads_targets:
            last = torch.from_numpy(tokens.lengths - 1).split(1)
            read_positions = [torch.cat([end, of[has]]) for end, of, has in zip(last, ends, named, strict=True)]
        targets = torch.where(named, named.cumsum(1), -1).to(self.backbone.device)
        batch = self.backbone.prompt_batch(self.prompter.prefix, sequences, read_positions, targets)
        return batch, torch.from_numpy(prompt).to(self.backbone.device)

    def precompute(self, batch: PromptBatch, keep_bytes: float, token_budget: int | None = None) -> PromptBatch:
        """Add the states after the frozen layers for as many prompts as fit into ``keep_bytes``."""
        started = time.perf_counter()
        batch = self.backbone.precompute_frozen_layers(batch, keep_bytes, token_budget)
        self.usage["seconds"] += time.perf_counter() - started
        return batch

    def read(self, batch: PromptBatch, reference: bool = False, token_budget: int | None = None) -> HiddenStates:
        """Compute the hidden states of prompts. ``reference``: with the frozen LM before training."""
        started = time.perf_counter()
        states = self.backbone.encode(batch, reference, token_budget, add_mean=self.reads_mean)
        self.usage["prompts"] += len(batch)
        self.usage["tokens"] += batch.tokens
        self.usage["seconds"] += time.perf_counter() - started
        return HiddenStates.of(batch, states)

    def logits(self, states: HiddenStates, initial_head: bool = False) -> Tensor:
        """Compute logits [prompts, n_actions]. Unavailable actions are not masked.

        ``initial_head``: use the head before training.
        """
        if self.head.needs_statistics:
            self.measure_features()
        head = self.initial_head if initial_head else self.head
        assert head is not None, "initial_head needs keep_initial_head=True"
        return head(states.last_states, self.n_targets, states.states, states.targets)

    @torch.no_grad()
    def _word_states(self) -> Tensor:
        """Compute the frozen model's states of the words of base actions and attack: [n_base + 1, hidden]."""
        layout = self.prompter.layout
        names = [*layout.action_names(0)[: layout.n_base_actions], "attack"]
        ids = self.prompter.tokenizer([f" {name}" for name in names], add_special_tokens=False)["input_ids"]
        words = self.backbone.prompt_batch((), ids)
        return self.backbone.encode(words, self.backbone.has_reference, add_mean=self.reads_mean)

    @torch.no_grad()
    def measure_features(self) -> None:
        """Measure the feature statistics on made-up observations of the task.

        The first test and the first battles use them. ``measure_collected`` replaces them before the first update.
        """
        batch, _ = self.prompts(*self.prompter.writer.sample(FEATURE_VIEWS))
        states = self.backbone.encode(batch, self.backbone.has_reference, FEATURE_TOKENS, add_mean=self.reads_mean)
        read = HiddenStates.of(batch, states)
        self.head.measure(read.last_states, read.sentence_states)

    @torch.no_grad()
    def measure_collected(self, *states: HiddenStates) -> None:
        """Measure the feature statistics again, on the frozen model's ``states`` of collected decisions.

        Each of them has the decisions of one map.
        """
        copies = () if self.initial_head is None else (self.initial_head,)
        last = torch.cat([of_map.last_states for of_map in states])
        self.head.measure_collected(last, torch.cat([of_map.sentence_states for of_map in states]), *copies)

    def pop_usage(self) -> dict[str, float]:
        """Return the usage since the last call, and reset it."""
        usage, self.usage = self.usage, {"prompts": 0, "tokens": 0, "seconds": 0.0}
        return usage
