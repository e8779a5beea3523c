"""MAPPO learner of all algorithms. The KL to a frozen reference is annealed to zero (paper, section 4.3)."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lolm_plugin.checks import check_batch, check_finite, check_losses
from lolm_plugin.controllers.controller import Controller
from lolm_plugin.controllers.decisions import Decisions
from lolm_plugin.learners import learner_checkpoint, ppo_core
from lolm_plugin.learners.coefficients import EntropyCoefficient, KLCoefficient
from lolm_plugin.learners.learner_checkpoint import MODULES, OPTIMISERS
from lolm_plugin.learners.ratio_check import RatioCheck
from lolm_plugin.map_batches import MapBatches
from lolm_plugin.memory import retry_on_oom, step_optimiser
from lolm_plugin.modules.critics import Critic, ValueNormaliser, build_critic
from lolm_plugin.modules.heads import entropy, kl_divergence, masked_log_softmax
from lolm_plugin.modules.sharing import ManyMapsCritic
from lolm_plugin.protocols import Batch, Logger
from lolm_plugin.randomness import keyed_generator
from lolm_plugin.tensor_files import (
    expected_optimiser_tensors,
    load_optimiser_tensors,
    load_tensors,
    optimiser_tensors,
    save_tensors,
)

KL_KEYS = ("enabled", "anneal_steps", "eps", "coef_max", "balance_steps")


@dataclass(frozen=True)
class UpdateBatch:
    """Data of one update: B episodes of T steps and A agents, with D decisions."""

    episodes: Batch
    t_env: int
    # For the critic.
    old_values: Tensor  # [B, T + 1, A], computed before the update, in the critic's units
    values: Tensor  # the same in the environment's units
    returns: Tensor  # [B, T, A]
    counts: Tensor  # [B, T, A]: 1 for a step of an episode, 0 for padding
    # For the policy.
    decisions: Decisions
    actions: Tensor  # int64 [D]
    advantages: Tensor  # [D]
    behaviour_log_probs: Tensor  # [D], of the actions, as recorded in the rollout
    old_log_probs: Tensor  # [D], of the policy before its first optimiser step; filled at its first evaluation
    reference: Any  # hidden states of the frozen reference model for each decision; None: no KL
    weight: float  # agent-steps per decision in the policy's means: 1, or more with mask_dead=False


class MAPPOLearner:
    """On-policy MAPPO. Each call of ``train`` must get exactly the episodes that the current policy has just played.

    No copy of the old policy is kept. Before its first optimiser step the policy is still the behaviour policy, so the
    log-probabilities of the first epoch are the old ones. ``ratio_epoch0`` compares them with those recorded in the
    rollout and must be 1. The controller handles a policy's memory, auxiliary losses and noise.

    To change the learner, register a subclass in ``registry.ENTRIES["learner"]`` and set ``learner`` in the algorithm's
    yaml. This one logs one more series::

        class RewardLearner(MAPPOLearner):
            def train(self, batch, t_env, episode_num):
                super().train(batch, t_env, episode_num)
                self.logger.log_stat("reward_max", batch["reward"].max().item(), t_env)

    Args:
        mac: the controller of the policy.
        scheme: fields of the batch, as in EPyMARL: name -> ``vshape`` and more.
        logger: the host's logger.
        args: the configuration.
    """

    def __init__(
        self, mac: Controller, scheme: Mapping[str, Mapping[str, Any]], logger: Logger, args: SimpleNamespace
    ) -> None:
        self.mac = mac
        self.args = args
        self.logger = logger
        self.n_agents = args.n_agents
        self.critic: Any = build_critic(scheme, args)
        self.value_normaliser = ValueNormaliser()
        self.kl = KLCoefficient(**{key: args.kl[key] for key in KL_KEYS})
        self.entropy = EntropyCoefficient(
            args.entropy_coef, args.entropy_coef_end, args.entropy_target, args.entropy_target_end, args.t_max
        )
        self.ratio_check = RatioCheck(args.eps_clip)
        self.actor_optimiser = torch.optim.Adam(mac.parameter_groups(), eps=args.optim_eps, fused=True)
        self.critic_optimiser = torch.optim.Adam(
            self.critic.parameters(), lr=args.critic_lr, eps=args.optim_eps, fused=True
        )
        self._base_lrs = [group["lr"] for group in self._groups()]
        self.last_log = -args.learner_log_interval - 1
        self._last_time = time.perf_counter()

    def join_maps(self, critics: Sequence[Critic], args: SimpleNamespace) -> None:
        """Set the learner up for ``MapBatches``: ``critics`` of the other maps, ``args`` with the largest sizes."""
        self.args, self.n_agents = args, args.n_agents
        self.critic = ManyMapsCritic([self.critic, *critics])

    def train(self, batch: Batch, t_env: int, episode_num: int) -> None:
        """Make one update: ``epochs`` passes over a batch of whole episodes [batch, time, ...].

        Args:
            batch: the episodes.
            t_env: environment steps so far, including this batch.
            episode_num: episodes so far; not used.

        Raises:
            NonFiniteError: a number is NaN or infinite, or ``ratio_epoch0`` is not 1 within the controller's tolerance.
            ConfigError: the smallest microbatch does not fit into the GPU's memory.
        """
        rollout_usage, started = self.mac.pop_usage(), time.perf_counter()
        self._decay_learning_rates(t_env)
        check_batch(batch, t_env)
        update = self._prepare(batch, t_env)

        stats: dict[str, list[float]] = defaultdict(list)
        stats |= {"ratio_epoch0": [1.0], "ratio_deviation_p99": [0.0], "ratio_deviation_mean": [0.0]}
        if self.args.minibatches > 1:  # the policy has changed before it evaluates the second minibatch
            retry_on_oom(partial(self._fill_old_log_probs, update), self.mac)
            self._check_ratio(update, stats)
        # The policy's updates stop when its KL to the behaviour policy exceeds ``target_kl``; the critic's continue.
        approx_kl, limit = 0.0, self.args.target_kl or float("inf")
        for epoch in range(self.args.epochs):
            first = epoch == 0 and self.args.minibatches == 1
            for subset in self._minibatches(update.decisions, t_env, epoch):
                if approx_kl <= limit:
                    approx_kl = self._update_actor(update, subset, first, stats)
            if epoch == 0 and self.args.normalise_values:
                self.value_normaliser.update(update.returns, update.counts)
            targets = self.value_normaliser.normalise(update.returns)
            for episodes in self._random_parts(
                batch.batch_size, self.args.critic_minibatches, "critic_minibatch", t_env, epoch
            ):
                self._update_critic(update, episodes, targets, stats)

        if t_env - self.last_log >= self.args.learner_log_interval:
            self.last_log = t_env
            self._log(update, stats, rollout_usage, started)
        if entropies := stats.get("entropy"):
            self.entropy.measured = sum(entropies) / len(entropies)
        self.mac.end_update()
        self.mac.pop_usage()  # the forward passes of this update are already in its wall time
        self._last_time = time.perf_counter()

    def _prepare(self, batch: Batch, t_env: int) -> UpdateBatch:
        """Compute everything that stays the same during an update."""
        valid = (batch["filled"][:, :-1] * batch["filled"][:, 1:]).float()  # a step is valid if another one follows
        old_values = retry_on_oom(partial(self._old_values, batch, t_env), self.mac, "critic")
        check_finite("values of the critic", old_values, t_env, ("episode", "step", "agent"), batch)
        values = self.value_normaliser.denormalise(old_values)

        # On many maps, the number of agents is that of the batch's greatest map.
        rewards = batch["reward"][:, :-1].expand(-1, -1, values.shape[2])
        terminated = batch["terminated"][:, :-1].float()
        if self.args.bootstrap_time_limit is False:  # otherwise Runner.stored_terminated has set it
            terminated = torch.maximum(terminated, ppo_core.last_steps(valid))
        advantages, returns = ppo_core.gae(rewards, values, terminated, valid, self.args.gamma, self.args.gae_lambda)
        counts = valid.expand_as(returns)
        if isinstance(batch, MapBatches):  # a smaller map has fewer agents than the greatest
            counts = counts * batch.present

        decisions = retry_on_oom(partial(self.mac.decisions, batch, valid.squeeze(-1) > 0, t_env), self.mac)
        retry_on_oom(partial(self.mac.prepare, decisions), self.mac)
        reference = None
        if self.kl.active(t_env):
            reference = retry_on_oom(partial(self.mac.reference_states, decisions), self.mac)
        return UpdateBatch(
            episodes=batch,
            t_env=t_env,
            old_values=old_values,
            values=values,
            returns=returns,
            counts=counts,
            decisions=decisions,
            actions=batch["actions"][:, :-1].squeeze(-1)[decisions.index],
            advantages=self._normalised_advantages(advantages, counts, decisions),
            behaviour_log_probs=batch["behaviour_log_probs"][:, :-1].squeeze(-1)[decisions.index],
            old_log_probs=torch.zeros(len(decisions), device=valid.device),
            reference=reference,
            weight=1.0 if self.args.mask_dead else float(counts.sum()) / max(1, len(decisions)),
        )

    def _normalised_advantages(self, advantages: Tensor, counts: Tensor, decisions: Decisions) -> Tensor:
        """Select the advantages [D] of the decisions from [B, T, A]; normalise them if ``normalise_advantages``."""
        if not self.args.normalise_advantages:
            return advantages[decisions.index]
        # If the critic predicts every return, the advantages are only its noise. Scaled to variance 1, this noise made
        # policies worse again (probe retreat, seed 3: return from the optimum to .83).
        least = self.args.advantage_floor * self.value_normaliser.deviation
        if not self.args.mask_dead:
            return ppo_core.normalise(advantages, counts, least_deviation=least)[decisions.index]
        chosen = advantages[decisions.index]
        return ppo_core.normalise(chosen, torch.ones_like(chosen), least_deviation=least)

    def _fill_old_log_probs(self, update: UpdateBatch) -> None:
        everything = torch.arange(len(update.decisions), device=update.actions.device)
        self._fill_log_probs(update.old_log_probs, update.decisions, everything, update.actions)

    @torch.no_grad()
    def _fill_log_probs(self, log_probs: Tensor, decisions: Decisions, subset: Tensor, actions: Tensor) -> None:
        """Write the log-probabilities of ``actions`` [D] for ``subset`` [n] of the decisions into ``log_probs`` [D]."""
        for micro in self.mac.microbatches(decisions, subset):
            logits = self.mac.evaluate(decisions, micro).logits
            log_policy = masked_log_softmax(logits, decisions.available[micro])
            log_probs[micro] = log_policy.gather(-1, actions[micro].unsqueeze(-1)).squeeze(-1)

    def _repeated_log_probs(self, update: UpdateBatch) -> Tensor:
        """Evaluate the decisions [D] again, those of a timestep together as in the rollout."""
        decisions = self.mac.without_stored_states(update.decisions)
        step = decisions.index[1]

        def repeat() -> Tensor:
            log_probs = torch.zeros_like(update.old_log_probs)
            for t in step.unique():
                self._fill_log_probs(log_probs, decisions, (step == t).nonzero().squeeze(-1), update.actions)
            return log_probs

        return retry_on_oom(repeat, self.mac)

    def _check_ratio(self, update: UpdateBatch, stats: dict[str, list[float]]) -> None:
        """Check ``old_log_probs`` against the rollout's and add the ratio's statistics to ``stats``."""
        found = self.ratio_check.check(
            update.old_log_probs,
            update.behaviour_log_probs,
            self.mac.ratio_tolerance(),
            partial(self._repeated_log_probs, update) if self.mac.low_precision() else None,
            update.t_env,
            update.episodes,
        )
        stats |= {name: [value] for name, value in found.items()}

    def _update_actor(self, update: UpdateBatch, subset: Tensor, first: bool, stats: dict[str, list[float]]) -> float:
        """Make one optimiser step on ``subset`` [n] of the decisions; return ``approx_kl`` before this step."""
        sums = retry_on_oom(partial(self._actor_gradients, update, subset, first), self.mac)
        if first:
            self._check_ratio(update, stats)
        self.kl.measure(sums["policy_loss"], sums["kl_loss"])
        groups = {group["name"]: group["params"] for group in self.actor_optimiser.param_groups}
        for name, parameters in groups.items():
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            sums[f"{name}_grad_norm"] = float(torch.nn.utils.get_total_norm(gradients))
        for parameters in groups.values() if self.args.clip_per_group else [self.mac.parameters()]:
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.args.grad_norm_clip)
            check_finite("gradient norm of the policy", norm, update.t_env, batch=update.episodes)
        step_optimiser(self.actor_optimiser, self.mac)
        # A fused step does not increment the weights' versions, by which the language model finds stale cached states.
        torch.autograd.graph.increment_version(self.mac.parameters())
        for name, value in sums.items():
            stats[name].append(value)
        return sums["approx_kl"]

    def _actor_gradients(self, update: UpdateBatch, subset: Tensor, first: bool) -> dict[str, float]:
        """Accumulate the policy's gradients over microbatches; return the statistics to log. Safe to rerun."""
        kl_coef, entropy_coef = self.kl.coef(update.t_env), self.entropy.coef(update.t_env)
        count = len(subset) * update.weight
        sums: dict[str, float] = defaultdict(float)
        self.actor_optimiser.zero_grad(set_to_none=True)
        for micro in self.mac.microbatches(update.decisions, subset):
            available = update.decisions.available[micro]
            policy = self.mac.evaluate(update.decisions, micro)
            log_policy = masked_log_softmax(policy.logits, available)
            log_probs = log_policy.gather(-1, update.actions[micro].unsqueeze(-1)).squeeze(-1)
            if first:
                update.old_log_probs[micro] = log_probs.detach()
            old_log_probs = update.old_log_probs[micro]
            surrogate, clipped = ppo_core.clipped_policy_loss(
                log_probs, old_log_probs, update.advantages[micro], self.args.eps_clip
            )
            entropies = entropy(log_policy)
            policy_loss = (surrogate - entropy_coef * entropies).sum() / count
            kl_loss = policy_loss.new_zeros(())
            if update.reference is not None:
                log_reference = masked_log_softmax(self.mac.reference_logits(update.reference[micro]), available)
                pair = (log_policy, log_reference)
                kl_loss = kl_divergence(*(pair if self.args.kl["direction"] == "forward" else pair[::-1])).sum() / count
            auxiliary = {f"{name}_loss": loss.sum() / len(subset) for name, loss in policy.losses.items()}
            loss = policy_loss + kl_coef * kl_loss + sum(auxiliary.values())
            losses = {"policy_loss": policy_loss, "kl_loss": kl_loss, **auxiliary}
            check_losses(log_probs, losses, loss, update.t_env, update.episodes)
            loss.backward()
            log_ratio = (log_probs - old_log_probs).detach()
            means = {"entropy": entropies, "clip_fraction": clipped, "approx_kl": log_ratio.exp() - 1 - log_ratio}
            for name, value in {**means, **policy.stats}.items():
                sums[name] += value.sum().item() / len(subset)
            for name, value in losses.items():
                sums[name] += value.item()
        return sums

    def _update_critic(
        self, update: UpdateBatch, episodes: Tensor, targets: Tensor, stats: dict[str, list[float]]
    ) -> None:
        """Make one optimiser step of the critic on ``episodes`` [n]; ``targets`` [B, T, A] are in critic units."""
        sums = retry_on_oom(partial(self._critic_gradients, update, episodes, targets), self.mac, "critic")
        norm = torch.nn.utils.clip_grad_norm_(self.critic.parameters(), self.args.grad_norm_clip)
        check_finite("gradient norm of the critic", norm, update.t_env, batch=update.episodes)
        step_optimiser(self.critic_optimiser, self.mac, "critic")
        for name, value in (sums | {"critic_grad_norm": float(norm)}).items():
            stats[name].append(value)

    def _critic_gradients(self, update: UpdateBatch, episodes: Tensor, targets: Tensor) -> dict[str, float]:
        """Accumulate the critic's gradients over a few episodes at a time; return the losses to log. Safe to rerun."""
        count = update.counts[episodes].sum().clamp(min=1)
        clip = self.args.value_clip if self.args.clip_values else torch.inf
        sums: dict[str, float] = defaultdict(float)
        self.critic_optimiser.zero_grad(set_to_none=True)
        for micro in self._few_episodes(episodes, update.episodes):
            values, auxiliary = self.critic.evaluate(update.episodes, update.t_env, micro)
            values, weight = values.squeeze(-1)[:, :-1], update.counts[micro]
            losses = {
                "value_loss": ppo_core.clipped_value_loss(
                    values, update.old_values[micro, :-1], targets[micro], clip, self.args.huber_delta
                ),
                **{f"critic_{name}_loss": loss[:, :-1] for name, loss in auxiliary.items()},
            }
            means = {name: (loss * weight).sum() / count for name, loss in losses.items()}
            loss = reduce(torch.add, means.values())
            check_losses(values, means, loss, update.t_env, update.episodes)
            loss.backward()
            for name, value in means.items():
                sums[name] += value.item()
        return sums

    @torch.no_grad()
    def _old_values(self, batch: Batch, t_env: int) -> Tensor:
        """Compute the values [B, T + 1, A] before the update, in the critic's units."""
        everything = torch.arange(batch.batch_size, device=self.mac.device)
        values = [self.critic.evaluate(batch, t_env, few)[0] for few in self._few_episodes(everything, batch)]
        return torch.cat(values).squeeze(-1)

    def _few_episodes(self, episodes: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        """Split episodes into microbatches of at most ``microbatch`` agent-steps, but of at least one episode."""
        return episodes.split(max(1, self.args.microbatch // (batch.max_seq_length * self.n_agents)))

    def _minibatches(self, decisions: Decisions, t_env: int, epoch: int) -> Iterator[Tensor]:
        """Split the decisions into ``minibatches`` random parts of whole groups. A single part keeps their order."""
        if decisions.group_ids is None:
            yield from self._random_parts(len(decisions), self.args.minibatches, "minibatch", t_env, epoch)
            return
        n_groups = int(decisions.group_ids.max()) + 1 if len(decisions) else 0
        for groups in self._random_parts(n_groups, self.args.minibatches, "minibatch", t_env, epoch):
            subset = torch.isin(decisions.group_ids, groups).nonzero().squeeze(-1)
            if len(subset):
                yield subset

    def _random_parts(self, count: int, n_parts: int, purpose: str, t_env: int, epoch: int) -> Iterator[Tensor]:
        """Split ``range(count)`` into ``n_parts`` random parts. A single part keeps the order."""
        order = torch.arange(count)
        if n_parts > 1:
            order = torch.from_numpy(keyed_generator(self.args.seed, purpose, t_env, epoch).permutation(count))
        yield from (part for part in order.to(self.mac.device).tensor_split(n_parts) if len(part))

    def _groups(self) -> list[dict[str, Any]]:
        return [*self.actor_optimiser.param_groups, *self.critic_optimiser.param_groups]

    def _decay_learning_rates(self, t_env: int) -> None:
        left = max(0.0, 1.0 - t_env / max(1, self.args.t_max)) if self.args.lr_decay else 1.0
        for group, lr in zip(self._groups(), self._base_lrs, strict=True):
            group["lr"] = lr * left

    def _log(
        self, update: UpdateBatch, stats: dict[str, list[float]], rollout_usage: dict[str, float], started: float
    ) -> None:
        """Log the means and the speed of an update. ``started`` is its start time (``time.perf_counter``)."""
        t_env, elapsed = update.t_env, time.perf_counter() - self._last_time
        explained = ppo_core.explained_variance(update.values[:, :-1], update.returns, update.counts)
        means = {name: sum(values) / len(values) for name, values in stats.items()}
        means |= {"kl_coef": self.kl.coef(t_env), "entropy_coef": self.entropy.coef(t_env)}
        means |= {"explained_variance": float(explained), "agent_steps_per_second": len(update.decisions) / elapsed}
        if rollout_usage:  # there is a language model
            learning = time.perf_counter() - started
            means["llm_time_share"] = (rollout_usage["seconds"] + learning) / elapsed
            means["prompt_tokens_mean"] = rollout_usage["tokens"] / max(1, rollout_usage["prompts"])
        for name, value in means.items():
            self.logger.log_stat(name, value, t_env)

    def cuda(self) -> None:
        """Move policy and critic to the GPU."""
        for part in (self.mac, self.critic, self.value_normaliser):
            part.cuda()

    def save_models(self, path: str) -> None:
        """Write policy, critic, optimisers, value normaliser and coefficients into a folder."""
        self.mac.save_models(path)
        for name in MODULES:
            save_tensors(f"{path}/{name}.safetensors", getattr(self, name).state_dict())
        for name in OPTIMISERS:
            save_tensors(f"{path}/{name}.safetensors", optimiser_tensors(getattr(self, name)))
        measured = {"kl_initial": self.kl.initial, "kl_measured": self.kl.measured, "entropy": self.entropy.measured}
        learner_checkpoint.write_facts(path, self.args, self.mac, measured)

    def load_models(self, path: str) -> None:
        """Load what ``save_models`` wrote. A checkpoint of another map loads too if the policy fits any map.

        Raises:
            ConfigError: the map, a setting or a tensor does not fit, or a file is missing or damaged.
        """
        facts = learner_checkpoint.check_fits(path, f"checkpoint_path={path}", self.args, self.mac, with_critic=True)
        self.mac.load_models(path)
        self.load_critic(path)
        for name in OPTIMISERS:
            file, optimiser = f"{path}/{name}.safetensors", getattr(self, name)
            tensors = load_tensors(file, expected=expected_optimiser_tensors(optimiser), may_be_empty=True)
            load_optimiser_tensors(optimiser, tensors, where=file)
        self.kl.initial = facts["kl_initial"]
        self.kl.measured = [(policy, kl) for policy, kl in facts["kl_measured"]]
        self.entropy.measured = facts["entropy"]
        self.logger.console_logger.info(f"Loaded {path}: no tensor missing, none unexpected.")

    def load_critic(self, path: str) -> None:
        """Load critic and value normaliser. Raises ConfigError for a missing, unexpected or misshapen tensor."""
        for name in MODULES:
            module = getattr(self, name)
            module.load_state_dict(load_tensors(f"{path}/{name}.safetensors", expected=module.state_dict()))
