"""One MAPPO for every algorithm, with a KL to a frozen reference that anneals to zero (paper, section 4.3)."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lolm_plugin import registry
from lolm_plugin.errors import ConfigError
from lolm_plugin.finite import check_finite
from lolm_plugin.learners import guards, learner_checkpoint, ppo_core
from lolm_plugin.learners.entropy_coefficient import EntropyCoefficient
from lolm_plugin.learners.kl_annealing import KLAnnealing
from lolm_plugin.learners.value_normaliser import ValueNormaliser
from lolm_plugin.modules.masked_policy import entropy, kl_divergence, masked_log_softmax
from lolm_plugin.randomness import keyed_generator

KL_KEYS = ("enabled", "anneal_steps", "eps", "coef_max", "balance_steps")


class MAPPOLearner:
    """On-policy: each call of ``train`` gets exactly the episodes that the current policy has just played.

    No old copy of the policy is kept. Before its first step the policy still is the behaviour policy, so the
    first epoch's log-probabilities are the old ones; ``ratio_epoch0`` compares them with those recorded while
    playing and has to be 1. What it asks of a policy is in ``controllers/controller.py``: memory, losses of the
    policy's own and the noise it draws stay the controller's business.
    """

    def __init__(self, mac: Any, scheme: Mapping[str, Mapping], logger: Any, args: SimpleNamespace) -> None:
        self.mac = mac
        self.args = args
        self.logger = logger
        self.n_agents = args.n_agents
        self.critic = _build_critic(scheme, args)
        self.value_normaliser = ValueNormaliser()
        self.kl = KLAnnealing(**{key: args.kl[key] for key in KL_KEYS})
        self.entropy = EntropyCoefficient(
            args.entropy_coef, args.entropy_coef_end, args.entropy_target, args.entropy_target_end, args.t_max
        )
        self.actor_optimiser = torch.optim.Adam(mac.parameter_groups(), eps=args.optim_eps, fused=True)
        self.critic_optimiser = torch.optim.Adam(
            self.critic.parameters(), lr=args.critic_lr, eps=args.optim_eps, fused=True
        )
        self._base_lrs = [group["lr"] for group in self._groups()]
        self.last_log = -args.learner_log_interval - 1
        self._last_time = time.perf_counter()

    def train(self, batch: Any, t_env: int, episode_num: int) -> None:
        """One update: ``epochs`` passes over a batch of whole episodes [batch, time, ...]."""
        playing = self.mac.take_usage()
        updating_since = time.perf_counter()
        self._decay_learning_rates(t_env)

        guards.check_batch(batch, t_env)
        valid = (batch["filled"][:, :-1] * batch["filled"][:, 1:]).float()  # a step counts if it led somewhere
        rewards = batch["reward"][:, :-1].expand(-1, -1, self.n_agents)
        terminated = batch["terminated"][:, :-1].float()
        if self.args.bootstrap_time_limit is False:  # else the runner has stored what ended; see Runner.stored_end
            terminated = torch.maximum(terminated, ppo_core.last_steps(valid))
        old_values = self.mac.fitting(partial(self._old_values, batch, t_env))
        check_finite("values of the critic", old_values, t_env, ("episode", "step", "agent"), batch)
        values = self.value_normaliser.denormalise(old_values)
        advantages, returns = ppo_core.gae(rewards, values, terminated, valid, self.args.gamma, self.args.gae_lambda)
        counts = valid.expand_as(returns)

        steps = self.mac.agent_steps(batch, valid.squeeze(-1) > 0, t_env)
        self.mac.prepare(steps)
        chosen = SimpleNamespace(
            actions=batch["actions"][:, :-1].squeeze(-1)[steps.index],
            advantages=self._advantages(advantages, counts, steps),
            old_log_probs=torch.zeros(len(steps), device=valid.device),
            reference=self.mac.reference_states(steps) if self.kl.active(t_env) else None,
            ratio=1.0,
            # How many agent-steps stand behind one decision in a mean: 1, or more if the dead count.
            weight=1.0 if self.args.mask_dead else float(counts.sum()) / max(1, len(steps)),
        )
        stats: dict[str, list[float]] = defaultdict(list)
        if self.args.minibatches > 1:  # later minibatches of the first epoch no longer see the old policy
            self.mac.fitting(partial(self._record_old_log_probs, steps, chosen))
            self._check_ratio(batch, steps, chosen, t_env)
        # The policy stops once it is ``target_kl`` from the one that played; the critic learns on.
        moved, limit = 0.0, self.args.target_kl or float("inf")
        for epoch in range(self.args.epochs):
            fresh = epoch == 0 and self.args.minibatches == 1
            for rows in self._minibatches(steps, t_env, epoch):
                if moved <= limit:
                    moved = self._update_actor(batch, steps, rows, chosen, fresh, t_env, stats)
            if epoch == 0 and self.args.normalise_values:
                self.value_normaliser.update(returns, counts)
            targets = self.value_normaliser.normalise(returns)
            for episodes in self._parts(len(valid), self.args.critic_minibatches, "critic_minibatch", t_env, epoch):
                self._update_critic(batch, episodes, old_values, targets, counts, t_env, stats)

        entropies = stats.get("entropy")
        if t_env - self.last_log >= self.args.learner_log_interval:
            self.last_log = t_env
            stats["ratio_epoch0"].append(chosen.ratio)
            stats["kl_coef"].append(self.kl.coef(t_env))
            stats["entropy_coef"].append(self.entropy.coef(t_env))
            stats["explained_variance"].append(float(ppo_core.explained_variance(values[:, :-1], returns, counts)))
            self._log(stats, t_env)
            self._log_speed(len(steps), playing, updating_since, t_env)
        if entropies:
            self.entropy.measure(sum(entropies) / len(entropies))
        self.mac.end_update()
        self.mac.take_usage()  # this update's own forward passes are in its wall time already
        self._last_time = time.perf_counter()

    def _check_ratio(self, batch: Any, steps: Any, chosen: SimpleNamespace, t_env: int) -> None:
        behaviour = self.mac.behaviour_log_probs[:, : batch.max_seq_length - 1][steps.index]
        chosen.ratio = float(ppo_core.farthest_ratio(chosen.old_log_probs, behaviour))
        guards.check_ratio(chosen.ratio, self.mac.ratio_tolerance(), t_env, batch)

    def _update_actor(
        self, batch: Any, steps: Any, rows: Tensor, chosen: SimpleNamespace, fresh: bool, t_env: int, stats: dict
    ) -> float:
        """Make one optimiser step on ``rows`` [n] of the decisions; return ``approx_kl`` before it."""
        sums = self.mac.fitting(partial(self._actor_gradients, batch, steps, rows, chosen, fresh, t_env))
        if fresh:
            self._check_ratio(batch, steps, chosen, t_env)
        if sums["kl_loss"] > self.args.kl["eps"]:
            self.kl.measure(sums["policy_loss"], sums["kl_loss"])
        for group in self.actor_optimiser.param_groups:
            sums[f"{group['name']}_grad_norm"] = _gradient_norm(group["params"])
        groups = [group["params"] for group in self.actor_optimiser.param_groups]
        for parameters in groups if self.args.clip_per_group else [self.mac.parameters()]:
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.args.grad_norm_clip)
            check_finite("loss's gradient norm of the policy", norm, t_env, batch=batch)
        self.actor_optimiser.step()
        # The fused step does not say that it changed them, by which a policy knows what it has to compute again.
        torch.autograd.graph.increment_version(self.mac.parameters())
        for name, value in sums.items():
            stats[name].append(value)
        return sums["approx_kl"]

    def _actor_gradients(
        self, batch: Any, steps: Any, rows: Tensor, chosen: SimpleNamespace, fresh: bool, t_env: int
    ) -> dict[str, float]:
        """Gradients added up over microbatches; returns what is logged. May be begun again."""
        coef = self.kl.coef(t_env)
        entropy_coef = self.entropy.coef(t_env)
        count = len(rows) * chosen.weight
        sums: dict[str, float] = defaultdict(float)
        self.actor_optimiser.zero_grad(set_to_none=True)
        for micro in self.mac.microbatches(steps, rows):
            policy = self.mac.evaluate(steps, micro)
            log_policy = masked_log_softmax(policy.logits, steps.available[micro])
            log_probs = log_policy.gather(-1, chosen.actions[micro].unsqueeze(-1)).squeeze(-1)
            if fresh:
                chosen.old_log_probs[micro] = log_probs.detach()
            old = chosen.old_log_probs[micro]
            surrogate, clipped = ppo_core.clipped_policy_loss(
                log_probs, old, chosen.advantages[micro], self.args.eps_clip
            )
            spread = entropy(log_policy)
            policy_loss = (surrogate - entropy_coef * spread).sum() / count
            kl_loss = policy_loss.new_zeros(())
            if chosen.reference is not None:
                frozen = self.mac.reference_logits(chosen.reference[micro])
                log_frozen = masked_log_softmax(frozen, steps.available[micro])
                pair = (log_policy, log_frozen) if self.args.kl["direction"] == "forward" else (log_frozen, log_policy)
                kl_loss = kl_divergence(*pair).sum() / count
            own_losses = {f"{name}_loss": loss.sum() / len(rows) for name, loss in policy.losses.items()}
            loss = policy_loss + coef * kl_loss + sum(own_losses.values())
            parts = {"policy_loss": policy_loss, "kl_loss": kl_loss, **own_losses}
            guards.check_losses(log_probs, parts, loss, t_env, batch)
            loss.backward()
            log_ratio = (log_probs - old).detach()
            means = {"entropy": spread, "clip_fraction": clipped, "approx_kl": log_ratio.exp() - 1 - log_ratio}
            for name, value in (means | policy.stats).items():
                sums[name] += value.sum().item() / len(rows)
            for name, value in parts.items():
                sums[name] += value.item()
        return sums

    def _update_critic(
        self,
        batch: Any,
        episodes: Tensor,
        old_values: Tensor,
        targets: Tensor,
        counts: Tensor,
        t_env: int,
        stats: dict,
    ) -> None:
        """One optimiser step of the critic on ``episodes`` [n]; values and targets are in its own, normalised units."""
        sums = self.mac.fitting(
            partial(self._critic_gradients, batch, episodes, old_values, targets, counts, t_env),
        )
        norm = torch.nn.utils.clip_grad_norm_(self.critic.parameters(), self.args.grad_norm_clip)
        check_finite("loss's gradient norm of the critic", norm, t_env, batch=batch)
        self.critic_optimiser.step()
        for name, value in (sums | {"critic_grad_norm": float(norm)}).items():
            stats[name].append(value)

    def _critic_gradients(
        self, batch: Any, episodes: Tensor, old_values: Tensor, targets: Tensor, counts: Tensor, t_env: int
    ) -> dict[str, float]:
        """Gradients added up over a few episodes at a time; returns what is logged. May be begun again."""
        count = counts[episodes].sum().clamp(min=1)
        clip = self.args.value_clip if self.args.clip_values else torch.inf
        sums: dict[str, float] = defaultdict(float)
        self.critic_optimiser.zero_grad(set_to_none=True)
        for micro in self._few_episodes(episodes, batch):
            values, own = self.critic.evaluate(batch, t_env, micro)
            values, weight = values.squeeze(-1)[:, :-1], counts[micro]
            losses = {
                "value_loss": ppo_core.clipped_value_loss(
                    values, old_values[micro, :-1], targets[micro], clip, self.args.huber_delta
                ),
                **{f"critic_{name}_loss": loss[:, :-1] for name, loss in own.items()},
            }
            means = {name: (loss * weight).sum() / count for name, loss in losses.items()}
            loss = sum(means.values())
            guards.check_losses(values, means, loss, t_env, batch)
            loss.backward()
            for name, value in means.items():
                sums[name] += value.item()
        return sums

    @torch.no_grad()
    def _old_values(self, batch: Any, t_env: int) -> Tensor:
        """Values [batch, time, agents] before the first step, in the critic's units."""
        everything = torch.arange(batch.batch_size, device=self.mac.device)
        parts = [self.critic.evaluate(batch, t_env, few)[0] for few in self._few_episodes(everything, batch)]
        return torch.cat(parts).squeeze(-1)

    def _few_episodes(self, episodes: Tensor, batch: Any) -> tuple[Tensor, ...]:
        """Episodes that the critic evaluates at once: at most ``microbatch`` agent-steps, or one episode."""
        return episodes.split(max(1, self.args.microbatch // (batch.max_seq_length * self.n_agents)))

    def _advantages(self, advantages: Tensor, counts: Tensor, steps: Any) -> Tensor:
        """Those of the decisions [rows], normalised if asked; [batch, time, agents] in."""
        if not self.args.normalise_advantages:
            return advantages[steps.index]
        # If the critic predicts every return, advantages are its noise. Scaled to variance 1 they made policies forget
        # (probe retreat, seed 3: from the optimum to .83).
        least = self.args.advantage_floor * self.value_normaliser.deviation
        if not self.args.mask_dead:
            return ppo_core.normalise(advantages, counts, least_deviation=least)[steps.index]
        rows = advantages[steps.index]
        return ppo_core.normalise(rows, torch.ones_like(rows), least_deviation=least)

    @torch.no_grad()
    def _record_old_log_probs(self, steps: Any, chosen: SimpleNamespace) -> None:
        everything = torch.arange(len(steps), device=chosen.actions.device)
        for micro in self.mac.microbatches(steps, everything):
            log_policy = masked_log_softmax(self.mac.evaluate(steps, micro).logits, steps.available[micro])
            chosen.old_log_probs[micro] = log_policy.gather(-1, chosen.actions[micro].unsqueeze(-1)).squeeze(-1)

    def _minibatches(self, steps: Any, t_env: int, epoch: int) -> Iterator[Tensor]:
        """The decisions in ``minibatches`` random parts, what belongs together in one; one part keeps the order."""
        if steps.together is None:
            yield from self._parts(len(steps), self.args.minibatches, "minibatch", t_env, epoch)
            return
        units = int(steps.together.max()) + 1 if len(steps) else 0
        for part in self._parts(units, self.args.minibatches, "minibatch", t_env, epoch):
            rows = torch.isin(steps.together, part).nonzero().squeeze(-1)
            if len(rows):
                yield rows

    def _parts(self, count: int, parts: int, purpose: str, t_env: int, epoch: int) -> Iterator[Tensor]:
        """``range(count)`` in ``parts`` random parts; one part keeps its order."""
        order = torch.arange(count)
        if parts > 1:
            order = torch.from_numpy(keyed_generator(self.args.seed, purpose, t_env, epoch).permutation(count))
        yield from (part for part in order.to(self.mac.device).tensor_split(parts) if len(part))

    def _groups(self) -> list[dict[str, Any]]:
        return [*self.actor_optimiser.param_groups, *self.critic_optimiser.param_groups]

    def _decay_learning_rates(self, t_env: int) -> None:
        left = max(0.0, 1.0 - t_env / max(1, self.args.t_max)) if self.args.lr_decay else 1.0
        for group, lr in zip(self._groups(), self._base_lrs, strict=True):
            group["lr"] = lr * left

    def _log(self, stats: dict[str, list[float]], t_env: int) -> None:
        for name, values in stats.items():
            self.logger.log_stat(name, sum(values) / len(values), t_env)

    def _log_speed(self, decisions: int, playing: dict[str, float], updating_since: float, t_env: int) -> None:
        now = time.perf_counter()
        elapsed = now - self._last_time
        self.logger.log_stat("agent_steps_per_second", decisions / elapsed, t_env)
        if playing:  # there is a language model
            self.logger.log_stat("llm_time_share", (playing["seconds"] + now - updating_since) / elapsed, t_env)
            self.logger.log_stat("prompt_tokens_mean", playing["tokens"] / max(1, playing["rows"]), t_env)

    def cuda(self) -> None:
        """Move the critic to the GPU; the controller moves the policy."""
        self.mac.cuda()
        self.critic.cuda()
        self.value_normaliser.cuda()

    def save_models(self, path: str) -> None:
        """Everything that training has changed: policy, critic, optimisers, normaliser, KL."""
        learner_checkpoint.save(self, path)

    def load_models(self, path: str) -> None:
        """Load strictly; unless the policy is tied to its map's sizes, a checkpoint of another map loads too."""
        learner_checkpoint.load(self, path)


def _gradient_norm(parameters: list[torch.nn.Parameter]) -> float:
    return float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


def _build_critic(scheme: Mapping[str, Mapping], args: SimpleNamespace) -> torch.nn.Module:
    critics = registry.ENTRIES["critic"]
    if args.critic_type not in critics:
        raise ConfigError(
            f"critic_type={args.critic_type} is tied to one map's sizes or unknown; "
            f"set it to one of: {', '.join(critics)}."
        )
    return registry.load(critics[args.critic_type])(scheme, args)
