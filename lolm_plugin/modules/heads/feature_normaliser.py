"""Hidden states centred and scaled by the frozen model's own statistics, so that they tell situations apart.

All prompts of a task end in the same words, so their last hidden states are nearly one constant vector: for SmolLM2's
first 4 layers on 3m the state-dependent share is 2 to 4 % of its norm. A head that reads these states as they are
learns what the constant says, the best policy that is blind to the state, long before it learns anything else.
"""

import torch
from torch import Tensor, nn

# A dimension whose deviation is below this share of the median one is not scaled up to 1: it holds rounding noise.
FLOOR = 1e-2
MADE_UP, PLAYED = 1, 2  # source of the statistics: made-up observations or collected battles


class FeatureNormaliser(nn.Module):
    """Standardise hidden states per dimension: (state - mean) / deviation. Statistics are saved with the head.

    ``measured`` is 0 before any measurement (states pass unchanged), then ``MADE_UP`` or ``PLAYED``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.register_buffer("measured", torch.zeros((), dtype=torch.uint8))

    @torch.no_grad()
    def measure(self, states: Tensor, source: int = MADE_UP) -> None:
        """Take mean and deviation from the frozen model's states [states, width]; fewer than two change nothing."""
        self.measured.fill_(source)
        if len(states) < 2:
            return
        deviation, mean = torch.std_mean(states.double(), dim=0)
        floor = FLOOR * deviation.median()
        if floor > 0:
            self.mean.copy_(mean)
            self.deviation.copy_(deviation.clamp(min=floor))

    def forward(self, states: Tensor) -> Tensor:
        """States [..., width] -> features of the same shape, of mean 0 and deviation 1 where they were measured."""
        return (states - self.mean) / self.deviation
