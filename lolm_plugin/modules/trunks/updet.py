"""UPDeT (Hu et al., ICLR 2021): a Transformer over units; each target's action is computed from the target's token.

The default is the form in the released code of DT2GS, which trains it with MAPPO. ``wide_heads`` and
``recurrent_token`` give the form of UPDeT's own code.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lolm_plugin.modules.layers import Attention, AttentionBlock, linear
from lolm_plugin.modules.trunks.trunk import Features, Trunk
from lolm_plugin.observations.entity_features import EntityFeatures


class UPDeT(Trunk):
    """Trunk: linear -> Transformer blocks -> linear, on every token. ``recurrent_token`` adds a memory token."""

    def __init__(self, entity_width: int, shape: Mapping[str, Any], entity: Mapping[str, Any]) -> None:
        super().__init__(entity_width, shape, entity)
        wide, heads, head_width = shape["wide_heads"], shape["heads"], shape["head_width"]
        model_width = head_width if wide else heads * head_width
        self.width = shape["feature_width"]
        self.memory_width = model_width if shape["recurrent_token"] else 0
        self.embed = linear(entity_width, model_width, self.gains.plain)
        self.blocks = nn.ModuleList(
            AttentionBlock(
                Attention(model_width, heads, head_width, self.gains.plain, shape["attention_bias"], project=wide),
                model_width,
                shape["ff_mult"] * head_width,
                self.gains,
            )
            for _ in range(shape["depth"])
        )
        self.final = linear(model_width, self.width, self.gains.plain)

    def forward(self, entities: EntityFeatures, memory: Tensor, noise: Tensor | None = None) -> Features:
        units, allowed = entities.features, self.allowed(entities)
        n = units.shape[-2]
        embed: nn.Linear | None = self.embed  # applied by the first block, which is cheaper on raw features
        if self.memory_width:
            units, embed = torch.cat([self.embed(units), memory.unsqueeze(-2)], dim=-2), None
            allowed = None if allowed is None else functional.pad(allowed, (0, 1), value=True)
        for block in self.blocks[:-1]:
            units, _ = block(units, units, allowed, embed)
            embed = None
        queries, kept = self.queries(entities, units[..., :n, :]), None
        if self.memory_width:
            queries = torch.cat([queries, units[..., n:, :]], dim=-2)
        elif not self.computes_all_units:
            # Skip targets out of reach, usually most of them: most of the work comes after the attention.
            kept = functional.pad(entities.targets >= 0, (1, 0), value=True).nonzero(as_tuple=True)
        encoded, attention = self.blocks[-1](queries, units, allowed, embed, kept)
        features = self.final(encoded)
        if kept is not None:
            features = features.new_zeros(*queries.shape[:-1], self.width).index_put(kept, features)
        if self.memory_width:
            # As published, the memory passes through the final layer if this layer keeps its width.
            memory = (features if self.width == self.memory_width else encoded)[..., -1, :]
            features, attention = features[..., :-1, :], attention[..., :n]
            attention = attention / attention.sum(-1, keepdim=True).clamp(min=torch.finfo(attention.dtype).tiny)
        return Features(**self.split(entities, features), memory=memory, attention=attention)
