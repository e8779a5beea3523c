"""The mathematics of DT2GS: many Gaussians into one, a discrete choice with a gradient, agreement on subtasks."""

import torch
from torch import Tensor
from torch.nn import functional

MIN_VARIANCE = 1e-7  # [DT2GS]


def product_of_gaussians(mean: Tensor, variance: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of the normalised product of the Gaussians along ``dim``, which is left out of the result."""
    precision = 1.0 / variance.clamp(min=MIN_VARIANCE)
    product = 1.0 / precision.sum(dim)
    return product * (precision * mean).sum(dim), product


def gumbel_one_hot(logits: Tensor, gumbel: Tensor | None, temperature: float) -> Tensor:
    """A one-hot choice [..., K] whose gradient is that of softmax((logits + gumbel) / temperature).

    ``gumbel`` [..., K] are standard Gumbel draws; None: the largest logit.
    """
    soft = ((logits if gumbel is None else logits + gumbel) / temperature).softmax(-1)
    hard = functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
    return hard + (soft - soft.detach())  # the bracket is exactly 0, so that the choice is exactly one-hot


def consistency_kl(mean: Tensor, variance: Tensor, subtask: Tensor, living: Tensor) -> Tensor:
    """How far agents on the same subtask are from the product of their Gaussians: [...], 0 if none share one.

    ``mean`` and ``variance`` are [..., agents, latent], ``subtask`` one-hot [..., agents, K], ``living`` bool
    [..., agents]. KL(agent || product of its group) averaged over latents, over the living agents of a group, and over
    the groups of more than one agent.
    """
    member = (subtask.detach() * living.unsqueeze(-1)).transpose(-1, -2)  # [..., K, agents]
    size = member.sum(-1)
    shared = size > 1
    precision = 1.0 / variance.clamp(min=MIN_VARIANCE)
    group_precision = torch.where(shared.unsqueeze(-1), member @ precision, 1.0)  # [..., K, latent]
    group_mean = (member @ (precision * mean)) / group_precision
    # Every agent against every group; only its own counts.
    difference = mean.unsqueeze(-3) - group_mean.unsqueeze(-2)  # [..., K, agents, latent]
    log_ratio = precision.log().unsqueeze(-3) - group_precision.log().unsqueeze(-2)
    in_units = (1.0 / precision.unsqueeze(-3) + difference.square()) * group_precision.unsqueeze(-2)
    kl = 0.5 * (log_ratio + in_units - 1.0).mean(-1)
    of_groups = (kl * member).sum(-1) / size.clamp(min=1)
    return torch.where(shared, of_groups, 0.0).sum(-1) / shared.sum(-1).clamp(min=1)
