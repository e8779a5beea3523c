"""The mathematics of PPO, as pure functions of tensors.

Shapes: B episodes, T timesteps, A agents. ``mask`` is 1 for the entries that count and 0 for all others.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of x over the entries with mask 1, a scalar; 0 if there are none."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def gae(
    rewards: Tensor, values: Tensor, terminated: Tensor, valid: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Estimate advantages and returns, each [B, T, A], by GAE (Schulman et al. 2016); both are 0 on padding.

    Args:
        rewards: [B, T, A].
        values: [B, T + 1, A]; the last one is the value of the state after the last step.
        terminated: [B, T, 1], 1 at a step that ended the episode by its rules, so no value follows. An episode cut off
            by a time limit has 0 there, and its last value is bootstrapped.
        valid: [B, T, 1], 0 on padding.
        gamma: discount.
        gae_lambda: 0 gives one-step TD errors, 1 gives discounted returns minus values.
    """
    advantages = torch.zeros_like(rewards)
    advantage = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        continues = 1 - terminated[:, t]
        delta = rewards[:, t] + gamma * continues * values[:, t + 1] - values[:, t]
        # The step after a time limit is padding (valid 0), so no advantage leaks past the end of an episode.
        advantage = (delta + gamma * gae_lambda * continues * advantage) * valid[:, t]
        advantages[:, t] = advantage
    return advantages, (advantages + values[:, :-1]) * valid


def last_steps(valid: Tensor) -> Tensor:
    """Return 1 at the last valid step of each episode, else 0; ``valid`` and result are [B, T, 1]."""
    following = torch.cat([valid[:, 1:], torch.zeros_like(valid[:, :1])], dim=1)
    return valid * (1 - following)


def normalise(x: Tensor, mask: Tensor, eps: float = 1e-5, least_deviation: float = 0.0) -> Tensor:
    """Shift and scale x to mean 0 and variance 1 over the entries with mask 1; the others become meaningless.

    Args:
        x: any shape.
        mask: same shape as x.
        eps: added to the standard deviation.
        least_deviation: lower bound of the divisor, in x's units. With it the variance may stay below 1.
    """
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    return (x - mean) / (variance.sqrt().clamp(min=least_deviation) + eps)


def clipped_policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """Return PPO's clipped surrogate loss and a bool mask of the clipped entries, both in the inputs' shape."""
    ratio = (log_probs - old_log_probs).exp()
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip, 1 + clip) * advantages
    return -torch.min(unclipped, clipped), clipped < unclipped


def clipped_value_loss(values: Tensor, old_values: Tensor, targets: Tensor, clip: float, huber_delta: float) -> Tensor:
    """Return the larger Huber loss to ``targets``, of ``values`` and of ``values`` clipped around ``old_values``."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    losses = (functional.huber_loss(x, targets, reduction="none", delta=huber_delta) for x in (values, clipped))
    return torch.max(*losses)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Compute 1 - Var(returns - values) / Var(returns): 1 is a perfect critic, 0 no better than a constant."""
    error = returns - values
    residual = masked_mean((error - masked_mean(error, mask)) ** 2, mask)
    variance = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)
    return 1 - residual / variance.clamp(min=1e-8)


def farthest_ratio(log_probs: Tensor, behaviour_log_probs: Tensor) -> Tensor:
    """Return the importance ratio that differs most from 1, a scalar; 1 if there are none."""
    ratio = (log_probs - behaviour_log_probs).exp()
    return ratio[(ratio - 1).abs().argmax()] if ratio.numel() else ratio.new_ones(())


def ratio_deviations(log_probs: Tensor, behaviour_log_probs: Tensor) -> Tensor:
    """Return the largest, the 99th percentile and the mean of |importance ratio - 1|: [3]; 0 if there are none."""
    deviation = ((log_probs - behaviour_log_probs).double().exp() - 1).abs()
    if not deviation.numel():
        return deviation.new_zeros(3)
    # Not torch.quantile, which takes at most 16 million numbers.
    percentile = deviation.kthvalue(math.ceil(0.99 * len(deviation))).values
    return torch.stack([deviation.max(), percentile, deviation.mean()])


def linear(start: float, end: float | None, share: float) -> float:
    """Interpolate from ``start`` at share 0 to ``end`` at share 1 and above; return ``start`` if ``end`` is None."""
    return start if end is None else start + (end - start) * min(1.0, share)
