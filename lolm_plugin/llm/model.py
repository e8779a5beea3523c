"""The language model: pretrained weights with a LoRA adapter, or trained in full.

With LoRA the same weights are the policy's model (adapter on) and the frozen reference model (adapter off).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm import quantization, sources, trial
from lolm_plugin.llm.compiling import compile_layers
from lolm_plugin.llm.encoder import EncoderSettings, PackedEncoder
from lolm_plugin.llm.fused import fuse_norms
from lolm_plugin.llm.kernel_check import varlen_works
from lolm_plugin.llm.lora import first_layer, with_lora
from lolm_plugin.llm.model_folder import context_length
from lolm_plugin.llm.prompt_batch import Pack, PromptBatch, members
from lolm_plugin.randomness import keyed_seeds
from lolm_plugin.tensor_files import check_fit_to_save, load_tensors, save_tensors

FULL_MODEL = "model.safetensors"
MEAN_SHARE = 0.5  # of the mean state, whose deviation on 3m is about twice that of the last state (SmolLM2, 4 layers)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Backbone(nn.Module):
    """Causal language model without its language-model head: prompts in, hidden states out.

    Attributes:
        lm: the Hugging Face model, wrapped by PEFT if it has an adapter.
        tokenizer: the model's tokenizer.
        encoder: runs the model packed or padded (``encoder.py``).
        hidden_size: width of a hidden state.
        num_layers: number of layers after ``llm.num_layers``.
        context_length: the longest prompt, in tokens.
        has_reference: True with LoRA: without its adapter the model is still the pretrained one.
        precise: True if the model computes in float32, without quantization.
    """

    def __init__(self, llm: Mapping, lora: Mapping, seed: int, device: str | torch.device = "cpu") -> None:
        """Load the model, add the adapter, and choose an encoder that computes the right numbers.

        Args:
            llm: section ``llm`` of ``config/default.yaml``.
            lora: section ``lora``; see ``with_lora``.
            seed: seed of the adapter, and of the model's weights if they are not pretrained. The global random state
                does not change.
            device: device of the weights.

        Raises:
            ConfigError: a setting or the model cannot be used.
        """
        super().__init__()
        source = sources.resolve(llm["model"])
        self.has_reference: bool = llm["train"] == "lora"
        dtype, self._autocast = _dtypes(llm["dtype"], torch.device(device), frozen=self.has_reference)
        model_seed, lora_seed = (int(word) for word in keyed_seeds(seed, "backbone", count=2))
        loading = quantization.loading(llm["quantization"], dtype, device)
        model = source.load_model(llm["num_layers"], dtype, llm["pretrained"], model_seed, **loading)
        self.tokenizer = source.load_tokenizer()
        self.num_layers: int = model.config.num_hidden_layers
        self.context_length = context_length(model.config, self.tokenizer)
        self.lm: PreTrainedModel | PeftModel = model
        if self.has_reference:
            with sources.seeded(lora_seed):
                self.lm = with_lora(model, lora, source.model)
        else:
            model.requires_grad_(True)
        tried = trial.TriedModel(model, source.model, self.context_length)
        self.hidden_size = trial.check_runs(tried)
        self.precise = dtype == torch.float32 and not self._autocast and llm["quantization"] == "none"
        self.to(device)
        fuse_norms(model)
        settings = EncoderSettings(
            frozen_layers=first_layer(model, lora["layers"]) if self.has_reference else 0,
            recompute=bool(llm["recompute"]),
            read_positions=bool(llm["read_positions"]),
            share_prefix=bool(llm["share_prefix"]),
            varlen=varlen_works(model, source.model, torch.bfloat16 if self._autocast else dtype),
        )
        self.encoder = trial.choose_encoder(tried, settings, self.version)
        if llm["compile"]:
            with self._precision():
                compile_layers(tried, self.encoder)

    def prompt_batch(
        self,
        prefix: Sequence[int],
        sequences: Sequence[Sequence[int] | Tensor],
        read_positions: Sequence[Tensor] | None = None,
        targets: Tensor | None = None,
    ) -> PromptBatch:
        """Build a batch of prompts for ``encode``.

        Args:
            prefix: token ids at the start of all prompts; may be empty.
            sequences: each prompt's token ids after the prefix, at least one.
            read_positions: see ``PromptBatch``.
            targets: see ``PromptBatch``.

        Raises:
            ConfigError: a prompt is longer than the context.
        """
        ids = [torch.as_tensor(sequence, dtype=torch.int64) for sequence in sequences]
        shortest, longest = min(map(len, ids), default=1), max(map(len, ids), default=1) + len(prefix)
        assert shortest > 0, "every prompt needs at least one token after the prefix"
        if longest > self.context_length:
            raise ConfigError(
                f"A prompt of {longest} tokens does not fit the {self.context_length} tokens of the language "
                "model's context: set prompt.style=compact for shorter prompts, or llm.model to a model with a "
                "longer context."
            )
        batch = PromptBatch.of(prefix, ids, read_positions, targets)
        return batch if self.encoder.settings.share_prefix else batch.repeat_prefix()

    def encode(
        self,
        batch: PromptBatch,
        reference: bool = False,
        token_budget: int | None = None,
        add_mean: bool = False,
    ) -> Tensor:
        """Compute the final hidden states that are read, prompt by prompt: float32 [reads, hidden].

        Args:
            batch: the prompts.
            reference: switch the adapter off and record no gradient. A model trained in full has no reference.
            token_budget: number of tokens that run at once, without effect on the result; None: all.
            add_mean: add half of the mean state of each prompt to its first state (``head.read=mean``).
        """
        packs = batch.plan(token_budget)
        with torch.no_grad() if reference else nullcontext(), self._adapter(on=not reference), self._precision():
            encode = self._encode_with_mean if add_mean else self.encoder.encode
            states = [encode(batch, pack, reference).float() for pack in packs]
        if not packs:
            return torch.zeros(0, self.hidden_size, device=self.device)
        # Restore the order of the batch. The sort is stable, so the states of each prompt keep their order.
        counts = torch.tensor([len(reads) for reads in batch.read_positions])
        prompts = torch.tensor([prompt for pack in packs for prompt in members(pack)])
        order = prompts.repeat_interleave(counts[prompts]).argsort(stable=True)
        return torch.cat(states)[order.to(self.device)]

    def _encode_with_mean(self, batch: PromptBatch, pack: Pack, reference: bool) -> Tensor:
        assert isinstance(self.encoder, PackedEncoder), "the agent checks it"
        prompts = members(pack)
        batch = self.encoder.with_frozen_states(batch, prompts)
        states = self.encoder.encode(batch, pack, reference)
        counts = torch.tensor([len(batch.read_positions[prompt]) for prompt in prompts])
        first = (counts.cumsum(0) - counts).to(states.device)
        return states.index_add(0, first, MEAN_SHARE * self.encoder.mean_states(batch, prompts).to(states.dtype))

    def precompute_frozen_layers(
        self, batch: PromptBatch, keep_bytes: float, token_budget: int | None = None
    ) -> PromptBatch:
        """Add the frozen layers' states to a batch; see ``PackedEncoder.precompute_frozen_layers``."""
        with self._precision():
            return self.encoder.precompute_frozen_layers(batch, keep_bytes, token_budget)

    def train(self, mode: bool = True) -> "Backbone":
        """Keep evaluation mode: with dropout the policy would differ between passes."""
        return super().train(False)

    def version(self, reference: bool) -> int:
        """Return a number that differs after every change of the policy's weights; 0 for the frozen reference."""
        # Every in-place change, such as an optimiser step or a loaded checkpoint, increments a tensor's version.
        return 0 if reference else sum(parameter._version for parameter in self.trainable())

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def trainable(self) -> list[nn.Parameter]:
        """Return the trained parameters: those of the adapter (float32), or all weights."""
        return self.lora_parameters() if self.has_reference else list(self.lm.parameters())

    def lora_parameters(self) -> list[nn.Parameter]:
        """Return the adapter's parameters, float32; none if the model is trained in full."""
        return [parameter for name, parameter in self.lm.named_parameters() if "lora_" in name]

    def save(self, folder: str | Path) -> None:
        """Write the trained weights: the adapter in PEFT's format to ``adapter``, or all weights to one file."""
        if self.has_reference:
            self.save_adapter(Path(folder, "adapter"))
        else:
            save_tensors(Path(folder, FULL_MODEL), self.lm.state_dict())

    def load(self, folder: str | Path) -> None:
        """Load what ``save`` wrote. Raises ConfigError if a tensor is missing, unexpected or of another shape."""
        if self.has_reference:
            self.load_adapter_state(load_tensors(Path(folder, "adapter/adapter_model.safetensors")))
        else:
            self.lm.load_state_dict(load_tensors(Path(folder, FULL_MODEL), expected=self.lm.state_dict()))

    def adapter_state(self) -> dict[str, Tensor]:
        """Return a copy of the adapter on the CPU, with PEFT's tensor names."""
        state = get_peft_model_state_dict(self._peft, save_embedding_layers=False)
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def load_adapter_state(self, state: Mapping[str, Tensor]) -> None:
        """Load an ``adapter_state``. Raises ConfigError unless tensor names and shapes match this adapter's."""
        current = self.adapter_state()
        missing, unexpected = sorted(current.keys() - state.keys()), sorted(state.keys() - current.keys())
        reshaped = [name for name in current if name in state and current[name].shape != state[name].shape]
        kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
        if wrong := [f"{len(names)} {kind} (first {names[0]})" for kind, names in kinds.items() if names]:
            raise ConfigError(
                f"The saved adapter does not fit this model (tensors: {', '.join(wrong)}): set lora.rank, "
                "lora.targets, llm.model and llm.num_layers to their values when it was saved."
            )
        set_peft_model_state_dict(self._peft, dict(state))

    @contextmanager
    def with_adapter(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """Use another adapter inside the ``with`` block, then restore the current one exactly.

        Args:
            state: an ``adapter_state``.

        Raises:
            ConfigError: its tensor names or shapes do not match this adapter's.
        """
        current = self.adapter_state()
        self.load_adapter_state(state)
        try:
            yield
        finally:
            self.load_adapter_state(current)

    def save_adapter(self, folder: str | Path) -> None:
        """Write the adapter in PEFT's format, for ``PeftModel.from_pretrained(base_model, folder)``."""
        check_fit_to_save(self.adapter_state(), "the adapter")
        try:
            self._peft.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        except SafetensorError as error:  # a full disk
            raise OSError(str(error)) from error

    @property
    def _peft(self) -> PeftModel:
        assert isinstance(self.lm, PeftModel), "a model trained in full has neither an adapter nor a reference"
        return self.lm

    def _precision(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast)

    def _adapter(self, on: bool) -> AbstractContextManager:
        return nullcontext() if on else self._peft.disable_adapter()


def _dtypes(name: str, device: torch.device, frozen: bool) -> tuple[torch.dtype, bool]:
    """Return the dtype of the weights, and True if float32 weights are multiplied in bfloat16 (autocast).

    bfloat16 has three digits, so it would lose small steps of trained weights.
    """
    if name == "auto":
        cuda = device.type == "cuda"
        return (torch.bfloat16, False) if cuda and frozen else (torch.float32, cuda)
    if name not in DTYPES:
        raise ConfigError(f"llm.dtype={name} is not known: set llm.dtype to auto, {' or '.join(DTYPES)}.")
    return DTYPES[name], False
