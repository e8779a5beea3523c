"""One MAPPO for every algorithm, with a KL to a frozen reference that anneals to zero (paper, section 4.3)."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lolm_plugin import __version__, registry
from lolm_plugin.checkpoints.files import (
    load_optimiser_tensors,
    load_tensors,
    optimiser_tensors,
    save_tensors,
)
from lolm_plugin.errors import ConfigError
from lolm_plugin.learners import ppo_core
from lolm_plugin.learners.kl_annealing import KLAnnealing
from lolm_plugin.learners.value_normaliser import ValueNormaliser
from lolm_plugin.modules.masked_policy import entropy, kl_divergence, masked_log_softmax
from lolm_plugin.randomness import keyed_generator


class MAPPOLearner:
    """On-policy: each call of ``train`` gets exactly the episodes that the current policy has just played.

    No old copy of the policy is kept. Before its first step the policy still is the behaviour policy, so the
    first epoch's log-probabilities are the old ones; ``ratio_epoch0`` compares them with those recorded while
    playing and has to be 1.
    """

    def __init__(self, mac: Any, scheme: Mapping[str, Mapping], logger: Any, args: SimpleNamespace) -> None:
        self.mac = mac
        self.args = args
        self.logger = logger
        self.n_agents = args.n_agents
        self.critic = _build_critic(scheme, args)
        self.value_normaliser = ValueNormaliser()
        self.kl = KLAnnealing(args.kl["enabled"], args.kl["anneal_steps"], args.kl["eps"], args.kl["coef_max"])
        lora = mac.agent.backbone.lora_parameters()
        self.actor_optimiser = torch.optim.Adam(
            [{"params": lora, "lr": args.lr}, {"params": mac.agent.head.parameters(), "lr": args.head_lr}],
            eps=args.optim_eps,
        )
        self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), lr=args.critic_lr, eps=args.optim_eps)
        self._base_lrs = [group["lr"] for group in self._groups()]
        self._last_log = -args.learner_log_interval - 1
        self._last_time = time.perf_counter()

    def train(self, batch: Any, t_env: int, episode_num: int) -> None:
        """One update: ``epochs`` passes over a batch of whole episodes [batch, time, ...]."""
        playing = self.mac.agent.take_usage()
        updating_since = time.perf_counter()
        self._decay_learning_rates(t_env)

        valid = (batch["filled"][:, :-1] * batch["filled"][:, 1:]).float()  # a step counts if it led somewhere
        rewards = batch["reward"][:, :-1].expand(-1, -1, self.n_agents)
        terminated = batch["terminated"][:, :-1].float()
        with torch.no_grad():
            old_values = self.critic(batch).squeeze(-1)
        values = self.value_normaliser.denormalise(old_values)
        advantages, returns = ppo_core.gae(rewards, values, terminated, valid, self.args.gamma, self.args.gae_lambda)
        counts = valid.expand_as(returns)
        self.value_normaliser.update(returns, counts)

        steps = self.mac.agent_steps(batch, valid.squeeze(-1) > 0)
        chosen = SimpleNamespace(
            actions=batch["actions"][:, :-1].squeeze(-1)[steps.index],
            advantages=ppo_core.normalise(advantages[steps.index], torch.ones(len(steps), device=valid.device)),
            old_log_probs=torch.zeros(len(steps), device=valid.device),
            reference=self.mac.reference_hidden(steps) if self.kl.active(t_env) else None,
        )
        stats: dict[str, list[float]] = defaultdict(list)
        if self.args.minibatches > 1:  # later minibatches of the first epoch no longer see the old policy
            self._record_old_log_probs(steps, chosen)
        for epoch in range(self.args.epochs):
            fresh = epoch == 0 and self.args.minibatches == 1
            for rows in self._minibatches(len(steps), t_env, epoch):
                self._update_actor(steps, rows, chosen, fresh, t_env, stats)
            self._update_critic(batch, old_values, self.value_normaliser.normalise(returns), counts, stats)

        if t_env - self._last_log >= self.args.learner_log_interval:
            self._last_log = t_env
            behaviour = self.mac.behaviour_log_probs[:, : valid.shape[1]][steps.index]
            stats["ratio_epoch0"].append(float(ppo_core.farthest_ratio(chosen.old_log_probs, behaviour)))
            stats["kl_coef"].append(self.kl.coef(t_env))
            stats["explained_variance"].append(float(ppo_core.explained_variance(values[:, :-1], returns, counts)))
            self._log(stats, t_env)
            self._log_speed(len(steps), playing, updating_since, t_env)
        self.mac.agent.take_usage()  # this update's own forward passes are in its wall time already
        self._last_time = time.perf_counter()

    def _update_actor(
        self, steps: Any, rows: Tensor, chosen: SimpleNamespace, fresh: bool, t_env: int, stats: dict
    ) -> None:
        """One optimiser step on ``rows`` [n] of the decisions, gradients added up over microbatches."""
        coef = self.kl.coef(t_env)
        sums: dict[str, float] = defaultdict(float)
        self.actor_optimiser.zero_grad(set_to_none=True)
        for micro in self.mac.microbatches(steps, rows):
            log_policy = masked_log_softmax(self.mac.logits(steps, micro), steps.available[micro])
            log_probs = log_policy.gather(-1, chosen.actions[micro].unsqueeze(-1)).squeeze(-1)
            if fresh:
                chosen.old_log_probs[micro] = log_probs.detach()
            old = chosen.old_log_probs[micro]
            surrogate, clipped = ppo_core.clipped_policy_loss(
                log_probs, old, chosen.advantages[micro], self.args.eps_clip
            )
            spread = entropy(log_policy)
            policy_loss = (surrogate - self.args.entropy_coef * spread).sum() / len(rows)
            kl_loss = policy_loss.new_zeros(())
            if chosen.reference is not None:
                frozen = self.mac.reference_logits(chosen.reference[micro])
                log_frozen = masked_log_softmax(frozen, steps.available[micro])
                pair = (log_policy, log_frozen) if self.args.kl["direction"] == "forward" else (log_frozen, log_policy)
                kl_loss = kl_divergence(*pair).sum() / len(rows)
            (policy_loss + coef * kl_loss).backward()
            log_ratio = (log_probs - old).detach()
            sums["policy_loss"] += policy_loss.item()
            sums["kl_loss"] += kl_loss.item()
            sums["entropy"] += spread.sum().item() / len(rows)
            sums["clip_fraction"] += clipped.sum().item() / len(rows)
            sums["approx_kl"] += (log_ratio.exp() - 1 - log_ratio).sum().item() / len(rows)
        if sums["kl_loss"] > self.args.kl["eps"]:
            self.kl.measure(sums["policy_loss"], sums["kl_loss"])
        lora, head = (group["params"] for group in self.actor_optimiser.param_groups)
        sums["lora_grad_norm"] = float(torch.nn.utils.get_total_norm([p.grad for p in lora if p.grad is not None]))
        sums["head_grad_norm"] = float(torch.nn.utils.get_total_norm([p.grad for p in head if p.grad is not None]))
        torch.nn.utils.clip_grad_norm_([*lora, *head], self.args.grad_norm_clip, error_if_nonfinite=True)
        self.actor_optimiser.step()
        for name, value in sums.items():
            stats[name].append(value)

    def _update_critic(self, batch: Any, old_values: Tensor, targets: Tensor, counts: Tensor, stats: dict) -> None:
        """One optimiser step of the critic on all states; values and targets are in its own, normalised units."""
        values = self.critic(batch).squeeze(-1)[:, :-1]
        losses = ppo_core.clipped_value_loss(
            values, old_values[:, :-1], targets, self.args.value_clip, self.args.huber_delta
        )
        loss = ppo_core.masked_mean(losses, counts)
        self.critic_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(
            self.critic.parameters(), self.args.grad_norm_clip, error_if_nonfinite=True
        )
        self.critic_optimiser.step()
        stats["value_loss"].append(loss.item())
        stats["critic_grad_norm"].append(float(norm))

    @torch.no_grad()
    def _record_old_log_probs(self, steps: Any, chosen: SimpleNamespace) -> None:
        everything = torch.arange(len(steps), device=chosen.actions.device)
        for micro in self.mac.microbatches(steps, everything):
            log_policy = masked_log_softmax(self.mac.logits(steps, micro), steps.available[micro])
            chosen.old_log_probs[micro] = log_policy.gather(-1, chosen.actions[micro].unsqueeze(-1)).squeeze(-1)

    def _minibatches(self, count: int, t_env: int, epoch: int) -> Iterator[Tensor]:
        """The decisions in ``minibatches`` random parts; one part keeps their order."""
        device = self.mac.device
        if self.args.minibatches == 1:
            order = torch.arange(count, device=device)
        else:
            shuffled = keyed_generator(self.args.seed, "minibatch", t_env, epoch).permutation(count)
            order = torch.from_numpy(shuffled).to(device)
        yield from (part for part in order.tensor_split(self.args.minibatches) if len(part))

    def _groups(self) -> list[dict[str, Any]]:
        return [*self.actor_optimiser.param_groups, *self.critic_optimiser.param_groups]

    def _decay_learning_rates(self, t_env: int) -> None:
        left = max(0.0, 1.0 - t_env / self.args.t_max) if self.args.lr_decay else 1.0
        for group, lr in zip(self._groups(), self._base_lrs, strict=True):
            group["lr"] = lr * left

    def _log(self, stats: dict[str, list[float]], t_env: int) -> None:
        for name, values in stats.items():
            self.logger.log_stat(name, sum(values) / len(values), t_env)

    def _log_speed(self, decisions: int, playing: dict[str, float], updating_since: float, t_env: int) -> None:
        now = time.perf_counter()
        elapsed = now - self._last_time
        self.logger.log_stat("agent_steps_per_second", decisions / elapsed, t_env)
        self.logger.log_stat("llm_time_share", (playing["seconds"] + now - updating_since) / elapsed, t_env)
        self.logger.log_stat("prompt_tokens_mean", playing["tokens"] / max(1, playing["rows"]), t_env)

    def cuda(self) -> None:
        """Move the critic to the GPU; the controller moves the policy."""
        self.mac.cuda()
        self.critic.cuda()
        self.value_normaliser.cuda()

    def save_models(self, path: str) -> None:
        """Everything that training has changed: adapter, head, critic, optimisers, normaliser, KL."""
        self.mac.save_models(path)
        save_tensors(f"{path}/critic.safetensors", self.critic.state_dict())
        save_tensors(f"{path}/value_normaliser.safetensors", self.value_normaliser.state_dict())
        save_tensors(f"{path}/actor_optimiser.safetensors", optimiser_tensors(self.actor_optimiser))
        save_tensors(f"{path}/critic_optimiser.safetensors", optimiser_tensors(self.critic_optimiser))
        facts = {
            "format": 1,
            "version": __version__,
            "kl_initial": self.kl.initial,
            "shape": _shape(self.args),
        }
        Path(path, "learner.json").write_text(json.dumps(facts, indent=2))

    def load_models(self, path: str) -> None:
        """Load strictly; nothing here depends on team sizes, so a checkpoint of another map loads too."""
        facts = _read_facts(path)
        for key, value in _shape(self.args).items():
            if facts["shape"].get(key) != value:
                raise ConfigError(
                    f"checkpoint_path={path} was trained with {key}={facts['shape'].get(key)} but this run has "
                    f"{key}={value}; set {key} to the checkpoint's value."
                )
        self.mac.load_models(path)
        for name, module in (("critic", self.critic), ("value_normaliser", self.value_normaliser)):
            module.load_state_dict(load_tensors(f"{path}/{name}.safetensors", expected=module.state_dict()))
        for name in ("actor_optimiser", "critic_optimiser"):
            file = f"{path}/{name}.safetensors"
            load_optimiser_tensors(getattr(self, name), load_tensors(file), where=file)
        self.kl.initial = facts["kl_initial"]
        self.logger.console_logger.info(f"Loaded {path}: no tensor missing, none unexpected.")


def _build_critic(scheme: Mapping[str, Mapping], args: SimpleNamespace) -> torch.nn.Module:
    critics = registry.ENTRIES["critic"]
    if args.critic_type not in critics:
        raise ConfigError(
            f"critic_type={args.critic_type} is tied to one map's sizes or unknown; "
            f"set it to one of: {', '.join(critics)}."
        )
    return registry.load(critics[args.critic_type])(scheme, args)


def _shape(args: SimpleNamespace) -> dict[str, Any]:
    """What has to be the same for a checkpoint's numbers to mean the same, beyond the shapes of its tensors."""
    keys = {
        "llm": ("model", "num_layers", "pretrained"),
        "lora": ("rank", "alpha", "targets"),
        "head": ("attack_keys",),
    }
    shape = {f"{section}.{key}": getattr(args, section)[key] for section in keys for key in keys[section]}
    return shape if args.llm["pretrained"] else {**shape, "seed": args.seed}  # the seed then made the base model


def _read_facts(path: str) -> dict[str, Any]:
    file = Path(path, "learner.json")
    if not file.is_file():
        raise ConfigError(f"checkpoint_path={path} has no learner.json; set it to a folder that save_model wrote.")
    try:
        facts = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file} is damaged ({error}); set load_step to another checkpoint.") from error
    if facts.get("format") != 1:
        raise ConfigError(f"{file} is not of a format this version reads; set checkpoint_path to another checkpoint.")
    return facts
