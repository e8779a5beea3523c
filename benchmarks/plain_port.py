"""The baseline "plain port": LoLM-MAPPO added to EPyMARL's controller and PPO learner in the most direct way.

- Every agent of every episode has a full prompt at every step until the longest episode ends, dead agents included.
- Prompts are texts. One call of the tokenizer per step tokenises them, padded on the right.
- One forward pass of Hugging Face's model per step over all prompts, with an attention mask.
- The old policy is a deep copy of the policy, evaluated step by step.
- The reference is a second, frozen model, evaluated step by step in every epoch.
- An epoch evaluates the steps one by one and keeps the graphs of all steps for a single backward pass.

With more than a few steps, the last point needs more memory than most machines have. With ``graph_tokens``, the
gradient is accumulated and the graph is freed after that many padded tokens.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn
from torch.distributions import Categorical
from transformers.pytorch_utils import Conv1D

from benchmarks import battles
from lolm_plugin.controllers.prompt_controller import PromptMAC
from lolm_plugin.learners import ppo_core
from lolm_plugin.llm.sources import resolve
from lolm_plugin.modules.heads import entropy, kl_divergence, masked_log_softmax


class PlainPrompts:
    """Prompts of the plain port: one tokenizer call for all texts of a step."""

    def __init__(self, args: SimpleNamespace, writer: Any) -> None:
        """Use the texts of ``writer``, so that both sides read the same prompts."""
        self._writer, self._agents = writer, torch.arange(args.n_agents)
        self.tokenizer = resolve(args.llm["model"]).load_tokenizer()
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def texts(self, obs: Tensor, available: Tensor, agents: Tensor) -> list[str]:
        """Return the text of each prompt without the prefix; obs [prompts, obs_size], available [prompts, actions]."""
        return ["".join(parts.values()) for parts in self._writer.describe(obs, available, agents)]

    def token_ids(self, obs: Tensor, available: Tensor, agents: Tensor) -> list[list[int]]:
        """Return the token ids of ``texts``."""
        texts = self.texts(obs, available, agents)
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []

    def padded(self, batch: Any, t: int) -> dict[str, Tensor]:
        """Return the full prompts of all agents at step ``t``, padded on the right.

        ``input_ids`` and ``attention_mask`` are int64 [episodes × agents, longest].
        """
        available = batch["avail_actions"][:, t].flatten(0, 1) > 0
        agents = self._agents.repeat(batch.batch_size)
        texts = self.texts(batch["obs"][:, t].flatten(0, 1), available, agents)
        texts = [self._writer.prefix + text for text in texts]
        padding = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
        encoded = self.tokenizer(texts, return_token_type_ids=False, verbose=False, **padding)
        return {name: encoded[name].to(batch["obs"].device) for name in ("input_ids", "attention_mask")}

    def padded_tokens(self, batch: Any) -> int:
        """Return the number of tokens of one pass over all steps, padding included."""
        return sum(self.padded(batch, t)["input_ids"].numel() for t in range(batch.max_seq_length - 1))


def last_hidden(lm: nn.Module, tokens: dict[str, Tensor]) -> Tensor:
    """Return float32 states [prompts, hidden] of the last token before the padding."""
    hidden = lm(**tokens, use_cache=False).last_hidden_state
    last = tokens["attention_mask"].sum(-1) - 1
    return hidden[torch.arange(len(last), device=last.device), last].float()


class PlainPort:
    """A policy with the weights of ``mac`` and LoRA on all layers. Where ``mac`` has no LoRA, LoRA's B is 0."""

    def __init__(self, args: SimpleNamespace, mac: PromptMAC) -> None:
        self.args = args
        self.prompts = PlainPrompts(args, mac.agent.prompter.writer)
        self.frozen = _base_model(args, mac).to(mac.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns about transformers
            lm = get_peft_model(copy.deepcopy(self.frozen), _lora(self.frozen, args.lora)).eval()
        set_peft_model_state_dict(lm, mac.agent.backbone.adapter_state())
        self.policy = nn.ModuleDict({"lm": lm, "head": copy.deepcopy(mac.agent.head)})
        self.n_targets = mac.agent.n_targets
        self.trained = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.Adam(self.trained, lr=0.0, eps=args.optim_eps)

    @torch.no_grad()
    def play(self, batch: Any) -> Tensor:
        """Sample actions int64 [episodes, time, agents] with one forward pass per step over all agents and episodes."""
        return self._each_step(batch, lambda t: Categorical(logits=self._log_policy(batch, t)).sample())

    @torch.no_grad()
    def log_probs(self, batch: Any) -> Tensor:
        """Return the log-probabilities that ``play`` samples from: [decisions, actions], -inf where unavailable."""
        return self._each_step(batch, lambda t: self._log_policy(batch, t))[battles.deciding(batch)]

    def update(
        self, batch: Any, advantages: Tensor, kl_coef: float, graph_tokens: int | None, epochs: int | None = None
    ) -> None:
        """Update the policy with ``advantages`` [episodes, time, agents]. The loss is the mean over decisions.

        ``graph_tokens`` is explained at the top of the file; None keeps the graph of all steps. ``epochs`` replaces
        args.epochs.
        """
        count = int(battles.deciding(batch).sum())
        old_policy = copy.deepcopy(self.policy)
        with torch.no_grad():
            old = [self._log_policy(batch, t, old_policy) for t in range(batch.max_seq_length - 1)]
        for _ in range(epochs or self.args.epochs):
            self.optimiser.zero_grad(set_to_none=True)
            losses = []
            for t in range(batch.max_seq_length - 1):
                tokens = self.prompts.padded(batch, t)
                for chunk in _chunks(tokens, graph_tokens):
                    loss = self._loss(batch, t, tokens, chunk, old[t], advantages[:, t], kl_coef) / count
                    if graph_tokens is None:
                        losses.append(loss)
                    else:
                        loss.backward()
            if losses:
                torch.stack(losses).sum().backward()
            nn.utils.clip_grad_norm_(self.trained, self.args.grad_norm_clip)
            self.optimiser.step()

    def _loss(
        self, batch: Any, t: int, tokens: dict, chunk: slice, old: Tensor, advantages: Tensor, kl_coef: float
    ) -> Tensor:
        """Return the summed loss of the decisions in a chunk of the prompts of step ``t``."""
        padded = {name: tensor[chunk] for name, tensor in tokens.items()}
        available = self._available(batch, t)[chunk]
        log_policy = masked_log_softmax(self._logits(self.policy, padded), available)
        with torch.no_grad():
            hidden = last_hidden(self.frozen, padded)
            log_frozen = masked_log_softmax(self.policy["head"](hidden, self.n_targets), available)
        actions = batch["actions"][:, t].flatten(0, 1)[chunk]
        log_probs, old_log_probs = (x.gather(-1, actions).squeeze(-1) for x in (log_policy, old[chunk]))
        surrogate, _ = ppo_core.clipped_policy_loss(
            log_probs, old_log_probs, advantages.flatten()[chunk], self.args.eps_clip
        )
        pair = (log_policy, log_frozen) if self.args.kl["direction"] == "forward" else (log_frozen, log_policy)
        each = surrogate - self.args.entropy_coef * entropy(log_policy) + kl_coef * kl_divergence(*pair)
        return each[battles.deciding(batch)[:, t].flatten()[chunk]].sum()

    def _log_policy(self, batch: Any, t: int, policy: nn.ModuleDict | None = None) -> Tensor:
        """Return the log-probabilities of one step [episodes × agents, actions]."""
        tokens = self.prompts.padded(batch, t)
        return masked_log_softmax(self._logits(policy or self.policy, tokens), self._available(batch, t))

    def _logits(self, policy: nn.ModuleDict, tokens: dict[str, Tensor]) -> Tensor:
        """Return logits [prompts, actions]."""
        return policy["head"](last_hidden(policy["lm"], tokens), self.n_targets)

    def _available(self, batch: Any, t: int) -> Tensor:
        """Return bool [episodes × agents, actions]. Padded steps have no available action; they get the first one."""
        available = batch["avail_actions"][:, t].flatten(0, 1) > 0
        available[:, 0] |= ~available.any(-1)
        return available

    def _each_step(self, batch: Any, work: Callable[[int], Tensor]) -> Tensor:
        """Stack the results [episodes × agents, ...] of all steps to [episodes, time, agents, ...]."""
        steps = [work(t).unflatten(0, (-1, self.args.n_agents)) for t in range(batch.max_seq_length - 1)]
        return torch.stack(steps, 1)


def _chunks(tokens: dict[str, Tensor], graph_tokens: int | None) -> Iterator[slice]:
    n_prompts, width = tokens["input_ids"].shape
    size = n_prompts if graph_tokens is None else max(1, graph_tokens // width)
    return (slice(start, start + size) for start in range(0, n_prompts, size))


def _base_model(args: SimpleNamespace, mac: PromptMAC) -> nn.Module:
    """Return a separate model with the base weights of ``mac``, without its adapter."""
    state = mac.agent.backbone.lm.state_dict()
    weights = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor
        for name, tensor in state.items()
        if "lora_" not in name
    }
    dtype = next(iter(weights.values())).dtype
    model = resolve(args.llm["model"]).load_model(args.llm["num_layers"], dtype, args.llm["pretrained"], seed=0)
    model.load_state_dict(weights)
    return model


def _lora(model: nn.Module, lora: dict[str, Any]) -> LoraConfig:
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    targets = linear if lora["targets"] == "all-linear" else lora["targets"]
    return LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=targets, lora_dropout=0.0)
