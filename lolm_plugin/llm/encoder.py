"""Encoders: from token ids to final hidden states, with one Hugging Face model.

``PackedEncoder.encode`` runs a pack of prompts in these steps:

    token ids            [tokens] of each prompt
    frozen layers        [tokens, hidden] of each prompt: stored during the rollout, or computed now
    one sequence         [prefix + padded tokens of all prompts, hidden]
    trained layers       [reads, hidden]: the last layer runs only on the tokens that are read

Linear layers see one long sequence. ``packing.py`` defines which tokens attend to which. ``PaddedEncoder`` is for
architectures that cannot run packed. Both compute the same numbers as plain transformers, which ``trial.py`` checks.
"""

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lolm_plugin.llm.packing import PACKED, KeysAndValues, Packing, ReadPositions, UnsupportedAttentionError
from lolm_plugin.llm.prompt_batch import Pack, PromptBatch, find_distinct_tokens, members, pad
from lolm_plugin.llm.sources import quiet

ATTENTION = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class EncoderSettings:
    """Settings that change the speed and memory of an encoder, but not its hidden states.

    Attributes:
        frozen_layers: number of lowest layers that are not trained.
        recompute: recompute activations of the trained layers in the backward pass instead of storing them.
        read_positions: compute the last layer only for the tokens whose states are read.
        share_prefix: compute the prefix of all prompts once. Frozen layers compute any common beginning once.
        varlen: attend with the variable-length kernel of a GPU (``attention.py``), where it takes the dtype.
    """

    frozen_layers: int = 0
    recompute: bool = False
    read_positions: bool = False
    share_prefix: bool = False
    varlen: bool = False


class PackedEncoder:
    """Encoder that runs each pack of prompts as one sequence, with the shared prefix computed once.

    Attributes:
        settings: see ``EncoderSettings``.
        stored_bytes: memory of the states that ``precompute_frozen_layers`` has stored.
    """

    packed = True

    def __init__(self, model: PreTrainedModel, settings: EncoderSettings, version: Callable[[bool], int]) -> None:
        """Split ``model`` into frozen and trained layers. The weights are shared, not copied.

        Args:
            model: the model without a language-model head. If it has an adapter, the base model that contains it.
            settings: see ``EncoderSettings``.
            version: ``version(reference)`` returns a number that differs after every change of the weights: those of
                the reference (True) or of the policy (False).

        Raises:
            UnsupportedAttentionError: the model's attention cannot be replaced.
        """
        self.settings = settings
        self._model, self._version = model, version
        layers, split = list(decoder_layers(model)), settings.frozen_layers
        with quiet():
            model.set_attn_implementation(PACKED)
        if model.config._attn_implementation != PACKED:
            raise UnsupportedAttentionError("its attention cannot be replaced through transformers' interface")
        trained = [RecomputedLayer(layer) if settings.recompute else layer for layer in layers[split:-1]]
        last = LastLayer(layers[-1]) if settings.read_positions else layers[-1]
        self._frozen = with_layers(model, layers[:split], range(split), final_norm=False)
        self._trained = with_layers(model, [*trained, last], range(split, len(layers)), final_norm=True)
        # States of the prefix: always valid in the frozen layers, valid for one version of the weights in the trained.
        self._frozen_prefix: dict[tuple[int, ...], tuple[Tensor, KeysAndValues]] = {}
        self._trained_prefix: dict[tuple[tuple[int, ...], bool], tuple[int, KeysAndValues]] = {}
        self._kept: dict[tuple[tuple[int, ...], bytes], Tensor] = {}
        self._given: list[list[Tensor | None]] = []  # stored states in the batches of this update
        self.stored_bytes = 0

    def encode(self, batch: PromptBatch, pack: Pack, reference: bool) -> Tensor:
        """Compute the final hidden states that are read: [reads, hidden], in the order of ``pack``."""
        # Token ids -> states after the frozen layers, [tokens, hidden] of each prompt.
        states = {prompt: kept for prompt in members(pack) if (kept := batch.frozen_states[prompt]) is not None}
        missing = [prompt for prompt in members(pack) if prompt not in states]
        states |= zip(missing, self._frozen_states(batch.take(missing)), strict=True)
        # -> one sequence: of each group [prompts * longest, hidden].
        sequence = [pad([states[prompt] for prompt in group]) for group in pack]
        past = None
        if batch.prefix and torch.is_grad_enabled():  # in the sequence: all prompts add to its gradient
            sequence.insert(0, self._prefix_states(batch.prefix))
        elif batch.prefix:
            past = self._prefix_keys_values(batch.prefix, reference)
        # -> [reads, hidden].
        lengths = [[len(batch.ids[prompt]) for prompt in group] for group in pack]
        read_positions = [[batch.read_positions[prompt] for prompt in group] for group in pack]
        packing = Packing(len(batch.prefix), lengths, read_positions, past, varlen=self.settings.varlen)
        return self.run_trained_layers(torch.cat(sequence), packing)

    def with_frozen_states(self, batch: PromptBatch, prompts: Sequence[int]) -> PromptBatch:
        """Add the states after the frozen layers of ``prompts`` to a batch, without storing them."""
        missing = [prompt for prompt in prompts if batch.frozen_states[prompt] is None]
        states = list(batch.frozen_states)
        for prompt, computed in zip(missing, self._frozen_states(batch.take(missing)), strict=True):
            states[prompt] = computed
        return replace(batch, frozen_states=states)

    @torch.no_grad()
    def mean_states(self, batch: PromptBatch, prompts: Sequence[int]) -> Tensor:
        """Average each prompt's states after the frozen layers and apply the final norm: [prompts, hidden].

        Args:
            batch: from ``with_frozen_states``. The tokens of its shared prefix do not count.
            prompts: indices of prompts in the batch.
        """
        states = [batch.frozen_states[prompt] for prompt in prompts]
        return cast(nn.Module, self._model.norm)(torch.stack([cast(Tensor, of_prompt).mean(0) for of_prompt in states]))

    @torch.no_grad()
    def precompute_frozen_layers(self, batch: PromptBatch, keep_bytes: float, token_budget: int | None) -> PromptBatch:
        """Add the states after the frozen layers to a batch, and store them for later batches.

        Stored states are not computed again until ``drop_frozen_states``. The longest prompts are stored first, until
        all stored states take ``keep_bytes``. ``encode`` computes the states of the other prompts each time.
        """
        if not self.settings.frozen_layers:
            return batch
        keys = [(batch.prefix, ids.numpy().tobytes()) for ids in batch.ids]
        missing = [prompt for prompt, key in enumerate(keys) if key not in self._kept]
        for pack in batch.take(missing).plan(token_budget):
            prompts = [missing[index] for index in members(pack)]
            states = self._frozen_states(batch.take(prompts))
            nbytes = sum(of_prompt.nbytes for of_prompt in states)
            if self.stored_bytes + nbytes > keep_bytes:
                break
            self._kept.update(zip((keys[prompt] for prompt in prompts), states, strict=True))
            self.stored_bytes += nbytes
        self._given.append([self._kept.get(key) for key in keys])
        return replace(batch, frozen_states=self._given[-1])

    def drop_frozen_states(self) -> None:
        """Delete the states that ``precompute_frozen_layers`` has stored, also those in its batches.

        Frozen layers never change, so the states would stay valid. They are deleted after each update for another
        reason: a resumed run starts without them, and must compute the same last digits as an uninterrupted run.
        """
        self._kept.clear()
        for states in self._given:
            states[:] = [None] * len(states)
        self._given.clear()
        self.stored_bytes = 0

    def run_frozen_layers(self, ids: Tensor, packing: Packing) -> Tensor:
        """Compute the states after the frozen layers [tokens, hidden] from token ids [tokens]."""
        return self._run(self._frozen, packing, input_ids=ids.unsqueeze(0))

    def run_trained_layers(self, states: Tensor, packing: Packing) -> Tensor:
        """Compute final states that are read [reads, hidden] from states after the frozen layers [tokens, hidden]."""
        final = self._run(self._trained, packing, inputs_embeds=states.unsqueeze(0))
        return final if self.settings.read_positions else final[packing.read_index.to(final.device)]

    def _run(self, layers: PreTrainedModel, packing: Packing, **inputs: Tensor) -> Tensor:
        device = self._model.device
        return layers(
            **inputs,
            position_ids=packing.position_ids(device),
            # transformers takes a mask of four dimensions as complete and builds none. The real one is the packing's.
            attention_mask=torch.empty(1, 1, 0, 0, device=device),
            use_cache=False,
            packing=packing,
        ).last_hidden_state[0]

    def _embed(self, ids: Tensor) -> Tensor:
        """Compute the states below the first layer [tokens, hidden] from token ids [tokens]."""
        return self._model.get_input_embeddings()(ids)

    def _frozen_states(self, batch: PromptBatch) -> list[Tensor]:
        """Compute the states of all prompts after the frozen layers, in one pass: [tokens, hidden] each."""
        if not len(batch):
            return []
        if not self.settings.frozen_layers:
            ids = torch.cat(list(batch.ids)).to(self._model.device)
            return list(self._embed(ids).split([len(of_prompt) for of_prompt in batch.ids]))
        (pack,) = batch.plan()
        groups = [[batch.ids[prompt] for prompt in group] for group in pack]
        ids = torch.cat([pad(group) for group in groups]).to(self._model.device)
        distinct = find_distinct_tokens(groups, ids.device) if self.settings.share_prefix else None
        past = self._frozen_layers_of_prefix(batch.prefix)[1] if batch.prefix else None
        lengths = [[len(ids) for ids in group] for group in groups]
        packing = Packing(len(batch.prefix), lengths, (), past, distinct, self.settings.varlen)
        with torch.no_grad():
            padded = packing.pad(self.run_frozen_layers(ids[distinct.first] if distinct else ids, packing))
        blocks = padded.split([count * width for count, width in packing.groups])
        of_prompts = [x for group, block in zip(groups, blocks, strict=True) for x in block.chunk(len(group))]
        states = dict(zip(members(pack), of_prompts, strict=True))
        return [states[prompt][: len(ids)].clone() for prompt, ids in enumerate(batch.ids)]

    def _prefix_states(self, prefix: tuple[int, ...]) -> Tensor:
        """Compute the states of the prefix after the frozen layers: [tokens, hidden]."""
        if self.settings.frozen_layers:
            return self._frozen_layers_of_prefix(prefix)[0]
        return self._embed(torch.tensor(prefix, device=self._model.device))

    @torch.no_grad()
    def _frozen_layers_of_prefix(self, prefix: tuple[int, ...]) -> tuple[Tensor, KeysAndValues]:
        """Compute the prefix's states after the frozen layers, and its keys and values in these layers."""
        if prefix not in self._frozen_prefix:
            packing = Packing(len(prefix), [], varlen=self.settings.varlen)
            states = self.run_frozen_layers(torch.tensor(prefix, device=self._model.device), packing)
            self._frozen_prefix[prefix] = states, packing.prefix_keys_values
        return self._frozen_prefix[prefix]

    @torch.no_grad()
    def _prefix_keys_values(self, prefix: tuple[int, ...], reference: bool) -> KeysAndValues:
        """Return the prefix's keys and values in the trained layers, cached until the weights change."""
        version, known = self._version(reference), self._trained_prefix.get((prefix, reference))
        if known is None or known[0] != version:
            packing = Packing(len(prefix), [], varlen=self.settings.varlen)
            self.run_trained_layers(self._prefix_states(prefix), packing)
            known = self._trained_prefix[prefix, reference] = version, packing.prefix_keys_values
        return known[1]


class PaddedEncoder:
    """Encoder of padded whole prompts, for architectures whose attention or layers cannot be replaced."""

    packed = False
    settings = EncoderSettings()
    stored_bytes = 0

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def encode(self, batch: PromptBatch, pack: Pack, reference: bool) -> Tensor:
        """Compute the final hidden states that are read: [reads, hidden], in the order of ``pack``."""
        return padded_states(self._model, batch.take(members(pack)))

    def precompute_frozen_layers(self, batch: PromptBatch, keep_bytes: float, token_budget: int | None) -> PromptBatch:
        """Return the batch unchanged: frozen layers cannot run separately here."""
        return batch

    def drop_frozen_states(self) -> None:
        """Do nothing: no states are stored."""


def padded_states(model: PreTrainedModel, batch: PromptBatch) -> Tensor:
    """Run prompts without a shared prefix, padded to the longest, with plain transformers: [reads, hidden].

    Padding is on the right, so a causal model needs no attention mask: no token sees the padding after it.
    """
    # Pad with 0, which every model has an embedding for. A tokenizer's pad id may have none.
    ids = nn.utils.rnn.pad_sequence(list(batch.ids), batch_first=True).to(model.device)
    states = model(input_ids=ids, use_cache=False).last_hidden_state
    return torch.cat([row[reads.to(row.device)] for row, reads in zip(states, batch.read_positions, strict=True)])


class RecomputedLayer(nn.Module):
    """Layer whose activations are recomputed in the backward pass, not stored (gradient checkpointing)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Tensor, **context: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return self.layer(hidden_states, **context)
        # Layers draw nothing at random: no adapter has dropout, and ``Backbone.train`` keeps evaluation mode.
        return checkpoint(self.layer, hidden_states, use_reentrant=False, preserve_rng_state=False, **context)


class _Attention(Protocol):
    k_proj: Callable[[Tensor], Tensor]
    v_proj: Callable[[Tensor], Tensor]
    head_dim: int
    layer_idx: int


class _DecoderLayer(Protocol):
    """Attributes of transformers' layers that ``LastLayer`` uses."""

    self_attn: _Attention
    input_layernorm: Callable[[Tensor], Tensor]


class LastLayer(nn.Module):
    """Last layer that computes keys and values of all tokens, and the rest only for the tokens that are read.

    Of a prompt of 100 tokens one state is read. Queries, attention output and MLP (15/16 of a layer's products for
    SmolLM2) would be wasted on the other 99. The layer's own ``forward`` runs on the positions that are read, so the
    model's order of norms and residuals is kept. Only the computation of keys and values is repeated here.

    The constructor raises AttributeError for an architecture without ``input_layernorm``, ``k_proj``, ``v_proj`` or a
    rotary embedding in the usual places. ``trial.py`` checks the results when a run starts.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        attention = self._parts.self_attn
        self._rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
        for name in ("q_proj", "k_proj", "v_proj", "head_dim", "layer_idx"):
            getattr(attention, name)
        self._parts.input_layernorm  # noqa: B018  raises AttributeError if absent

    @property
    def _parts(self) -> _DecoderLayer:
        return cast(_DecoderLayer, self.layer)

    def forward(
        self, hidden_states: Tensor, packing: Packing, position_embeddings: tuple[Tensor, Tensor], **context: Any
    ) -> Tensor:
        """Compute the states at the positions that are read [1, reads, hidden] from states [1, tokens, hidden]."""
        keys, values = self._keys_and_values(hidden_states, position_embeddings)
        packing.collect(self._parts.self_attn.layer_idx, keys, values)
        read = packing.read_index.to(hidden_states.device)
        if not len(read):
            return hidden_states[:, :0]
        cos, sin = position_embeddings
        return self.layer(
            hidden_states.index_select(1, read),
            position_embeddings=(cos.index_select(1, read), sin.index_select(1, read)),
            packing=ReadPositions(packing, keys, values),
            **context,
        )

    def _keys_and_values(self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Compute keys and values of all tokens: [1, key heads, tokens, width] each."""
        attention = self._parts.self_attn
        states = self._parts.input_layernorm(hidden_states)
        keys = attention.k_proj(states).unflatten(-1, (-1, attention.head_dim))
        key_norm = getattr(attention, "k_norm", None)
        if key_norm is not None:  # Qwen3, Gemma 3
            keys = key_norm(keys)
        keys = keys.transpose(1, 2)
        no_heads = keys[:, :0]  # the function rotates queries and keys together; queries are not needed
        keys = self._rotate(no_heads, keys, *position_embeddings)[1]
        return keys, attention.v_proj(states).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the layers of a model for which ``obstacle`` returns ""."""
    return cast(nn.ModuleList, model.layers)


def obstacle(model: PreTrainedModel) -> str:
    """Return the reason why ``PackedEncoder`` cannot run the model, or ""."""
    kind, types = type(model).__name__, set(getattr(model.config, "layer_types", None) or [])
    if not isinstance(getattr(model, "layers", None), nn.ModuleList):
        return f"{kind} has no layers in the usual place"
    if not isinstance(getattr(model, "norm", None), nn.Module):
        return f"{kind} has no final norm in the usual place"
    if others := sorted(types - ATTENTION):
        return f"{kind} has layers of {' and '.join(others)}"
    return ""


def with_layers(
    model: PreTrainedModel, layers: Sequence[nn.Module], indices: Sequence[int], final_norm: bool
) -> PreTrainedModel:
    """Return a shallow copy of ``model`` that runs ``layers``, which have ``indices`` in the original model.

    All other modules are shared, and the architecture's own ``forward`` runs. Without ``final_norm``, the final norm is
    left out.
    """
    part = copy.copy(model)
    part.__dict__["_modules"] = dict(model._modules)
    part.config = copy.copy(model.config)
    part.config.num_hidden_layers = len(layers)
    for per_layer in ("layer_types", "mlp_layer_types"):
        if kinds := getattr(model.config, per_layer, None):
            setattr(part.config, per_layer, [kinds[index] for index in indices])
    part.layers = nn.ModuleList(layers)
    if not final_norm:
        part.norm = nn.Identity()
    return part
