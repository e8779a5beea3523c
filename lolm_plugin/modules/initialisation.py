"""Initial weights of the small networks: orthogonal with a gain, biases 0."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from torch import nn

_Module = TypeVar("_Module", bound=nn.Module)

RELU_GAIN = math.sqrt(2)  # keeps the variance through a ReLU
HEAD_GAIN = 0.01  # a near-uniform policy at the start


@dataclass(frozen=True)
class Gains:
    """Gains of linear layers: before a ReLU, before no nonlinearity, and of the action head."""

    relu: float = RELU_GAIN
    plain: float = 1.0
    head: float = HEAD_GAIN

    @classmethod
    def of(cls, entity: Mapping[str, Any]) -> Self:
        """Those of the config section ``entity``: its ``init_gain`` everywhere, as published, or by what follows."""
        gain = entity["init_gain"]
        return cls() if gain is None else cls(gain, gain, gain)


def linear(inputs: int, outputs: int, gain: float, bias: bool = True) -> nn.Linear:
    """A linear layer with orthogonal weights of this gain and zero bias."""
    return orthogonal(nn.Linear(inputs, outputs, bias=bias), gain)


def orthogonal(module: _Module, gain: float = 1.0) -> _Module:
    """``module`` with all its weight matrices orthogonal and its biases 0."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.orthogonal_(parameter, gain)
        else:
            nn.init.zeros_(parameter)
    return module
