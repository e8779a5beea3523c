"""Supervised learning from a teacher's decisions: losses as pure functions, and the student's optimiser steps.

Beyond the paper: LoLM-MARL learns by reinforcement alone.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lolm_plugin.controllers.controller import Controller
from lolm_plugin.finite import check_finite
from lolm_plugin.learners import ppo_core
from lolm_plugin.modules.masked_policy import kl_divergence, masked_log_softmax
from lolm_plugin.randomness import keyed_generator

LOSSES = ("kl", "ce")
LABELLED_AT_ONCE = 64  # episodes; more need more memory for the teacher's hidden states, fewer cost time
SAME_RETURN = 1e-4  # standard deviation below which returns count as equal


def policy_loss(log_student: Tensor, log_teacher: Tensor, actions: Tensor, loss: str) -> Tensor:
    """Loss of each decision [rows] in nats.

    Args:
        log_student: log-probabilities [rows, n_actions], -inf where unavailable.
        log_teacher: the teacher's, over the same available actions.
        actions: int64 [rows], the teacher's actions.
        loss: ``kl`` for KL(teacher || student), ``ce`` for the cross-entropy on ``actions``.
    """
    if loss == "kl":
        return kl_divergence(log_teacher, log_student)
    return -log_student.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def agreement(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """1.0 where both policies [rows, n_actions] prefer the same action, else 0.0: [rows]."""
    return (log_student.argmax(-1) == log_teacher.argmax(-1)).float()


def discounted_returns(rewards: Tensor, valid: Tensor, gamma: float) -> Tensor:
    """Discounted sum of the rewards that follow [B, T, A]; rewards [B, T, A], valid [B, T, 1].

    An episode cut off by its time limit is not bootstrapped: there is no trained critic yet.
    """
    no_values = rewards.new_zeros(rewards.shape[0], rewards.shape[1] + 1, rewards.shape[2])
    return ppo_core.gae(rewards, no_values, torch.zeros_like(valid), valid, gamma, gae_lambda=1.0)[1]


@torch.no_grad()
def teacher_log_probs(teacher: Controller, batch: Any) -> Tensor:
    """Log-probabilities [batch, time, agents, actions] that ``teacher`` gives in every state of whole episodes.

    The teacher sees each episode from its first step, so policies with memory are evaluated as in play.
    """
    parts = []
    for start in range(0, batch.batch_size, LABELLED_AT_ONCE):
        few = batch[start : start + LABELLED_AT_ONCE]
        running = few["filled"].squeeze(-1) > 0
        teacher.init_hidden(few.batch_size)
        steps = [teacher.act(few, t, 0, running[:, t], test_mode=True) for t in range(few.max_seq_length)]
        parts.append(torch.stack([step.log_probs for step in steps], dim=1))
    return torch.cat(parts)


@dataclass(frozen=True)
class Lessons:
    """Decisions with the teacher's answers, and the episodes they come from with their returns."""

    batch: Any
    steps: Any  # the decisions, see ``controllers.controller.AgentSteps``
    log_teacher: Tensor  # [rows, n_actions]
    actions: Tensor  # int64 [rows]
    returns: Tensor  # [batch, time, agents]
    counts: Tensor  # [batch, time, agents], 1 where a return counts

    def __len__(self) -> int:
        return len(self.steps)


def lessons(
    mac: Controller,
    batch: Any,
    log_teacher: Tensor,
    actions: Tensor,
    gamma: float,
    shown: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Lessons:
    """Prepare the decisions of a batch for learning; the controller keeps its frozen layers' states until it ends.

    Args:
        mac: the student's controller.
        batch: whole episodes [batch, time].
        log_teacher: [batch, time, agents, actions].
        actions: int64 [batch, time, agents], the teacher's.
        gamma: discount of the returns.
        shown: wraps the loop over the battles, which takes minutes with a language model, in a progress bar.
    """
    valid = (batch["filled"][:, :-1] * batch["filled"][:, 1:]).float()  # a step counts if it led somewhere
    counted = valid.squeeze(-1) > 0
    for start in shown(range(0, batch.batch_size, LABELLED_AT_ONCE)):
        # The controller keeps the frozen layers' states of these battles, so the whole batch below takes seconds.
        few = slice(start, start + LABELLED_AT_ONCE)
        mac.agent_steps(batch[few], counted[few])
    steps = mac.agent_steps(batch, counted)
    mac.prepare(steps)
    rewards = batch["reward"][:, :-1].expand(-1, -1, mac.n_agents)
    returns = discounted_returns(rewards, valid, gamma)
    return Lessons(batch, steps, log_teacher[steps.index], actions[steps.index], returns, valid.expand_as(returns))


class Student:
    """Optimises the policy and critic of a learner on lessons, with optimisers that end with the imitation.

    The learner's own optimisers stay untouched, so that PPO starts with fresh ones.
    """

    def __init__(self, learner: Any, args: SimpleNamespace) -> None:
        self.learner, self.mac, self.args = learner, learner.mac, args
        self.settings: Mapping[str, Any] = args.imitate
        rates = {"head": self.settings["head_lr"]}
        groups = [
            {**group, "lr": rates.get(group["name"], self.settings["lr"])} for group in self.mac.parameter_groups()
        ]
        self.policy_optimiser = torch.optim.Adam(groups, eps=args.optim_eps, fused=True)
        critic = learner.critic.parameters()
        self.critic_optimiser = torch.optim.Adam(critic, self.settings["critic_lr"], eps=args.optim_eps, fused=True)
        self._rates = [group["lr"] for group in self._groups()]

    def n_steps(self, data: Lessons) -> int:
        """Optimiser steps of one epoch."""
        return max(1, round(len(data) / self.settings["minibatch"]))

    def epoch(self, data: Lessons, t_env: int, epoch: int) -> Iterator[dict[str, float]]:
        """One pass over ``data``: yields the losses of each optimiser step.

        The learning rates fall linearly to 0 over ``imitate.epochs``.
        """
        parts, epochs = self.n_steps(data), self.settings["epochs"]
        policy = self._parts(data.steps.together, len(data), parts, t_env, epoch)
        critic = self._shuffled(data.batch.batch_size, parts, "imitate_critic", t_env, epoch)
        for number, (rows, episodes) in enumerate(zip(policy, critic, strict=True)):
            left = 1 - (epoch * parts + number) / (epochs * parts)
            for group, rate in zip(self._groups(), self._rates, strict=True):
                group["lr"] = rate * left
            yield {**self._update_policy(data, rows, t_env), **self._update_critic(data, episodes, t_env)}

    @torch.no_grad()
    def evaluate(self, data: Lessons) -> dict[str, float]:
        """Loss, agreement and explained variance on lessons that are not learned from.

        The variance of returns that are all equal, as of a perfect teacher, cannot be explained; it is left out then.
        """
        sums: dict[str, float] = defaultdict(float)
        for micro in self.mac.microbatches(data.steps, torch.arange(len(data), device=self.mac.device)):
            log_student = masked_log_softmax(self.mac.evaluate(data.steps, micro).logits, data.steps.available[micro])
            loss = policy_loss(log_student, data.log_teacher[micro], data.actions[micro], self.settings["loss"])
            sums["loss"] += loss.sum().item() / len(data)
            sums["agreement"] += agreement(log_student, data.log_teacher[micro]).sum().item() / len(data)
        everything = torch.arange(data.batch.batch_size, device=self.mac.device)
        parts = [self.learner.critic.evaluate(data.batch, 0, few)[0] for few in self._few_episodes(everything, data)]
        values = self.learner.value_normaliser.denormalise(torch.cat(parts).squeeze(-1)[:, :-1])
        if data.returns[data.counts > 0].std() < SAME_RETURN:
            return dict(sums)
        explained = ppo_core.explained_variance(values, data.returns, data.counts)
        return {**sums, "explained_variance": float(explained)}

    def _update_policy(self, data: Lessons, rows: Tensor, t_env: int) -> dict[str, float]:
        sums = self.mac.fitting(partial(self._policy_gradients, data, rows))
        norm = torch.nn.utils.clip_grad_norm_(self.mac.parameters(), self.args.grad_norm_clip)
        check_finite("loss's gradient norm of the policy", norm, t_env, batch=data.batch)
        self.policy_optimiser.step()
        # The fused step does not tell autograd that it changed the weights; the language model keeps states by version.
        torch.autograd.graph.increment_version(self.mac.parameters())
        return sums

    def _policy_gradients(self, data: Lessons, rows: Tensor) -> dict[str, float]:
        """Add up gradients over microbatches; safe to rerun."""
        total = 0.0
        self.policy_optimiser.zero_grad(set_to_none=True)
        for micro in self.mac.microbatches(data.steps, rows):
            policy = self.mac.evaluate(data.steps, micro)
            log_student = masked_log_softmax(policy.logits, data.steps.available[micro])
            losses = policy_loss(log_student, data.log_teacher[micro], data.actions[micro], self.settings["loss"])
            loss = losses.sum() / len(rows)
            (loss + sum(own.sum() / len(rows) for own in policy.losses.values())).backward()
            total += loss.item()
        return {"loss": total}

    def _update_critic(self, data: Lessons, episodes: Tensor, t_env: int) -> dict[str, float]:
        sums = self.mac.fitting(partial(self._critic_gradients, data, episodes, t_env))
        norm = torch.nn.utils.clip_grad_norm_(self.learner.critic.parameters(), self.args.grad_norm_clip)
        check_finite("loss's gradient norm of the critic", norm, t_env, batch=data.batch)
        self.critic_optimiser.step()
        return sums

    def _critic_gradients(self, data: Lessons, episodes: Tensor, t_env: int) -> dict[str, float]:
        """Add up gradients over a few episodes at a time; safe to rerun."""
        total, count = 0.0, data.counts[episodes].sum().clamp(min=1)
        self.critic_optimiser.zero_grad(set_to_none=True)
        for micro in self._few_episodes(episodes, data):
            values, own = self.learner.critic.evaluate(data.batch, t_env, micro)
            targets = self.learner.value_normaliser.normalise(data.returns[micro])
            errors = functional.huber_loss(
                values.squeeze(-1)[:, :-1], targets, reduction="none", delta=self.args.huber_delta
            )
            loss = (errors * data.counts[micro]).sum() / count
            (loss + sum((extra[:, :-1] * data.counts[micro]).sum() / count for extra in own.values())).backward()
            total += loss.item()
        return {"value_loss": total}

    def _few_episodes(self, episodes: Tensor, data: Lessons) -> tuple[Tensor, ...]:
        return episodes.split(max(1, self.args.microbatch // data.counts[0].numel()))

    def _parts(self, together: Tensor | None, count: int, parts: int, t_env: int, epoch: int) -> Iterator[Tensor]:
        """The decisions in random parts; decisions that are learned from together stay in one part."""
        if together is None:
            yield from self._shuffled(count, parts, "imitate", t_env, epoch)
            return
        for units in self._shuffled(int(together.max()) + 1, parts, "imitate", t_env, epoch):
            yield torch.isin(together, units).nonzero().squeeze(-1)

    def _shuffled(self, count: int, parts: int, purpose: str, t_env: int, epoch: int) -> list[Tensor]:
        """``range(count)`` in exactly ``parts`` random parts; some are drawn again where there are fewer than parts."""
        order = torch.from_numpy(keyed_generator(self.args.seed, purpose, t_env, epoch).permutation(count))
        if count < parts:
            order = order.repeat(-(-parts // count))
        return list(order.to(self.mac.device).tensor_split(parts))

    def _groups(self) -> list[dict[str, Any]]:
        return [*self.policy_optimiser.param_groups, *self.critic_optimiser.param_groups]
