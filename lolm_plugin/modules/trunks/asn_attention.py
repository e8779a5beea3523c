"""ASN-Attention: action semantics (Wang et al., ICLR 2020) for any number of units.

ASN separates the effect of an action on its target from everything else. The environment's embedding is computed from
all units (here with attention, as in the released code of DT2GS), a target's embedding only from its own token.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lolm_plugin.modules.heads import InnerActionHead
from lolm_plugin.modules.layers import Attention, linear, orthogonal
from lolm_plugin.modules.trunks.trunk import Features, Trunk, gather_units
from lolm_plugin.observations.entity_features import EntityFeatures


class ASNAttention(Trunk):
    """Trunk that combines an embedding e of the environment with an embedding y of each target.

    e comes from the own token's attention over all units, y from the target's token alone. ``combine=hadamard``: the
    features are a linear layer of e and of the elementwise product e*y. ``combine=inner``: the features are e and y;
    their inner product is the target action's logit. ``layer_norm`` gives e and y the same size at the start; without
    it their product is nearly constant and learns late. ``recurrent``: e passes through a GRU, whose state is the
    memory.
    """

    def __init__(self, entity_width: int, shape: Mapping[str, Any], entity: Mapping[str, Any]) -> None:
        super().__init__(entity_width, shape, entity)
        gain, model_width = self.gains.plain, shape["heads"] * shape["head_width"]
        self.embed = linear(entity_width, model_width, gain)
        self.attention = Attention(model_width, shape["heads"], shape["head_width"], gain, bias=True, project=False)
        self.embed_target = linear(entity_width, model_width, gain)
        self.gru = orthogonal(nn.GRU(model_width, model_width)) if shape["recurrent"] else None
        self.memory_width = model_width if shape["recurrent"] else 0
        norms = (nn.LayerNorm(model_width) if shape["layer_norm"] else nn.Identity() for _ in range(2))
        self.environment_norm, self.target_norm = norms
        self.inner = shape["combine"] == "inner"
        self.width = model_width if self.inner else shape["feature_width"]
        self.final = nn.Identity() if self.inner else linear(model_width, self.width, gain)

    def make_head(self) -> nn.Module:
        return InnerActionHead(self.width, self.gains.head) if self.inner else super().make_head()

    def unroll(self, entities: EntityFeatures, memory: Tensor, noise: Tensor | None = None) -> Features:
        raw = entities.features
        environment, attention = self.attention.attend_raw(self.embed, raw[..., :1, :], raw, self.allowed(entities))
        environment = self.environment_norm(environment)
        if self.gru is not None:
            steps = environment.reshape(len(environment), -1, environment.shape[-1])
            memory = memory.reshape(1, *steps.shape[1:]).contiguous()  # cuDNN refuses an expanded view
            environment = self.gru(steps, memory)[0].view_as(environment)
            memory = environment.squeeze(-2)
        else:
            memory = memory.expand(len(raw), *memory.shape)
        targets = self.target_norm(self.embed_target(gather_units(entities.features, entities.targets)))
        units = self.final(torch.cat([environment, environment * targets], dim=-2))
        target_present = gather_units(entities.present.unsqueeze(-1), entities.targets).squeeze(-1)
        averaged = self.units_to_average(torch.cat([entities.present[..., :1], target_present], dim=-1))
        averaged[..., 1:] &= entities.targets >= 0
        return Features(
            own=units[..., 0, :],
            targets=targets if self.inner else units[..., 1:, :],
            units=units,
            averaged=averaged,
            memory=memory,
            attention=attention,
        )
