"""Multi-agent controller of language-model policies: batches in, actions and logits out."""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lolm_plugin.controllers.controller import Controller
from lolm_plugin.controllers.decisions import Acting, Decisions, Evaluation, certain_log_probs, find_decisions
from lolm_plugin.controllers.prompter import build_prompter
from lolm_plugin.llm.model import Backbone
from lolm_plugin.llm.prompt_batch import HiddenStates, PromptBatch, members
from lolm_plugin.memory import Part, is_out_of_memory, plan_memory, retry_on_oom
from lolm_plugin.modules.agents.llm_agent import LLMAgent
from lolm_plugin.modules.heads import masked_log_softmax
from lolm_plugin.protocols import Batch
from lolm_plugin.tensor_files import load_tensors, save_tensors

LEAST_TOKENS = 16  # smallest token budget; a longer prompt is still read whole
INITIAL_HEAD, SOURCE_ADAPTER = "initial_head.safetensors", "source_adapter.safetensors"
CPU_TOKENS = 2048  # of a microbatch: a CPU is fastest if they fit its caches. A GPU's memory is measured.
TRIED_TOKENS = (
    256,
    1024,
)  # to measure the memory of a token on a GPU. Fewer: lost among workspaces. More: slower start.


@dataclass(frozen=True)
class PromptDecisions(Decisions):
    """Decisions of a batch and their prompts. Equal prompts are stored once."""

    prompts: PromptBatch
    prompt_ids: Tensor  # int64 [decisions]: index of each decision's prompt


class PromptMAC(Controller[PromptDecisions]):
    """Controller with one language model for all agents. It has no memory: a prompt has all that its agent knows."""

    agent: LLMAgent
    MEMORY_SETTINGS = ("token_budget", "frozen_cache_gb")
    MEMORY_KEYS = "llm.recompute=True, lora.layers to fewer, llm.quantization=8bit, prompt.style=compact"

    def __init__(self, scheme: Mapping[str, Mapping], groups: Mapping[str, int], args: SimpleNamespace) -> None:
        super().__init__(scheme, groups, args)
        prompter = build_prompter(args.llm, args.prompt, self.layouts.observation)
        backbone = Backbone(args.llm, args.lora, args.seed, device=str(self.device))
        self.reference_is_source: bool = args.kl["reference"] == "source"
        self.source_adapter: dict[str, Tensor] = {}  # adapter of the KL's reference; {}: the pretrained model
        keep_initial_head = args.kl["head"] == "initial" or self.reference_is_source
        self.agent = LLMAgent(prompter, backbone, args.head, args.seed, keep_initial_head).to(self.device)
        self.frozen_cache_gb: float = args.llm["frozen_cache_gb"]
        self.token_budget: int = args.llm["token_budget"] or CPU_TOKENS
        if self.device.type == "cuda" and not args.llm["token_budget"]:
            self._fit_memory()
        self.example = ""  # the first prompt, for the run's record

    def for_map(self, scheme: Mapping[str, Mapping], groups: Mapping[str, int], args: SimpleNamespace) -> "PromptMAC":
        other = copy.copy(self)
        Controller.__init__(other, scheme, groups, args)
        other.agent = self.agent.for_prompter(build_prompter(args.llm, args.prompt, other.layouts.observation))
        other.example = ""
        return other

    def parameter_groups(self) -> list[dict[str, Any]]:
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

    def pop_usage(self) -> dict[str, float]:
        return self.agent.pop_usage()

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings of language model, adapter and head, and the seed if unsaved weights depend on it."""
        keys = {"llm": ("model", "num_layers", "pretrained", "train"), "head": ("attack_keys", "features", "read")}
        if self.agent.backbone.has_reference:
            keys["lora"] = ("rank", "alpha", "targets", "layers")
        settings = {f"{section}.{key}": getattr(self.args, section)[key] for section in keys for key in keys[section]}
        drawn = self.agent.backbone.has_reference and not self.args.llm["pretrained"]
        return {**settings, "seed": self.args.seed} if drawn else settings

    def low_precision(self) -> bool:
        """Return True in bfloat16 or with quantised weights: logits depend on how prompts are packed."""
        return not self.agent.backbone.precise

    def without_stored_states(self, decisions: PromptDecisions) -> PromptDecisions:
        prompts = replace(decisions.prompts, frozen_states=[None] * len(decisions.prompts))
        return replace(decisions, prompts=prompts)

    def save_models(self, path: str) -> None:
        """Write the action head, and the adapter (PEFT's format) or the whole language model, as safetensors."""
        self.agent.backbone.save(path)
        save_tensors(f"{path}/head.safetensors", self.agent.head.state_dict())
        if self.agent.initial_head is not None:
            save_tensors(f"{path}/{INITIAL_HEAD}", self.agent.initial_head.state_dict())
        if self.source_adapter:
            save_tensors(f"{path}/{SOURCE_ADAPTER}", self.source_adapter)

    def load_models(self, path: str) -> None:
        self.agent.backbone.load(path)
        heads = {"head.safetensors": self.agent.head, INITIAL_HEAD: self.agent.initial_head}
        for name, head in heads.items():
            # Only a run with a KL to the initial head saves one.
            if head is not None and (name != INITIAL_HEAD or Path(path, name).is_file()):
                head.load_state_dict(load_tensors(f"{path}/{name}", expected=head.state_dict()))
        if self.reference_is_source and (file := Path(path, SOURCE_ADAPTER)).is_file():
            self.source_adapter |= load_tensors(file, expected=self.agent.backbone.adapter_state())

    def transferred(self) -> None:
        """Keep a copy of the loaded policy as the KL's reference, with ``kl.reference=source``."""
        if self.reference_is_source:
            self.source_adapter |= self.agent.backbone.adapter_state()  # in place: other maps' controllers have it, too
            assert self.agent.initial_head is not None, "kept with kl.reference=source"
            self.agent.initial_head.load_state_dict(self.agent.head.state_dict())

    @torch.no_grad()
    def act(self, ep_batch: Batch, t: int, t_env: int, running: Tensor, test_mode: bool) -> Acting:
        available = (ep_batch["avail_actions"][:, t] > 0) & running[:, None, None]
        log_probs, index = certain_log_probs(available)
        if len(index[0]):
            prompts, prompt_ids = self._prompts(ep_batch["obs"][:, t][index], available[index], index[1])
            keep = not test_mode and self.args.llm["keep_rollout_states"]
            states = retry_on_oom(partial(self._read, prompts, keep), self)[prompt_ids]
            log_probs[index] = masked_log_softmax(self.agent.logits(states), available[index])
        return Acting(log_probs)

    def decisions(self, batch: Batch, valid: Tensor, t_env: int = 0) -> PromptDecisions:
        """Return the decisions of a batch within ``valid`` bool [batch, time], with precomputed frozen layers."""
        index, available = find_decisions(batch, valid)
        prompts, prompt_ids = self._prompts(batch["obs"][:, : valid.shape[1]][index], available, index[2])
        return PromptDecisions(index, available, self._precompute(prompts), prompt_ids)

    def prepare(self, decisions: PromptDecisions) -> None:
        """Measure the head's feature statistics on the first batch of decisions."""
        if self.agent.head.needs_collected_statistics and len(decisions) > 1:
            self.agent.measure_collected(self._frozen_states(decisions))

    def prepare_together(self, parts: "Sequence[tuple[PromptMAC, PromptDecisions]]") -> None:  # type: ignore[override]
        if self.agent.head.needs_collected_statistics and sum(len(decisions) for _, decisions in parts) > 1:
            self.agent.measure_collected(*(mac._frozen_states(decisions) for mac, decisions in parts))

    def _frozen_states(self, decisions: PromptDecisions) -> HiddenStates:
        states = self._read(decisions.prompts, reference=self.agent.backbone.has_reference)
        return states[decisions.prompt_ids]

    def end_update(self) -> None:
        self.agent.backbone.encoder.drop_frozen_states()

    def microbatches(self, decisions: PromptDecisions, subset: Tensor) -> list[Tensor]:
        """Split ``subset`` [n] into microbatches within the token budget, with prompts of similar length together."""
        prompt_ids = decisions.prompt_ids[subset]
        distinct = prompt_ids.unique()
        packs = decisions.prompts.take(distinct).plan(self.token_budget)
        return [subset[torch.isin(prompt_ids, distinct[members(pack)])] for pack in packs]

    def evaluate(self, decisions: PromptDecisions, subset: Tensor) -> Evaluation:
        """Evaluate the current policy on ``subset`` [n], with gradient. Equal prompts are read once."""
        distinct, prompt_ids = decisions.prompt_ids[subset].unique(return_inverse=True)
        return Evaluation(self.agent.logits(self.agent.read(decisions.prompts.take(distinct))[prompt_ids]))

    def reference_states(self, decisions: PromptDecisions) -> HiddenStates:
        """Compute the reference's hidden states for each decision; called once per update.

        The reference is the frozen pretrained LM or, with ``kl.reference=source``, the transferred policy's LM.
        """
        if not self.reference_is_source:
            return self._read(decisions.prompts, reference=True)[decisions.prompt_ids]
        with torch.no_grad(), self.agent.backbone.with_adapter(self.source_adapter):
            return self._read(decisions.prompts)[decisions.prompt_ids]

    def reference_logits(self, states: HiddenStates) -> Tensor:
        """Compute the reference's logits, detached: [decisions, n_actions].

        The frozen LM's states go through the current head (paper, section 4.1), or with ``kl.head=initial`` through a
        copy of the head from before training. A transferred policy's states go through its own head.
        """
        initial = self.agent.initial_head is not None
        return self.agent.logits(states, initial_head=initial).detach()

    def use_less_memory(self, part: Part = "policy") -> str | None:
        """Drop the frozen layers' stored states and halve their cache; if there are none, halve the microbatch.

        The microbatch is the token budget or, if the critic ran out of memory, ``microbatch``.
        """
        encoder = self.agent.backbone.encoder
        if stored := encoder.stored_bytes:
            encoder.drop_frozen_states()  # the rest of this update computes them again
            self.frozen_cache_gb = stored / 2**31
            return f"llm.frozen_cache_gb={self.frozen_cache_gb:.3g}"
        if part == "critic":
            return super().use_less_memory(part)
        if self.token_budget <= LEAST_TOKENS:
            return None
        self.token_budget //= 2
        return f"llm.token_budget={self.token_budget}"

    def _fit_memory(self) -> None:
        """Choose ``token_budget``, and a smaller cache of frozen layers if needed, by the GPU's free memory."""
        backbone = self.agent.backbone
        cache = self.frozen_cache_gb * 2**30 if backbone.encoder.settings.frozen_layers else 0.0
        trained = self.parameters()

        def run(tokens: int) -> None:
            """Evaluate and differentiate two prompts with this many tokens together."""
            length = min(tokens // 2, backbone.context_length)
            ids = torch.arange(length) % backbone.lm.config.vocab_size
            states = backbone.encode(backbone.prompt_batch((), [ids] * (tokens // length)))
            torch.autograd.grad(states.sum(), backbone.trainable(), allow_unused=True)

        try:
            plan = plan_memory(trained, cache, run, TRIED_TOKENS)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self.token_budget = LEAST_TOKENS
            logging.getLogger("lolm").warning(
                "Even %d tokens do not fit into the GPU's free memory, so llm.token_budget=%d, which is slow; set %s.",
                *(TRIED_TOKENS[0], LEAST_TOKENS, self.MEMORY_KEYS),
            )
            return
        self.token_budget = max(LEAST_TOKENS, plan.token_budget)
        if cache:
            self.frozen_cache_gb = plan.cache / 2**30
        logging.getLogger("lolm").info(
            "llm.token_budget=%d: %.1f GiB are free on the GPU, of which gradients, Adam and frozen layers' states may "
            "take %.1f, and a token needs %.2g MiB.",
            self.token_budget,
            plan.free / 2**30,
            (plan.training + plan.cache) / 2**30,
            plan.per_token / 2**20,
        )

    def _precompute(self, prompts: PromptBatch) -> PromptBatch:
        """Compute the frozen layers' states and cache them until ``end_update``."""
        return self.agent.precompute(prompts, self.frozen_cache_gb * 2**30, self.token_budget)

    def _read(self, prompts: PromptBatch, keep: bool = False, reference: bool = False) -> HiddenStates:
        """Compute the hidden states of prompts, without gradient. ``keep`` caches those of the frozen layers."""
        prompts = self._precompute(prompts) if keep else prompts
        return self.agent.read(prompts, reference=reference, token_budget=self.token_budget)

    def _prompts(self, obs: Tensor, available: Tensor, agent: Tensor) -> tuple[PromptBatch, Tensor]:
        """Return the distinct prompts of obs [decisions, obs_size], and the index of each decision's prompt."""
        prompts, prompt_ids = self.agent.prompts(obs, available, agent)
        if not self.example:
            self.example = self.agent.prompter.tokenizer.decode([*prompts.prefix, *prompts.ids[0].tolist()])
        return prompts, prompt_ids
