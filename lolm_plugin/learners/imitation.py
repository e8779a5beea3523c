"""Imitation learning: train a policy on a teacher's decisions, with a supervised loss.

Not in the paper: LoLM-MARL uses reinforcement learning only.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lolm_plugin.checks import check_finite
from lolm_plugin.controllers.controller import Controller
from lolm_plugin.controllers.decisions import Decisions
from lolm_plugin.learners import ppo_core
from lolm_plugin.learners.mappo import MAPPOLearner
from lolm_plugin.memory import Part, retry_on_oom, step_optimiser
from lolm_plugin.modules.heads import kl_divergence, masked_log_softmax
from lolm_plugin.protocols import Batch
from lolm_plugin.randomness import keyed_generator

LABELLED_AT_ONCE = 64  # episodes; more need more memory for the teacher's hidden states, fewer are slower
SAME_RETURN = 1e-4  # standard deviation below which returns count as equal


def policy_loss(log_student: Tensor, log_teacher: Tensor, actions: Tensor, loss: str) -> Tensor:
    """Compute the loss of each decision [decisions] in nats.

    Args:
        log_student: log-probabilities [decisions, n_actions], -inf where unavailable.
        log_teacher: log-probabilities of the teacher, over the same available actions.
        actions: int64 [decisions], the teacher's actions.
        loss: ``kl`` for KL(teacher || student), ``ce`` for the cross-entropy on ``actions``.
    """
    if loss == "kl":
        return kl_divergence(log_teacher, log_student)
    return -log_student.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def agreement(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """Return 1.0 where both policies [decisions, n_actions] prefer the same action, else 0.0: [decisions]."""
    return (log_student.argmax(-1) == log_teacher.argmax(-1)).float()


def discounted_returns(rewards: Tensor, valid: Tensor, gamma: float) -> Tensor:
    """Compute discounted returns [B, T, A] from rewards [B, T, A] and valid [B, T, 1].

    An episode cut off by its time limit is not bootstrapped, because no critic is trained yet.
    """
    no_values = rewards.new_zeros(rewards.shape[0], rewards.shape[1] + 1, rewards.shape[2])
    return ppo_core.gae(rewards, no_values, torch.zeros_like(valid), valid, gamma, gae_lambda=1.0)[1]


@torch.no_grad()
def teacher_log_probs(teacher: Controller, batch: Batch) -> Tensor:
    """Compute the teacher's log-probabilities [batch, time, agents, actions] for every step of whole episodes.

    The teacher reads each episode from its first step, so a policy with memory has the same hidden states as in play.
    """
    log_probs = []
    for start in range(0, batch.batch_size, LABELLED_AT_ONCE):
        few = batch[start : start + LABELLED_AT_ONCE]
        running = few["filled"].squeeze(-1) > 0
        teacher.init_hidden(few.batch_size)
        steps = [teacher.act(few, t, 0, running[:, t], test_mode=True) for t in range(few.max_seq_length)]
        log_probs.append(torch.stack([step.log_probs for step in steps], dim=1))
    return torch.cat(log_probs)


@dataclass(frozen=True)
class ImitationData:
    """Training data of an imitation: decisions with the teacher's actions, and their episodes with returns."""

    batch: Batch
    decisions: Decisions
    log_teacher: Tensor  # [decisions, n_actions]
    actions: Tensor  # int64 [decisions]
    returns: Tensor  # [batch, time, agents]
    counts: Tensor  # [batch, time, agents]: 1 for a step of an episode, 0 for padding

    def __len__(self) -> int:
        return len(self.decisions)


def build_imitation_data(
    mac: Controller,
    batch: Batch,
    log_teacher: Tensor,
    actions: Tensor,
    gamma: float,
    show_progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> ImitationData:
    """Build the training data of a batch. The controller caches the frozen layers' states until ``end_update``.

    Args:
        mac: the student's controller.
        batch: whole episodes [batch, time].
        log_teacher: [batch, time, agents, actions].
        actions: int64 [batch, time, agents], chosen by the teacher.
        gamma: discount of the returns.
        show_progress: wraps the loop over episodes in a progress bar. With a language model the loop takes minutes.
    """
    valid = (batch["filled"][:, :-1] * batch["filled"][:, 1:]).float()  # a step is valid if another one follows
    counted = valid.squeeze(-1) > 0
    for start in show_progress(range(0, batch.batch_size, LABELLED_AT_ONCE)):
        # Fills the cache of frozen layers' states in parts that can show progress; the whole batch below takes seconds.
        few = slice(start, start + LABELLED_AT_ONCE)
        retry_on_oom(partial(mac.decisions, batch[few], counted[few]), mac)
    decisions = retry_on_oom(partial(mac.decisions, batch, counted), mac)
    retry_on_oom(partial(mac.prepare, decisions), mac)
    rewards = batch["reward"][:, :-1].expand(-1, -1, mac.n_agents)
    returns = discounted_returns(rewards, valid, gamma)
    index = decisions.index
    return ImitationData(batch, decisions, log_teacher[index], actions[index], returns, valid.expand_as(returns))


class Student:
    """Supervised training of a learner's policy and critic.

    The optimisers are separate and are dropped after the imitation, so PPO starts with fresh ones.
    """

    def __init__(self, learner: MAPPOLearner) -> None:
        self.mac, self.critic, self.value_normaliser = learner.mac, learner.critic, learner.value_normaliser
        self.args = args = learner.args
        self.settings: Mapping[str, Any] = args.imitate
        rates = {"head": self.settings["head_lr"]}
        groups = [
            {**group, "lr": rates.get(group["name"], self.settings["lr"])} for group in self.mac.parameter_groups()
        ]
        self.policy_optimiser = torch.optim.Adam(groups, eps=args.optim_eps, fused=True)
        critic, critic_lr = self.critic.parameters(), self.settings["critic_lr"]
        self.critic_optimiser = torch.optim.Adam(critic, critic_lr, eps=args.optim_eps, fused=True)
        self._groups = [*self.policy_optimiser.param_groups, *self.critic_optimiser.param_groups]
        self._rates = [group["lr"] for group in self._groups]

    def n_steps(self, data: ImitationData) -> int:
        """Return the number of optimiser steps of one epoch."""
        return max(1, round(len(data) / self.settings["minibatch"]))

    def epoch(self, data: ImitationData, t_env: int, epoch: int) -> Iterator[dict[str, float]]:
        """Train on ``data`` once and yield the losses of each optimiser step.

        The learning rates fall linearly to 0 over ``imitate.epochs``.
        """
        steps, epochs = self.n_steps(data), self.settings["epochs"]
        subsets = self._minibatches(data, steps, t_env, epoch)
        episodes = self._random_parts(data.batch.batch_size, steps, "imitate_critic", t_env, epoch)
        for number, (subset, few) in enumerate(zip(subsets, episodes, strict=True)):
            left = 1 - (epoch * steps + number) / (epochs * steps)
            for group, rate in zip(self._groups, self._rates, strict=True):
                group["lr"] = rate * left
            policy = partial(self._policy_gradients, data, subset)
            critic = partial(self._critic_gradients, data, few, t_env)
            loss = self._step(policy, self.policy_optimiser, "policy", data, t_env)
            yield {"loss": loss, "value_loss": self._step(critic, self.critic_optimiser, "critic", data, t_env)}

    @torch.no_grad()
    def evaluate(self, data: ImitationData) -> dict[str, float]:
        """Compute loss, agreement and explained variance on data that is not trained on.

        The explained variance is left out if all returns are equal, as with a perfect teacher: it is then undefined.
        """
        sums: dict[str, float] = defaultdict(float)
        for micro in self.mac.microbatches(data.decisions, torch.arange(len(data), device=self.mac.device)):
            log_student, losses, _ = self._losses(data, micro)
            sums["loss"] += losses.sum().item() / len(data)
            sums["agreement"] += agreement(log_student, data.log_teacher[micro]).sum().item() / len(data)
        everything = torch.arange(data.batch.batch_size, device=self.mac.device)
        parts = [self.critic.evaluate(data.batch, 0, few)[0] for few in self._few_episodes(everything, data)]
        values = self.value_normaliser.denormalise(torch.cat(parts).squeeze(-1)[:, :-1])
        if data.returns[data.counts > 0].std() < SAME_RETURN:
            return dict(sums)
        explained = ppo_core.explained_variance(values, data.returns, data.counts)
        return {**sums, "explained_variance": float(explained)}

    def _losses(self, data: ImitationData, micro: Tensor) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
        """Return log-probabilities [n, n_actions], losses [n] and auxiliary losses of the decisions ``micro`` [n]."""
        policy = self.mac.evaluate(data.decisions, micro)
        log_student = masked_log_softmax(policy.logits, data.decisions.available[micro])
        losses = policy_loss(log_student, data.log_teacher[micro], data.actions[micro], self.settings["loss"])
        return log_student, losses, policy.losses

    def _step(
        self, gradients: Callable[[], float], optimiser: torch.optim.Adam, part: Part, data: ImitationData, t_env: int
    ) -> float:
        """Make one optimiser step and return the loss. ``gradients`` must be safe to rerun."""
        loss = retry_on_oom(gradients, self.mac, part)
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.args.grad_norm_clip)
        check_finite(f"gradient norm of the {part}", norm, t_env, batch=data.batch)
        step_optimiser(optimiser, self.mac, part)
        # A fused step does not increment the weights' versions, by which the language model finds stale cached states.
        torch.autograd.graph.increment_version(parameters)
        return loss

    def _policy_gradients(self, data: ImitationData, subset: Tensor) -> float:
        """Accumulate gradients over microbatches and return the loss. Safe to rerun."""
        total = 0.0
        self.policy_optimiser.zero_grad(set_to_none=True)
        for micro in self.mac.microbatches(data.decisions, subset):
            _, losses, auxiliary = self._losses(data, micro)
            loss = losses.sum() / len(subset)
            (loss + sum(term.sum() / len(subset) for term in auxiliary.values())).backward()
            total += loss.item()
        return total

    def _critic_gradients(self, data: ImitationData, episodes: Tensor, t_env: int) -> float:
        """Accumulate gradients over a few episodes at a time and return the loss. Safe to rerun."""
        total, count = 0.0, data.counts[episodes].sum().clamp(min=1)
        self.critic_optimiser.zero_grad(set_to_none=True)
        for micro in self._few_episodes(episodes, data):
            values, auxiliary = self.critic.evaluate(data.batch, t_env, micro)
            targets = self.value_normaliser.normalise(data.returns[micro])
            errors = functional.huber_loss(
                values.squeeze(-1)[:, :-1], targets, reduction="none", delta=self.args.huber_delta
            )
            loss = (errors * data.counts[micro]).sum() / count
            extra = sum((term[:, :-1] * data.counts[micro]).sum() / count for term in auxiliary.values())
            (loss + extra).backward()
            total += loss.item()
        return total

    def _few_episodes(self, episodes: Tensor, data: ImitationData) -> tuple[Tensor, ...]:
        return episodes.split(max(1, self.args.microbatch // data.counts[0].numel()))

    def _minibatches(self, data: ImitationData, n_parts: int, t_env: int, epoch: int) -> Iterator[Tensor]:
        """Split the decisions into random minibatches of whole groups."""
        group_ids = data.decisions.group_ids
        if group_ids is None:
            yield from self._random_parts(len(data), n_parts, "imitate", t_env, epoch)
            return
        for groups in self._random_parts(int(group_ids.max()) + 1, n_parts, "imitate", t_env, epoch):
            yield torch.isin(group_ids, groups).nonzero().squeeze(-1)

    def _random_parts(self, count: int, n_parts: int, purpose: str, t_env: int, epoch: int) -> list[Tensor]:
        """Split ``range(count)`` into exactly ``n_parts`` random parts. Indices repeat if ``count`` is smaller."""
        order = torch.from_numpy(keyed_generator(self.args.seed, purpose, t_env, epoch).permutation(count))
        if count < n_parts:
            order = order.repeat(-(-n_parts // count))
        return list(order.to(self.mac.device).tensor_split(n_parts))
