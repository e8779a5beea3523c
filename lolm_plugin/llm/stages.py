"""A causal LM in two stages, packed: the trunk, which nothing trains, and the top, which ends in the wanted states.

Both are views of one Hugging Face model: they share its modules and use its own forward.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lolm_plugin.llm.packing import PACKED, Packing
from lolm_plugin.llm.top_layer import TopLayer

ATTENTION = {"full_attention", "sliding_attention"}


class Stages:
    """``split`` layers below, the others above; ``recompute`` keeps no activations for the backward pass.

    ``read_positions`` computes the last layer only where its states are read (``top_layer.py``).
    """

    def __init__(self, model: PreTrainedModel, split: int, recompute: bool, read_positions: bool) -> None:
        layers = list(model.layers)
        model.set_attn_implementation(PACKED)
        self.split = split
        self._trunk = view(model, layers[:split], range(split), final=False)
        above = [Recomputed(layer) if recompute else layer for layer in layers[split:-1]]
        self.reads_positions = read_positions
        last = TopLayer(layers[-1]) if read_positions else layers[-1]
        self._top = view(model, [*above, last], range(split, len(layers)), final=True)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._trunk.get_input_embeddings().weight.device

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [tokens] -> states below the first layer [tokens, hidden]."""
        return self._trunk.get_input_embeddings()(ids)

    def trunk(self, ids: Tensor, packing: Packing) -> Tensor:
        """Token ids [tokens] -> states after the lower layers [tokens, hidden]."""
        if not self.split:
            return self.embed(ids)
        return _run(self._trunk, packing, ids.device, input_ids=ids.unsqueeze(0))

    def top(self, states: Tensor, packing: Packing) -> Tensor:
        """Those states [tokens, hidden] -> final states of ``packing.wanted`` [places, hidden]."""
        states = _run(self._top, packing, states.device, inputs_embeds=states.unsqueeze(0))
        return states if self.reads_positions else states[packing.wanted.to(states.device)]


class Recomputed(nn.Module):
    """A layer whose activations are computed again for the backward pass and not kept (gradient checkpointing)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Tensor, **context: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return self.layer(hidden_states, **context)
        return checkpoint(self.layer, hidden_states, use_reentrant=False, **context)


def obstacle(model: PreTrainedModel) -> str:
    """Return which part that ``Stages`` needs a model lacks, or "". Whether the numbers are right is to be tried."""
    kind, types = type(model).__name__, set(getattr(model.config, "layer_types", None) or [])
    if not isinstance(getattr(model, "layers", None), nn.ModuleList):
        return f"{kind} has no layers in the usual place"
    if not isinstance(getattr(model, "norm", None), nn.Module):
        return f"{kind} has no final norm in the usual place"
    if others := sorted(types - ATTENTION):
        return f"{kind} has layers of {' and '.join(others)}"
    return ""


def view(model: PreTrainedModel, layers: Sequence[nn.Module], indices: Sequence[int], final: bool) -> PreTrainedModel:
    """Return ``model`` with ``layers``, its own at ``indices``, and without the final norm unless ``final``."""
    part = copy.copy(model)
    part.__dict__["_modules"] = dict(model._modules)
    part.config = copy.copy(model.config)
    part.config.num_hidden_layers = len(layers)
    for per_layer in ("layer_types", "mlp_layer_types"):
        if kinds := getattr(model.config, per_layer, None):
            setattr(part.config, per_layer, [kinds[index] for index in indices])
    part.layers = nn.ModuleList(layers)
    if not final:
        part.norm = nn.Identity()
    return part


def _run(model: PreTrainedModel, packing: Packing, device: torch.device, **inputs: Tensor) -> Tensor:
    return model(
        **inputs,
        position_ids=packing.positions(device),
        # Four dimensions mean that the mask is made already: the packing knows who sees whom.
        attention_mask=torch.empty(1, 1, 0, 0, device=device),
        use_cache=False,
        packing=packing,
    ).last_hidden_state[0]
