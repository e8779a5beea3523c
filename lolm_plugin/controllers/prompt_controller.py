"""The multi-agent controller of language-model policies: batches in, actions and logits out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lolm_plugin.controllers.controller import Acting, Controller, Evaluation, certain_log_probs, decisions
from lolm_plugin.controllers.prompter import build_prompter
from lolm_plugin.llm import matmul
from lolm_plugin.llm.model import Backbone
from lolm_plugin.llm.prompt_batch import HiddenStates, PromptBatch, members
from lolm_plugin.modules.agents.llm_agent import LLMAgent
from lolm_plugin.modules.masked_policy import masked_log_softmax
from lolm_plugin.tensor_files import load_tensors, save_tensors

LEAST_TOKENS = 16  # at once: one prompt is read whole, however long
COARSE = 0.5  # of ratio_epoch0 with bfloat16 or quantized weights [here: logits differ by some hundredths]
INITIAL_HEAD, SOURCE_ADAPTER = "initial_head.safetensors", "source_adapter.safetensors"
# A CPU is fastest with what fits its caches, a GPU with much at once.
TOKEN_BUDGETS = {"cpu": 2048, "cuda": 16384}


@dataclass(frozen=True)
class PromptSteps:
    """The decisions of a batch (see ``AgentSteps``) and what the LM reads for them; it never reads for the others."""

    index: tuple[Tensor, Tensor, Tensor]  # episode, timestep, agent; each int64 [rows]
    available: Tensor  # bool [rows, n_actions]
    prompts: PromptBatch  # every different prompt
    prompt: Tensor  # int64 [rows]: which of the prompts a row reads
    together: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompt)


class PromptMAC(Controller):
    """Shares one LLM agent between all agents. Every prompt holds all that its agent knows: there is no memory."""

    MEMORY_KEYS = "llm.recompute=True, lora.layers to fewer, llm.quantization=8bit, prompt.style=compact"

    def __init__(self, scheme: Mapping[str, Mapping], groups: Mapping[str, int], args: SimpleNamespace) -> None:
        super().__init__(scheme, groups, args)
        prompter = build_prompter(args.llm, args.prompt, self.layouts.observation)
        backbone = Backbone(args.llm, args.lora, args.seed, device=str(self.device))
        self.reference_is_source: bool = args.kl["reference"] == "source"
        self.source_adapter: dict[str, Tensor] = {}  # of the policy that the KL refers to; {}: the pretrained model
        keep_initial_head = args.kl["head"] == "initial" or self.reference_is_source
        self.agent = LLMAgent(prompter, backbone, args.head, args.seed, keep_initial_head).to(self.device)
        self.token_budget: int = args.llm["token_budget"] or TOKEN_BUDGETS[self.device.type]
        self.example = ""  # the first prompt that was read, for people

    def parameter_groups(self) -> list[dict[str, Any]]:
        """LoRA, or the whole language model, and the action head."""
        trained = "lora" if self.agent.backbone.has_reference else "backbone"
        return [
            {
                "name": trained,
                "params": self.agent.backbone.trainable(),
                "lr": self.args.lr,
                "eps": self.args.lora["optim_eps"] or self.args.optim_eps,
            },
            {"name": "head", "params": list(self.agent.head.parameters()), "lr": self.args.head_lr},
        ]

    def take_usage(self) -> dict[str, float]:
        """What the language model was used for since the last call."""
        return self.agent.take_usage()

    def fingerprint(self) -> dict[str, Any]:
        """The language model, its adapter and head; and the seed where that made weights that are not saved."""
        keys = {"llm": ("model", "num_layers", "pretrained", "train"), "head": ("attack_keys", "features")}
        if self.agent.backbone.has_reference:
            keys["lora"] = ("rank", "alpha", "targets", "layers")
        settings = {f"{section}.{key}": getattr(self.args, section)[key] for section in keys for key in keys[section]}
        drawn = self.agent.backbone.has_reference and not self.args.llm["pretrained"]
        return {**settings, "seed": self.args.seed} if drawn else settings

    def settled(self) -> dict[str, Any]:
        """Which library multiplies."""
        return {"llm": {"product": matmul.backend()}} if self.device.type == "cpu" else {}

    def ratio_tolerance(self) -> float:
        """Wide where sums have three digits, as other packs of prompts add up in another order."""
        return super().ratio_tolerance() if self.agent.backbone.precise else COARSE

    def save_models(self, path: str) -> None:
        """Adapter in PEFT's own format, or the whole language model, and action head, as safetensors."""
        self.agent.backbone.save(path)
        save_tensors(f"{path}/head.safetensors", self.agent.head.state_dict())
        if self.agent.initial_head is not None:
            save_tensors(f"{path}/{INITIAL_HEAD}", self.agent.initial_head.state_dict())
        if self.source_adapter:
            save_tensors(f"{path}/{SOURCE_ADAPTER}", self.source_adapter)

    def load_models(self, path: str) -> None:
        """Load strictly what ``save_models`` wrote; a missing or unexpected tensor is a ConfigError."""
        self.agent.backbone.load(path)
        tensors = load_tensors(f"{path}/head.safetensors", expected=self.agent.head.state_dict())
        self.agent.head.load_state_dict(tensors)
        initial, file = self.agent.initial_head, Path(path, INITIAL_HEAD)
        if initial is not None and file.is_file():  # a run without a KL to it saved none
            initial.load_state_dict(load_tensors(file, expected=initial.state_dict()))
        if self.reference_is_source and (file := Path(path, SOURCE_ADAPTER)).is_file():
            self.source_adapter = load_tensors(file, expected=self.agent.backbone.adapter_state())

    def transferred(self) -> None:
        """Copy the policy that was just loaded, as the KL's reference, with ``kl.reference=source``."""
        if self.reference_is_source:
            self.source_adapter = self.agent.backbone.adapter_state()
            self.agent.initial_head.load_state_dict(self.agent.head.state_dict())

    @torch.no_grad()
    def act(self, ep_batch: Any, t: int, t_env: int, running: Tensor, test_mode: bool) -> Acting:
        """The policy at timestep ``t`` of the episodes ``running``; in the others action 0 is certain."""
        available = (ep_batch["avail_actions"][:, t] > 0) & running[:, None, None]
        log_probs, index = certain_log_probs(available)
        if len(index[0]):
            rows = available[index]
            prompts, prompt = self._prompts(ep_batch["obs"][:, t][index], rows, index[1])
            if not test_mode and self.args.llm["keep_rollout_states"]:
                prompts = self._precompute(prompts)
            states = self._read(prompts)[prompt]
            log_probs[index] = masked_log_softmax(self.agent.logits(states), rows)
        return Acting(log_probs)

    def agent_steps(self, batch: Any, valid: Tensor, t_env: int = 0) -> PromptSteps:
        """The decisions of a batch within ``valid`` [batch, time], ready to evaluate."""
        index, rows = decisions(batch, valid)
        prompts, prompt = self._prompts(batch["obs"][:, : valid.shape[1]][index], rows, index[2])
        return PromptSteps(index, rows, self._precompute(prompts), prompt)

    def prepare(self, steps: PromptSteps) -> None:
        """Measure the feature statistics on the first batch of decisions."""
        if self.agent.head.needs_played_statistics and len(steps) > 1:
            states = self._read(steps.prompts, reference=self.agent.backbone.has_reference)
            self.agent.measure_played(states[steps.prompt])

    def end_update(self) -> None:
        """Free the states of the batch that was learned from."""
        self.agent.backbone.encoder.drop_frozen_states()

    def microbatches(self, steps: PromptSteps, rows: Tensor) -> list[Tensor]:
        """Cut ``rows`` [n] of the steps into groups that fit the token budget, similar lengths together."""
        read = steps.prompt[rows]
        distinct = read.unique()
        packs = steps.prompts.take(distinct).plan(self.token_budget)
        return [rows[torch.isin(read, distinct[members(pack)])] for pack in packs]

    def logits(self, steps: PromptSteps, rows: Tensor) -> Tensor:
        """Action logits [len(rows), n_actions] of the current policy, with gradient; equal prompts are read once."""
        distinct, read = steps.prompt[rows].unique(return_inverse=True)
        return self.agent.logits(self.agent.read(steps.prompts.take(distinct))[read])

    def evaluate(self, steps: PromptSteps, rows: Tensor) -> Evaluation:
        """The current policy on ``rows`` [n] of the steps."""
        return Evaluation(self.logits(steps, rows))

    def reference_states(self, steps: PromptSteps) -> HiddenStates:
        """Compute the reference's hidden states of each decision, once an update.

        The reference is the frozen pretrained LM, or with ``kl.reference=source`` the transferred policy's LM.
        """
        if not self.reference_is_source:
            return self._read(steps.prompts, reference=True)[steps.prompt]
        with torch.no_grad(), self.agent.backbone.with_adapter(self.source_adapter):
            return self._read(steps.prompts)[steps.prompt]

    def reference_logits(self, states: HiddenStates) -> Tensor:
        """Compute the reference's logits, detached: [rows, n_actions].

        The frozen LM's states go through the current head (paper, section 4.1), or with ``kl.head=initial`` through a
        copy of the head from before training. A transferred policy's states go through its own head.
        """
        initial = self.agent.initial_head is not None
        return self.agent.logits(states, initial_head=initial).detach()

    def use_less_memory(self) -> str | None:
        """Fewer tokens at once, and for the critic fewer agent-steps."""
        if self.token_budget <= LEAST_TOKENS:
            return None
        super().use_less_memory()
        self.token_budget //= 2
        return f"llm.token_budget={self.token_budget}"

    def _precompute(self, prompts: PromptBatch) -> PromptBatch:
        """``prompts`` with the frozen layers' states, which stay until ``end_update``."""
        keep_bytes = self.args.llm["trunk_cache_gb"] * 2**30
        return self.fitting(lambda: self.agent.precompute(prompts, keep_bytes, self.token_budget))

    def _read(self, prompts: PromptBatch, reference: bool = False) -> HiddenStates:
        """What the LM makes of prompts, without gradient."""
        return self.fitting(lambda: self.agent.read(prompts, reference=reference, token_budget=self.token_budget))

    def _prompts(self, obs: Tensor, available: Tensor, agent: Tensor) -> tuple[PromptBatch, Tensor]:
        """The different prompts behind obs [rows, obs_size], and for each row (int64 [rows]) which of them it reads."""
        prompts, prompt = self.agent.prompts(obs, available, agent)
        if not self.example:
            self.example = self.agent.prompter.tokenizer.decode([*prompts.prefix, *prompts.ids[0].tolist()])
        return prompts, prompt
