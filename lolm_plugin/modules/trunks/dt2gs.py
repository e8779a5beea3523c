"""DT2GS (Tian et al., NeurIPS 2023): each agent chooses a subtask, whose semantics are combined with every unit.

This is the form of its released scripts ("adaptive semantics") with one bug fixed: the previous subtask is part of the
memory. So it starts at zero in every episode, in training and in tests.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lolm_plugin.modules.layers import Attention, AttentionBlock, Gains, linear, orthogonal
from lolm_plugin.modules.trunks.trunk import Features, Trunk
from lolm_plugin.observations.entity_features import EntityFeatures

MIN_VARIANCE = 1e-7  # [DT2GS]


class DT2GS(Trunk):
    """Trunk: units -> Gaussians -> their product -> subtask -> Transformer block over units and subtask.

    Memory is [GRU state | previous subtask]. Noise is [normal draws of the environment's latent | Gumbel draws of the
    subtask]. Without noise the latent is its mean and the subtask the most likely one.
    """

    def __init__(self, entity_width: int, shape: Mapping[str, Any], entity: Mapping[str, Any]) -> None:
        super().__init__(entity_width, shape, entity)
        gains, head_width = self.gains, shape["head_width"]
        model_width = shape["heads"] * head_width
        self.latent, self.subtasks = shape["latent"], shape["subtasks"]
        self.temperature, self.fuse_relu = shape["temperature"], shape["fuse_relu"]
        self.reconstruction_coef = shape["reconstruction_coef"]
        self.subtask_kl_coef = shape["subtask_kl_coef"]
        self.noise_mode = shape["noise_mode"]
        self.width = shape["feature_width"]
        self.memory_width = self.noise_width = self.latent + self.subtasks

        self.encoder = _perceptron(entity_width, head_width, 2 * self.latent, gains)
        self.decoder = _perceptron(self.latent, head_width, entity_width, gains)
        self.gru = orthogonal(nn.GRUCell(self.latent + self.subtasks, self.latent))
        self.choice = linear(self.latent, self.subtasks, gains.plain)
        self.semantics = nn.Sequential(
            linear(self.subtasks, head_width, gains.plain), linear(head_width, model_width, gains.plain), nn.Tanh()
        )
        self.embed = linear(entity_width, model_width, gains.plain)
        attention = Attention(model_width, shape["heads"], head_width, gains.plain, bias=True, project=False)
        self.block = AttentionBlock(attention, model_width, shape["ff_mult"] * head_width, gains)
        self.fuse = linear(2 * model_width, self.width, gains.relu if self.fuse_relu else gains.plain)

    def noise(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        normal = generator.standard_normal((*shape, self.latent))
        gumbel = generator.gumbel(size=(*shape, self.subtasks))
        return torch.from_numpy(np.concatenate([normal, gumbel], axis=-1).astype(np.float32))

    def unroll(self, entities: EntityFeatures, memory: Tensor, noise: Tensor | None = None) -> Features:
        normal, gumbel = (None, None) if noise is None else noise.split([self.latent, self.subtasks], dim=-1)
        mean, log_variance = self.encoder(entities.features).chunk(2, dim=-1)
        # As published, absent units have a Gaussian, too.
        environment_mean, environment_variance = product_of_gaussians(mean, log_variance.exp(), dim=-2)
        environment = environment_mean if normal is None else environment_mean + environment_variance.sqrt() * normal
        subtask, memory = self._choose(environment, memory, gumbel)
        units, attention = self._fuse(entities, subtask)
        losses = {}
        if self.reconstruction_coef:
            # All units of an agent-step share its draws. Each latent is still a fair sample, and less noise is stored.
            drawn = mean if normal is None else mean + (0.5 * log_variance).exp() * normal.unsqueeze(-2)
            error = (self.decoder(drawn) - entities.features).square().sum(-1).mean(-1)
            losses["reconstruction"] = self.reconstruction_coef * error
        if self.subtask_kl_coef:
            kl = consistency_kl(environment_mean, environment_variance, subtask, living=entities.present[..., 0])
            losses["subtask_kl"] = self.subtask_kl_coef * kl.unsqueeze(-1).expand(subtask.shape[:-1])
        return Features(
            **self.split(entities, units),
            memory=memory,
            losses=losses,
            attention=attention,
            subtask=subtask.detach(),
        )

    def _choose(self, environment: Tensor, memory: Tensor, gumbel: Tensor | None) -> tuple[Tensor, Tensor]:
        """Choose subtasks [time, ..., K] for latents [time, ..., L] step by step; return also the memories [time, ...].

        The previous subtask is an input without gradient.
        """
        steps, *leading = environment.shape[:-1]
        latents = environment.reshape(steps, -1, self.latent).unbind(0)
        state, previous = memory.reshape(-1, self.memory_width).split([self.latent, self.subtasks], dim=-1)
        draws = [None] * steps if gumbel is None else gumbel.reshape(steps, -1, self.subtasks).unbind(0)
        chosen, memories = [], []
        for latent, draw in zip(latents, draws, strict=True):
            state = self.gru(torch.cat([latent, previous], dim=-1), state)
            chosen.append(gumbel_one_hot(self.choice(state), draw, self.temperature))
            previous = chosen[-1].detach()
            memories.append(torch.cat([state, previous], dim=-1))
        return (
            torch.stack(chosen).view(steps, *leading, self.subtasks),
            torch.stack(memories).view(steps, *leading, self.memory_width),
        )

    def _fuse(self, entities: EntityFeatures, subtask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features [..., m, width] of units for a subtask [..., K], and the own token's attention [..., n]."""
        units = self.embed(entities.features)
        # The subtask's token is a query but not a key, so the units do not attend to it.
        queries = torch.cat([self.queries(entities, units), self.semantics(subtask).unsqueeze(-2)], dim=-2)
        encoded, attention = self.block(queries, units, self.allowed(entities))
        # A linear layer of [unit | subtask], without a copy of the subtask for every unit.
        of_unit, of_subtask = self.fuse.weight.split(units.shape[-1], dim=1)
        features = functional.linear(encoded[..., :-1, :], of_unit) + functional.linear(
            encoded[..., -1:, :], of_subtask, self.fuse.bias
        )
        return (features.relu() if self.fuse_relu else features), attention


def product_of_gaussians(mean: Tensor, variance: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Compute mean and variance of the normalised product of the Gaussians along ``dim``, which is reduced."""
    precision = 1.0 / variance.clamp(min=MIN_VARIANCE)
    product = 1.0 / precision.sum(dim)
    return product * (precision * mean).sum(dim), product


def gumbel_one_hot(logits: Tensor, gumbel: Tensor | None, temperature: float) -> Tensor:
    """Choose one-hot [..., K] with the gradient of softmax((logits + gumbel) / temperature) (straight-through).

    ``gumbel`` [..., K] are standard Gumbel draws; None: choose the largest logit.
    """
    soft = ((logits if gumbel is None else logits + gumbel) / temperature).softmax(-1)
    hard = functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
    return hard + (soft - soft.detach())  # the bracket is exactly 0, so the choice is exactly one-hot


def consistency_kl(mean: Tensor, variance: Tensor, subtask: Tensor, living: Tensor) -> Tensor:
    """Compute the mean KL from each agent's Gaussian to the product of Gaussians of its subtask group: [...].

    It is averaged over latents, over the living agents of a group, and over the groups of more than one agent. It is 0
    if there is no such group.

    Args:
        mean: [..., agents, latent].
        variance: [..., agents, latent].
        subtask: one-hot [..., agents, K].
        living: bool [..., agents].
    """
    member = (subtask.detach() * living.unsqueeze(-1)).transpose(-1, -2)  # [..., K, agents]
    size = member.sum(-1)
    shared = size > 1
    precision = 1.0 / variance.clamp(min=MIN_VARIANCE)
    group_precision = torch.where(shared.unsqueeze(-1), member @ precision, 1.0)  # [..., K, latent]
    group_mean = (member @ (precision * mean)) / group_precision
    # Compute the KL of every agent to every group; ``member`` keeps only that to its own.
    difference = mean.unsqueeze(-3) - group_mean.unsqueeze(-2)  # [..., K, agents, latent]
    log_ratio = precision.log().unsqueeze(-3) - group_precision.log().unsqueeze(-2)
    scaled = (1.0 / precision.unsqueeze(-3) + difference.square()) * group_precision.unsqueeze(-2)
    kl = 0.5 * (log_ratio + scaled - 1.0).mean(-1)
    of_groups = (kl * member).sum(-1) / size.clamp(min=1)
    return torch.where(shared, of_groups, 0.0).sum(-1) / shared.sum(-1).clamp(min=1)


def _perceptron(inputs: int, hidden: int, outputs: int, gains: Gains) -> nn.Sequential:
    return nn.Sequential(
        linear(inputs, hidden, gains.relu),
        nn.LayerNorm(hidden),
        nn.ReLU(),
        linear(hidden, hidden, gains.relu),
        nn.LayerNorm(hidden),
        nn.ReLU(),
        linear(hidden, outputs, gains.plain),
    )
