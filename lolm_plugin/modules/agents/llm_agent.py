"""The language-model policy: prompt tokens in, action logits out."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lolm_plugin.llm.backbone import Backbone
from lolm_plugin.llm.reader import Rows
from lolm_plugin.llm.sources import seeded
from lolm_plugin.modules.heads.attention_action_head import build_head
from lolm_plugin.prompts.prompter import Prompter
from lolm_plugin.randomness import keyed_seeds

# Made-up observations for the first feature statistics. More only delay the start, as collected battles soon replace
# them; fewer give noisier deviations.
FEATURE_VIEWS = 64
FEATURE_TOKENS = 2048  # read at once for them; at 4096 they, and not training, set lolm_mappo_smol's peak memory


@dataclass(frozen=True)
class Prompts:
    """Prompts to read: ``rows``, and ``place`` int64 [prompts, n_targets] of the sentence about each target.

    A place counts the states that are read of a prompt, its last token's being 0; -1: no sentence is wanted.
    """

    rows: Rows
    place: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, prompts: Tensor) -> "Prompts":
        """Some of the prompts: int64 [n]."""
        return Prompts(self.rows.take(prompts.tolist()), self.place[prompts])


@dataclass(frozen=True)
class States:
    """What the language model makes of prompts: ``states`` [states, hidden] and where in it each prompt has which.

    ``last`` int64 [prompts] is the state of the last token; ``place`` int64 [prompts, n_targets] that at the end of the
    sentence about each target, -1 where there is none.
    """

    states: Tensor
    last: Tensor
    place: Tensor

    def __len__(self) -> int:
        return len(self.last)

    def __getitem__(self, prompts: Tensor) -> "States":
        """Those of some prompts, which may come up several times: int64 [n]."""
        return States(self.states, self.last[prompts], self.place[prompts])


class LLMAgent(nn.Module):
    """A causal LM, with LoRA or trained in full, under an attention action head, shared by all agents.

    ``initial_head`` is a frozen copy of the head before training, kept with ``keep_initial_head``. ``usage`` counts
    rows, tokens and seconds spent in the LM since ``take_usage`` was last called.
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
        with seeded(int(keyed_seeds(seed, "head", count=1)[0])):
            self.head = build_head(backbone.hidden_size, head, prompter.layout.n_base_actions)
        if head["keys"] == "words":
            self.head.start_from(self._word_states(), head["word_scale"])
        self.initial_head = None
        if keep_initial_head:
            self.initial_head = copy.deepcopy(self.head).requires_grad_(False)
            self.initial_head.share_statistics(self.head)
        self.usage = {"rows": 0, "tokens": 0, "seconds": 0.0}

    def prompts(self, obs: Tensor, available: Tensor, agent: Tensor) -> tuple[Prompts, Tensor]:
        """The different prompts behind obs [rows, obs_size], and for each row (int64 [rows]) which of them it reads.

        ``available`` is [rows, n_actions], ``agent`` [rows].
        """
        tokens, row = self.prompter.tokens(obs, available, agent, self.reads_targets).distinct()
        sequences = torch.from_numpy(tokens.ids).split(tokens.lengths.tolist())
        ends = torch.from_numpy(tokens.targets)
        wanted = ends >= 0
        places = None
        if self.reads_targets:
            last = torch.from_numpy(tokens.lengths - 1).split(1)
            places = [torch.cat([end, own[asked]]) for end, own, asked in zip(last, ends, wanted, strict=True)]
        rows = self.backbone.rows(self.prompter.prefix, sequences, places)
        place = torch.where(wanted, wanted.cumsum(1), -1)
        return Prompts(rows, place.to(self.backbone.device)), torch.from_numpy(row).to(self.backbone.device)

    def precompute(self, prompts: Prompts, keep_bytes: float, token_budget: int | None = None) -> Prompts:
        """``prompts`` with the frozen layers' states of as many as fit into ``keep_bytes``."""
        started = time.perf_counter()
        rows = self.backbone.precompute_frozen_layers(prompts.rows, keep_bytes, token_budget)
        self.usage["seconds"] += time.perf_counter() - started
        return Prompts(rows, prompts.place)

    def read(self, prompts: Prompts, reference: bool = False, token_budget: int | None = None) -> States:
        """What the LM makes of each prompt; ``reference`` is the LM as it was at the start, frozen."""
        started = time.perf_counter()
        rows = prompts.rows
        states = self.backbone.read(rows, reference, token_budget)
        self.usage["rows"] += len(rows)
        self.usage["tokens"] += sum(map(len, rows.parts)) + len(rows) * len(rows.prefix)
        self.usage["seconds"] += time.perf_counter() - started
        counts = torch.tensor(rows.states, dtype=torch.int64, device=states.device)
        last = counts.cumsum(0) - counts
        return States(states, last, torch.where(prompts.place >= 0, prompts.place + last[:, None], -1))

    def logits(self, states: States, initial_head: bool = False) -> Tensor:
        """Compute logits [prompts, n_actions] from the LM's states of prompts; unavailable actions are not yet masked.

        ``initial_head``: by the head as it was before training.
        """
        if self.head.needs_statistics:
            self.measure_features()
        head = self.initial_head if initial_head else self.head
        assert head is not None, "kept with keep_initial_head"
        return head(states.states[states.last], self.n_targets, states.states, states.place)

    @torch.no_grad()
    def _word_states(self) -> Tensor:
        """Read the words of each base action and of attack with the frozen model: [n_base + 1, hidden]."""
        layout = self.prompter.layout
        names = [*layout.action_names(0)[: layout.n_base_actions], "attack"]
        ids = self.prompter.tokenizer([f" {name}" for name in names], add_special_tokens=False)["input_ids"]
        return self.backbone.encode((), ids, reference=self.backbone.has_reference)

    @torch.no_grad()
    def measure_features(self) -> None:
        """Measure the feature statistics on made-up observations of the task.

        The first test and the first battles use them. ``measure_played`` replaces them before the first update.
        """
        obs, available, agent = self.prompter.writer.sample(FEATURE_VIEWS)
        prompts, _ = self.prompts(obs, available, agent)
        rows = prompts.rows
        states = self.backbone.read(rows, self.backbone.has_reference, token_budget=FEATURE_TOKENS)
        counts = torch.tensor(rows.states, dtype=torch.int64, device=states.device)
        last = torch.zeros(len(states), dtype=torch.bool, device=states.device)
        last[counts.cumsum(0) - counts] = True
        self.head.measure(states[last], states[~last])

    @torch.no_grad()
    def measure_played(self, states: States) -> None:
        """Measure the feature statistics again, on the frozen model's ``states`` of collected decisions."""
        copies = () if self.initial_head is None else (self.initial_head,)
        place = states.place[states.place >= 0]
        self.head.measure_played(states.states[states.last], states.states[place], *copies)

    def take_usage(self) -> dict[str, float]:
        """What was counted since the last call."""
        usage, self.usage = self.usage, {"rows": 0, "tokens": 0, "seconds": 0.0}
        return usage
