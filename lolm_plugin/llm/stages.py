"""A causal LM in two stages, packed: the trunk, which nothing trains, and the top, which ends in the wanted states.

Both are views of one Hugging Face model: they share its modules and use its own forward.
"""

import copy
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
        self._trunk = _view(model, layers[:split], start=0, final=False)
        above = [Recomputed(layer) if recompute else layer for layer in layers[split:-1]]
        self.reads_positions = read_positions
        last = TopLayer(layers[-1]) if read_positions else layers[-1]
        self._top = _view(model, [*above, last], start=split, final=True)

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


def can_be_packed(model: PreTrainedModel) -> bool:
    """Whether a model has the parts that ``Stages`` takes for granted; whether the result is right is to be tried."""
    layers, config = getattr(model, "layers", None), model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        isinstance(layers, nn.ModuleList) and isinstance(getattr(model, "norm", None), nn.Module) and kinds <= ATTENTION
    )


def _view(model: PreTrainedModel, layers: list[nn.Module], start: int, final: bool) -> PreTrainedModel:
    """``model`` with some of its layers, which keep their own numbers, and without the final norm unless ``final``."""
    view = copy.copy(model)
    view.__dict__["_modules"] = dict(model._modules)
    view.config = copy.copy(model.config)
    view.config.num_hidden_layers = len(layers)
    for per_layer in ("layer_types", "mlp_layer_types"):
        if getattr(model.config, per_layer, None):
            setattr(view.config, per_layer, getattr(model.config, per_layer)[start : start + len(layers)])
    view.layers = nn.ModuleList(layers)
    if not final:
        view.norm = nn.Identity()
    return view


def _run(model: PreTrainedModel, packing: Packing, device: torch.device, **inputs: Tensor) -> Tensor:
    return model(
        **inputs,
        position_ids=packing.positions(device),
        # Four dimensions mean that the mask is made already: the packing knows who sees whom.
        attention_mask=torch.empty(1, 1, 0, 0, device=device),
        use_cache=False,
        packing=packing,
    ).last_hidden_state[0]
