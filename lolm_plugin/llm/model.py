"""The language model: pretrained weights with LoRA on top and their frozen self as reference, or trained in full.

With LoRA one set of weights is both the policy's model (adapter on) and the reference (adapter off).
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
from lolm_plugin.llm import matmul, quantization, sources, trial
from lolm_plugin.llm.encoder import EncoderSettings
from lolm_plugin.llm.lora import first_layer, with_lora
from lolm_plugin.llm.model_folder import context_length
from lolm_plugin.llm.prompt_batch import PromptBatch, members
from lolm_plugin.randomness import keyed_seeds
from lolm_plugin.tensor_files import check_fit_to_save, load_tensors, save_tensors

FULL_MODEL = "model.safetensors"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Backbone(nn.Module):
    """A causal language model without its language-model head: prompts in, hidden states out.

    Attributes:
        lm: the Hugging Face model, under PEFT's if it has an adapter.
        tokenizer: the model's own.
        encoder: how it runs, packed or padded (``encoder.py``).
        hidden_size: width of a hidden state.
        num_layers: layers that are kept.
        context_length: the longest prompt, in tokens.
        has_reference: the pretrained model is still there, under an adapter.
        precise: sums are float32.
    """

    def __init__(self, llm: Mapping, lora: Mapping, seed: int, device: str | torch.device = "cpu") -> None:
        """Load the model, add the adapter, and try how it can run.

        Args:
            llm: section ``llm`` of ``config/default.yaml``.
            lora: section ``lora``; see ``with_lora``.
            seed: decides the adapter, and the model's weights if they are not pretrained. The global random state is
                left as it was.
            device: of the weights.

        Raises:
            ConfigError: any of these cannot be used.
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
        if torch.device(device).type == "cpu":
            matmul.select_backend(llm["product"])
            matmul.replace_linear_layers(self.lm)
        self.precise = dtype == torch.float32 and not self._autocast and llm["quantization"] == "none"
        self.to(device)
        settings = EncoderSettings(
            frozen_layers=first_layer(model, lora["layers"]) if self.has_reference else 0,
            recompute=bool(llm["recompute"]),
            read_positions=bool(llm["read_positions"]),
            share_prefix=bool(llm["share_prefix"]),
        )
        self.encoder = trial.choose_encoder(tried, settings, self.version)

    def prompt_batch(
        self,
        prefix: Sequence[int],
        sequences: Sequence[Sequence[int] | Tensor],
        read_positions: Sequence[Tensor] | None = None,
        targets: Tensor | None = None,
    ) -> PromptBatch:
        """Collect prompts for ``encode``.

        Args:
            prefix: token ids that all prompts begin with; may be empty.
            sequences: each prompt's other token ids, at least one.
            read_positions: see ``PromptBatch``, as are ``targets``.

        Raises:
            ConfigError: a prompt is longer than the context.
        """
        ids = [torch.as_tensor(sequence, dtype=torch.int64) for sequence in sequences]
        shortest, longest = min(map(len, ids), default=1), max(map(len, ids), default=1) + len(prefix)
        assert shortest > 0, "a prompt without tokens of its own has no last token"
        if longest > self.context_length:
            raise ConfigError(
                f"A prompt of {longest} tokens does not fit the {self.context_length} tokens of the language "
                "model's context: set prompt.style=compact for shorter prompts, or llm.model to a model with a "
                "longer context."
            )
        batch = PromptBatch.of(prefix, ids, read_positions, targets)
        return batch if self.encoder.settings.share_prefix else batch.repeat_prefix()

    def encode(self, batch: PromptBatch, reference: bool = False, token_budget: int | None = None) -> Tensor:
        """Compute the final hidden states that are read, prompt by prompt: float32 [reads, hidden].

        Args:
            batch: the prompts.
            reference: switch the adapter off and record no gradient; a model trained in full has no reference.
            token_budget: tokens that run at once, which changes no result; None: all.
        """
        packs = batch.plan(token_budget)
        with torch.no_grad() if reference else nullcontext(), self._adapter(on=not reference), self._precision():
            states = [self.encoder.encode(batch, pack, reference).float() for pack in packs]
        if not packs:
            return torch.zeros(0, self.hidden_size, device=self.device)
        # From the order of the packs to that of the batch. Stable, so that the states of a prompt stay in their order.
        counts = torch.tensor([len(reads) for reads in batch.read_positions])
        prompts = torch.tensor([prompt for pack in packs for prompt in members(pack)])
        order = prompts.repeat_interleave(counts[prompts]).argsort(stable=True)
        return torch.cat(states)[order.to(self.device)]

    def precompute_frozen_layers(
        self, batch: PromptBatch, keep_bytes: float, token_budget: int | None = None
    ) -> PromptBatch:
        """Add the frozen layers' states to a batch; see ``PackedEncoder.precompute_frozen_layers``."""
        with self._precision():
            return self.encoder.precompute_frozen_layers(batch, keep_bytes, token_budget)

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode: dropout would make the policy differ from itself between passes."""
        return super().train(False)

    def version(self, reference: bool) -> int:
        """Return another number after every change of the policy's weights; the reference never changes."""
        # Every change in place, such as an optimiser's step or a loaded checkpoint, raises a tensor's version.
        return 0 if reference else sum(parameter._version for parameter in self.trainable())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def trainable(self) -> list[nn.Parameter]:
        """List what is trained: the adapter's parameters, float32, or every weight."""
        return self.lora_parameters() if self.has_reference else list(self.lm.parameters())

    def lora_parameters(self) -> list[nn.Parameter]:
        """List the adapter's parameters, float32; none where every weight is trained."""
        return [parameter for name, parameter in self.lm.named_parameters() if "lora_" in name]

    def save(self, folder: str | Path) -> None:
        """Write what is trained: the adapter in PEFT's format to ``adapter``, or all weights to one file."""
        if self.has_reference:
            self.save_adapter(Path(folder, "adapter"))
        else:
            save_tensors(Path(folder, FULL_MODEL), self.lm.state_dict())

    def load(self, folder: str | Path) -> None:
        """Load what ``save`` wrote. Raises ConfigError for any tensor missing, unexpected or reshaped."""
        if self.has_reference:
            self.load_adapter_state(load_tensors(Path(folder, "adapter/adapter_model.safetensors")))
        else:
            self.lm.load_state_dict(load_tensors(Path(folder, FULL_MODEL), expected=self.lm.state_dict()))

    def adapter_state(self) -> dict[str, Tensor]:
        """Copy the adapter to the CPU, under PEFT's names."""
        state = get_peft_model_state_dict(self._peft, save_embedding_layers=False)
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def load_adapter_state(self, state: Mapping[str, Tensor]) -> None:
        """Load an ``adapter_state``. Raises ConfigError unless names and shapes are exactly this adapter's."""
        current = self.adapter_state()
        missing, unexpected = sorted(current.keys() - state.keys()), sorted(state.keys() - current.keys())
        reshaped = [name for name in current if name in state and current[name].shape != state[name].shape]
        kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
        if wrong := [f"{len(names)} {kind} (first {names[0]})" for kind, names in kinds.items() if names]:
            raise ConfigError(
                f"The saved adapter does not fit this model, with tensors {', '.join(wrong)}: set lora.rank, "
                "lora.targets, llm.model and llm.num_layers to what they were when it was saved."
            )
        set_peft_model_state_dict(self._peft, dict(state))

    @contextmanager
    def with_adapter(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """Use another adapter inside the ``with`` block, and restore the current one exactly after it.

        Args:
            state: an ``adapter_state``.

        Raises:
            ConfigError: its names or shapes are not this adapter's.
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
        assert isinstance(self.lm, PeftModel), "a model trained in full is no longer what it was at the start"
        return self.lm

    def _precision(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast)

    def _adapter(self, on: bool) -> AbstractContextManager:
        return nullcontext() if on else self._peft.disable_adapter()


def _dtypes(name: str, device: torch.device, frozen: bool) -> tuple[torch.dtype, bool]:
    """Return the dtype of the weights, and whether they are only multiplied in bfloat16.

    bfloat16 has three digits, in which small steps of weights that are trained would be lost.
    """
    if name == "auto":
        cuda = device.type == "cuda"
        return (torch.bfloat16, False) if cuda and frozen else (torch.float32, cuda)
    if name not in DTYPES:
        raise ConfigError(f"llm.dtype={name} is not known: set llm.dtype to auto, {' or '.join(DTYPES)}.")
    return DTYPES[name], False
