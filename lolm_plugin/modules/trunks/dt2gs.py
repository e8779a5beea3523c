"""DT2GS (Tian et al., NeurIPS 2023): each agent chooses a subtask, and the subtask's semantics go with every unit.

The form of its released scripts ("adaptive semantics"), with what went wrong there put right: the subtask before
belongs to the memory, so that it starts at zero in every episode, in training and in tests.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lolm_plugin.modules.attention import Attention
from lolm_plugin.modules.attention_block import AttentionBlock
from lolm_plugin.modules.initialisation import Gains, linear, orthogonal
from lolm_plugin.modules.subtasks import consistency_kl, gumbel_one_hot, product_of_gaussians
from lolm_plugin.modules.trunks.trunk import Features, Trunk, at
from lolm_plugin.observations.entity_tokens import EntityTokens


class DT2GS(Trunk):
    """Units -> Gaussians -> their product -> subtask; then a Transformer block over units, which the subtask asks, too.

    Memory is [GRU state | subtask before]. Noise is [normal draws of the environment's latent | Gumbel draws of the
    subtask]; without it the latent is its mean and the subtask the most likely one.
    """

    def __init__(self, token_width: int, shape: Mapping[str, Any], entity: Mapping[str, Any]) -> None:
        super().__init__(token_width, shape, entity)
        gains, head_width = self.gains, shape["head_width"]
        model_width = shape["heads"] * head_width
        self.latent, self.subtasks = shape["latent"], shape["subtasks"]
        self.temperature, self.fuse_relu = shape["temperature"], shape["fuse_relu"]
        self.reconstruction_coef = shape["reconstruction_coef"]
        self.subtask_kl_coef = shape["subtask_kl_coef"]
        self.noise_mode = shape["noise_mode"]
        self.width = shape["feature_width"]
        self.memory_width = self.noise_width = self.latent + self.subtasks

        self.encoder = _perceptron(token_width, head_width, 2 * self.latent, gains)
        self.decoder = _perceptron(self.latent, head_width, token_width, gains)
        self.gru = orthogonal(nn.GRUCell(self.latent + self.subtasks, self.latent))
        self.choice = linear(self.latent, self.subtasks, gains.plain)
        self.semantics = nn.Sequential(
            linear(self.subtasks, head_width, gains.plain), linear(head_width, model_width, gains.plain), nn.Tanh()
        )
        self.embed = linear(token_width, model_width, gains.plain)
        attention = Attention(model_width, shape["heads"], head_width, gains.plain, bias=True, project=False)
        self.block = AttentionBlock(attention, model_width, shape["ff_mult"] * head_width, gains)
        self.fuse = linear(2 * model_width, self.width, gains.relu if self.fuse_relu else gains.plain)

    def noise(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        normal = generator.standard_normal((*shape, self.latent))
        gumbel = generator.gumbel(size=(*shape, self.subtasks))
        return torch.from_numpy(np.concatenate([normal, gumbel], axis=-1).astype(np.float32))

    def forward(self, tokens: EntityTokens, memory: Tensor, noise: Tensor | None = None) -> Features:
        noise = None if noise is None else noise.unsqueeze(0)
        return self.unroll(at(tokens, None), memory, noise).map(lambda value: value[0])

    def unroll(self, tokens: EntityTokens, memory: Tensor, noise: Tensor | None = None) -> Features:
        normal, gumbel = (None, None) if noise is None else noise.split([self.latent, self.subtasks], dim=-1)
        mean, log_variance = self.encoder(tokens.tokens).chunk(2, dim=-1)
        # Absent units have a Gaussian, too, as published.
        seen = product_of_gaussians(mean, log_variance.exp(), dim=-2)
        environment = seen[0] if normal is None else seen[0] + seen[1].sqrt() * normal
        subtask, memory = self._choose(environment, memory, gumbel)
        rows, attention = self._fuse(tokens, subtask)
        return Features(
            **self.told_apart(tokens, rows),
            memory=memory,
            losses=self._losses(tokens, mean, log_variance, normal, seen, subtask),
            attention=attention,
            subtask=subtask.detach(),
        )

    def _choose(self, environment: Tensor, memory: Tensor, gumbel: Tensor | None) -> tuple[Tensor, Tensor]:
        """The only part that goes step by step: latents [time, ..., L] -> subtasks [time, ..., K] and memories.

        The subtask before is an input without gradient.
        """
        steps, *leading = environment.shape[:-1]
        latents = environment.reshape(steps, -1, self.latent).unbind(0)
        state, before = memory.reshape(-1, self.memory_width).split([self.latent, self.subtasks], dim=-1)
        draws = [None] * steps if gumbel is None else gumbel.reshape(steps, -1, self.subtasks).unbind(0)
        chosen, memories = [], []
        for latent, draw in zip(latents, draws, strict=True):
            state = self.gru(torch.cat([latent, before], dim=-1), state)
            chosen.append(gumbel_one_hot(self.choice(state), draw, self.temperature))
            before = chosen[-1].detach()
            memories.append(torch.cat([state, before], dim=-1))
        return (
            torch.stack(chosen).view(steps, *leading, self.subtasks),
            torch.stack(memories).view(steps, *leading, self.memory_width),
        )

    def _fuse(self, tokens: EntityTokens, subtask: Tensor) -> tuple[Tensor, Tensor]:
        """Features [..., m, width] of the wanted units under a subtask [..., K], and where the own looks [..., n]."""
        units = self.embed(tokens.tokens)
        # The subtask's token asks like a unit but is not asked, so that the units do not see it.
        asking = torch.cat([self.wanted(tokens, units), self.semantics(subtask).unsqueeze(-2)], dim=-2)
        encoded, attention = self.block(asking, units, self.allowed(tokens))
        # A linear layer of [unit | subtask], without a copy of the subtask for every unit.
        of_unit, of_subtask = self.fuse.weight.split(units.shape[-1], dim=1)
        rows = functional.linear(encoded[..., :-1, :], of_unit) + functional.linear(
            encoded[..., -1:, :], of_subtask, self.fuse.bias
        )
        return (rows.relu() if self.fuse_relu else rows), attention

    def _losses(
        self,
        tokens: EntityTokens,
        mean: Tensor,
        log_variance: Tensor,
        normal: Tensor | None,
        seen: tuple[Tensor, Tensor],
        subtask: Tensor,
    ) -> dict[str, Tensor]:
        losses = {}
        if self.reconstruction_coef:
            # All units of a row share its draws: each latent is a fair sample, and no further noise is to be kept.
            drawn = mean if normal is None else mean + (0.5 * log_variance).exp() * normal.unsqueeze(-2)
            error = (self.decoder(drawn) - tokens.tokens).square().sum(-1).mean(-1)
            losses["reconstruction"] = self.reconstruction_coef * error
        if self.subtask_kl_coef:
            apart = consistency_kl(*seen, subtask, living=tokens.present[..., 0])
            losses["subtask_kl"] = self.subtask_kl_coef * apart.unsqueeze(-1).expand(subtask.shape[:-1])
        return losses


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
