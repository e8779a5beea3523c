"""The named baseline: LoLM-MAPPO written into EPyMARL's controller and PPO learner in the most direct way.

- Every agent of every episode has a full prompt at every step until the longest episode ends: the dead, too.
- One forward of Hugging Face's model per step over all of them, right-padded, with an attention mask.
- The old policy is a deep copy of the policy, evaluated step by step.
- The reference is a second, frozen model, evaluated step by step in every epoch.
- An epoch runs over the steps one by one and keeps their graph until one backward pass for all.

The last point needs more memory than most machines have for more than a few steps. ``graph_tokens`` is kinder: as
soon as that many padded tokens stand behind the loss, their gradient is added up and their graph is freed.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from benchmarks import data
from benchmarks.plain_prompts import PlainPrompts
from lolm_plugin.controllers.prompt_controller import PromptMAC
from lolm_plugin.learners import ppo_core
from lolm_plugin.llm.sources import resolve
from lolm_plugin.modules.heads import AttentionActionHead, entropy, kl_divergence, masked_log_softmax


class Policy(nn.Module):
    """Hugging Face's base model with PEFT's LoRA under the action head."""

    def __init__(self, lm: nn.Module, head: AttentionActionHead, n_targets: int) -> None:
        super().__init__()
        self.lm = lm
        self.head = head
        self.n_targets = n_targets

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """Logits [rows, actions] after the last real token of each row."""
        return self.head(last_hidden(self.lm, tokens), self.n_targets)


def last_hidden(lm: nn.Module, tokens: dict[str, Tensor]) -> Tensor:
    """float32 [rows, hidden] at the last real token."""
    hidden = lm(**tokens, use_cache=False).last_hidden_state
    last = tokens["attention_mask"].sum(-1) - 1
    return hidden[torch.arange(len(last), device=last.device), last].float()


class PlainPort:
    """A policy with the same weights as ``mac``'s and LoRA on all layers; where ``mac`` has none, B is 0."""

    def __init__(
        self, args: SimpleNamespace, mac: PromptMAC, tick: Callable[[int], None] = lambda tokens: None
    ) -> None:
        """``tick`` is told the padded tokens of each pass, three times as many where there is a backward pass."""
        self.args = args
        self.prompts = PlainPrompts(args)
        self.tick = tick
        self.frozen = _base_model(args, mac).to(mac.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PEFT about transformers
            lm = get_peft_model(copy.deepcopy(self.frozen), _lora(self.frozen, args.lora)).eval()
        set_peft_model_state_dict(lm, mac.agent.backbone.adapter_state())
        self.policy = Policy(lm, copy.deepcopy(mac.agent.head), mac.agent.n_targets)
        self.optimiser = torch.optim.Adam(self.parameters(), lr=0.0, eps=args.optim_eps)

    def parameters(self) -> list[nn.Parameter]:
        """LoRA and the head."""
        return [parameter for parameter in self.policy.parameters() if parameter.requires_grad]

    @torch.no_grad()
    def play(self, batch: Any) -> Tensor:
        """Actions int64 [episodes, time, agents], one forward per step over all agents of all episodes."""
        steps = []
        for t in range(batch.max_seq_length - 1):
            probabilities = self._log_policy(batch, t).exp()
            steps.append(torch.distributions.Categorical(probs=probabilities).sample().unflatten(0, (-1, self._agents)))
        return torch.stack(steps, 1)

    @torch.no_grad()
    def log_probs(self, batch: Any) -> Tensor:
        """What ``play`` draws from: [decisions, actions], -inf where unavailable."""
        steps = [self._log_policy(batch, t).unflatten(0, (-1, self._agents)) for t in range(batch.max_seq_length - 1)]
        return torch.stack(steps, 1)[data.deciding(batch)]

    @torch.no_grad()
    def logits(self, batch: Any) -> Tensor:
        """[decisions, actions]."""
        steps = [
            self.policy(self.prompts.tokens(batch, t)).unflatten(0, (-1, self._agents))
            for t in range(batch.max_seq_length - 1)
        ]
        return torch.stack(steps, 1)[data.deciding(batch)]

    def update(
        self, batch: Any, advantages: Tensor, kl_coef: float, graph_tokens: int | None, epochs: int | None = None
    ) -> None:
        """A whole update of the policy; ``graph_tokens``: see the top of the file, None keeps the graph of all steps.

        ``advantages`` [episodes, time, agents]. The loss is a mean over the decisions, as in the engine. Without
        ``epochs`` as many as are set.
        """
        count = int(data.deciding(batch).sum())
        old_policy = copy.deepcopy(self.policy)
        with torch.no_grad():
            old = [self._log_policy(batch, t, old_policy) for t in range(batch.max_seq_length - 1)]
        for _ in range(epochs or self.args.epochs):
            self.optimiser.zero_grad(set_to_none=True)
            losses = []
            for t in range(batch.max_seq_length - 1):
                tokens = self.prompts.tokens(batch, t)
                for rows in _parts(tokens, graph_tokens):
                    loss = self._loss(batch, t, tokens, rows, old[t], advantages[:, t], kl_coef) / count
                    if graph_tokens is None:
                        losses.append(loss)
                    else:
                        loss.backward()
                    self.tick(3 * tokens["input_ids"][rows].numel())
            if losses:
                torch.stack(losses).sum().backward()
            nn.utils.clip_grad_norm_(self.parameters(), self.args.grad_norm_clip)
            self.optimiser.step()

    def gradients(self) -> dict[str, Tensor]:
        """Of everything the policy trains, by name, as the last epoch left them."""
        named = self.policy.named_parameters()
        return {name: parameter.grad.float() for name, parameter in named if parameter.requires_grad}

    def _loss(
        self, batch: Any, t: int, tokens: dict, rows: slice, old: Tensor, advantages: Tensor, kl_coef: float
    ) -> Tensor:
        """The sum over the decisions among ``rows`` of step ``t``."""
        part = {name: tensor[rows] for name, tensor in tokens.items()}
        available = self._available(batch, t)[rows]
        log_policy = masked_log_softmax(self.policy(part), available)
        with torch.no_grad():
            hidden = last_hidden(self.frozen, part)
            self.tick(part["input_ids"].numel())
            log_frozen = masked_log_softmax(self.policy.head(hidden, self.policy.n_targets), available)
        actions = batch["actions"][:, t].flatten(0, 1)[rows]
        log_probs, old_log_probs = (x.gather(-1, actions).squeeze(-1) for x in (log_policy, old[rows]))
        surrogate, _ = ppo_core.clipped_policy_loss(
            log_probs, old_log_probs, advantages.flatten()[rows], self.args.eps_clip
        )
        pair = (log_policy, log_frozen) if self.args.kl["direction"] == "forward" else (log_frozen, log_policy)
        each = surrogate - self.args.entropy_coef * entropy(log_policy) + kl_coef * kl_divergence(*pair)
        return each[data.deciding(batch)[:, t].flatten()[rows]].sum()

    def _log_policy(self, batch: Any, t: int, policy: Policy | None = None) -> Tensor:
        """[episodes × agents, actions] at one step."""
        tokens = self.prompts.tokens(batch, t)
        log_policy = masked_log_softmax((policy or self.policy)(tokens), self._available(batch, t))
        self.tick(tokens["input_ids"].numel())
        return log_policy

    def _available(self, batch: Any, t: int) -> Tensor:
        """bool [episodes × agents, actions]; padding, which has no action, is given the first."""
        available = batch["avail_actions"][:, t].flatten(0, 1) > 0
        available[:, 0] |= ~available.any(-1)
        return available

    @property
    def _agents(self) -> int:
        return self.args.n_agents


def _parts(tokens: dict[str, Tensor], graph_tokens: int | None) -> Iterator[slice]:
    rows, width = tokens["input_ids"].shape
    size = rows if graph_tokens is None else max(1, graph_tokens // width)
    return (slice(start, start + size) for start in range(0, rows, size))


def _base_model(args: SimpleNamespace, mac: PromptMAC) -> nn.Module:
    """A model of its own with the weights under ``mac``'s adapter."""
    theirs = mac.agent.backbone.lm.state_dict()
    weights = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor
        for name, tensor in theirs.items()
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
