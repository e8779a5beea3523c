"""Deep sets (Zaheer et al., NeurIPS 2017): the same layers for every unit, combined with the mean over all units.

The cheapest network for any number of units in any order. It has no attention: the weight of a unit does not depend on
the unit that observes it.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lolm_plugin.errors import ConfigError
from lolm_plugin.modules.layers import linear
from lolm_plugin.modules.trunks.trunk import Features, Trunk, gather_units
from lolm_plugin.observations.entity_features import EntityFeatures


class DeepSets(Trunk):
    """Deep sets: h = two ReLU layers of a token; features = ReLU(linear(h) + linear(mean of h over present units))."""

    def __init__(self, entity_width: int, shape: Mapping[str, Any], entity: Mapping[str, Any]) -> None:
        super().__init__(entity_width, shape, entity)
        for key in ("hidden_width", "feature_width"):
            if shape[key] < 1:
                raise ConfigError(f"deepsets.{key}={shape[key]} is out of range; set deepsets.{key} to 1 or more.")
        hidden, gain = shape["hidden_width"], self.gains.relu
        self.width = shape["feature_width"]
        self.embed = nn.Sequential(
            linear(entity_width, hidden, gain), nn.ReLU(), linear(hidden, hidden, gain), nn.ReLU()
        )
        self.of_unit = linear(hidden, self.width, gain)
        self.of_all = linear(hidden, self.width, gain, bias=False)

    def forward(self, entities: EntityFeatures, memory: Tensor, noise: Tensor | None = None) -> Features:
        units = self.embed(entities.features)
        averaged = self.units_to_average(entities.present)
        weight = averaged.unsqueeze(-1).to(units.dtype)
        # A dead agent sees no units; clamp makes their mean 0 instead of NaN.
        everyone = (units * weight).sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp(min=1)
        features = (self.of_unit(units) + self.of_all(everyone)).relu()
        return Features(
            own=features[..., 0, :],
            targets=gather_units(features, entities.targets),
            units=features,
            averaged=averaged,
            memory=memory,
        )
