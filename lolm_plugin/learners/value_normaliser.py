"""Keeps what the critic has to predict near mean 0 and variance 1, whatever the map's returns are."""

import torch
from torch import Tensor, nn


class ValueNormaliser(nn.Module):
    """Debiased exponential moving mean and variance of returns (as in MAPPO, Yu et al. 2022)."""

    def __init__(self, beta: float = 0.99999, min_variance: float = 1e-2) -> None:
        super().__init__()
        self.beta = beta
        self.min_variance = min_variance
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("square", torch.zeros((), dtype=torch.float64))
        self.register_buffer("debias", torch.zeros((), dtype=torch.float64))

    def update(self, returns: Tensor, mask: Tensor) -> None:
        """Take in the returns that count."""
        chosen = returns[mask > 0].double()
        if chosen.numel():
            self.mean.lerp_(chosen.mean(), 1 - self.beta)
            self.square.lerp_((chosen**2).mean(), 1 - self.beta)
            self.debias.lerp_(torch.ones_like(self.debias), 1 - self.beta)

    @property
    def deviation(self) -> float:
        """Return the standard deviation of all returns so far, in the environment's units; 1 before the first."""
        return float(self._moments()[1])

    def normalise(self, returns: Tensor) -> Tensor:
        """Returns -> the critic's units."""
        mean, std = self._moments()
        return ((returns - mean) / std).to(returns.dtype)

    def denormalise(self, values: Tensor) -> Tensor:
        """The critic's units -> returns."""
        mean, std = self._moments()
        return (values * std + mean).to(values.dtype)

    def _moments(self) -> tuple[Tensor, Tensor]:
        if self.debias == 0:  # nothing seen yet
            return torch.zeros_like(self.mean), torch.ones_like(self.mean)
        mean = self.mean / self.debias
        variance = (self.square / self.debias - mean**2).clamp(min=self.min_variance)
        return mean, variance.sqrt()
