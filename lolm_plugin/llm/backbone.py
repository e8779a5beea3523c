"""A language model as an encoder of prompts: LoRA on top, its frozen self underneath, or trained in full.

With LoRA one set of weights is both the policy's trunk (adapter on) and the reference (adapter off).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm import quantization, sources, trial
from lolm_plugin.llm.lora import first_layer, with_lora
from lolm_plugin.llm.model_folder import context_length
from lolm_plugin.llm.products import choose, use_fastest
from lolm_plugin.llm.reader import PackedReader, PaddedReader, Rows
from lolm_plugin.llm.trial import Forms, Tried
from lolm_plugin.randomness import keyed_seeds
from lolm_plugin.tensor_files import check_fit_to_save, load_tensors, save_tensors

FULL_MODEL = "model.safetensors"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Backbone(nn.Module):
    """Token ids in, hidden states out: of a row's last token or of those asked for.

    Attributes: ``tokenizer``; ``hidden_size``; ``num_layers``; ``context_length`` in tokens; ``packs``, whether rows
    run packed (``llm/packing.py``) and not padded, which a few architectures cannot; ``reads_positions``, whether the
    last layer runs only where it is read (``llm/top_layer.py``); ``shares_prefix``, whether a
    common prefix is run once and not once a row; ``has_reference``, whether the model as it was at the start is still
    there; ``precise``, whether sums are float32; ``trunk_layers``, how many lower layers nothing trains.
    """

    def __init__(self, llm: Mapping, lora: Mapping, seed: int, device: str | torch.device = "cpu") -> None:
        """``llm``: the section of ``config/default.yaml``. ``lora``: see ``with_lora``.

        ``seed`` decides the adapter, and the language model too if it is not pretrained; the global random
        state is left as it was. Raises ConfigError for any of these that cannot be used.
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
        if self.has_reference:
            with sources.seeded(lora_seed):
                self.lm = with_lora(model, lora, source.model)
        else:
            self.lm = model.requires_grad_(True)
        tried = Tried(model, source.model, self.context_length)
        self.hidden_size = trial.check_runs(tried)
        if torch.device(device).type == "cpu":
            choose(llm["product"])
            use_fastest(self.lm)
        self.precise = dtype == torch.float32 and not self._autocast and llm["quantization"] == "none"
        self.to(device)
        split = first_layer(model, lora["layers"]) if self.has_reference else 0
        forms = Forms(split, bool(llm["recompute"]), bool(llm["read_positions"]), bool(llm["share_prefix"]))
        stages = trial.packed_stages(tried, forms)
        self.packs = stages is not None
        self.reads_positions = stages is not None and stages.reads_positions
        self.trunk_layers = stages.split if stages else 0
        self.shares_prefix = self.packs and forms.share_prefix
        self._reader: PackedReader | PaddedReader
        if stages:
            self._reader = PackedReader(stages, self, self.shares_prefix)
        else:
            trial.check_padded(tried)
            self._reader = PaddedReader(model)

    def rows(
        self,
        prefix: Sequence[int],
        sequences: Sequence[Sequence[int]],
        places: Sequence[Tensor] | None = None,
    ) -> Rows:
        """What ``read`` takes. ``prefix`` may be empty; each sequence has at least one token.

        ``places`` int64 [places] says of each sequence which of its tokens' states are read; None: the last alone.
        Raises ConfigError for a prompt longer than the context.
        """
        parts = [torch.as_tensor(sequence, dtype=torch.int64) for sequence in sequences]
        shortest, longest = min(map(len, parts), default=1), max(map(len, parts), default=1) + len(prefix)
        assert shortest > 0, "a sequence without tokens has no last token"
        if longest > self.context_length:
            raise ConfigError(
                f"A prompt of {longest} tokens does not fit the {self.context_length} tokens of the language "
                "model's context: set prompt.style=compact for shorter prompts, or llm.model to a model with a "
                "longer context."
            )
        if self.shares_prefix:
            return Rows(tuple(prefix), parts, places)
        beginning = torch.as_tensor(prefix, dtype=torch.int64)
        if places is not None:
            places = [len(prefix) + place for place in places]
        return Rows((), [torch.cat([beginning, part]) for part in parts], places)

    def read(self, rows: Rows, reference: bool = False, token_budget: int | None = None) -> Tensor:
        """The final hidden states that are asked for, row by row: float32 ``[states, hidden_size]``.

        ``reference`` switches the adapter off and records no gradient; a model trained in full has none. At most
        ``token_budget`` tokens run at once (None: all), which changes no result.
        """
        with torch.no_grad() if reference else nullcontext(), self._adapter(on=not reference), self._precision():
            packs = rows.plan(token_budget)
            states = [self._reader.read(rows, pack, reference).float() for pack in packs]
        if not packs:
            return torch.zeros(0, self.hidden_size, device=self.device)
        counts = torch.tensor(rows.states)
        read = torch.tensor([row for pack in packs for group in pack for row in group])
        # Stable, so that the states of a row stay in their order.
        order = read.repeat_interleave(counts[read]).argsort(stable=True)
        return torch.cat(states)[order.to(self.device)]

    def encode(self, prefix: Sequence[int], sequences: Sequence[Sequence[int]], reference: bool = False) -> Tensor:
        """The last states of ``prefix + sequence``, all read at once; see ``rows`` and ``read``."""
        return self.read(self.rows(prefix, sequences), reference)

    def precompute_frozen_layers(self, rows: Rows, keep_bytes: float, token_budget: int | None = None) -> Rows:
        """``rows`` with token ids replaced by the states above the layers that nothing trains.

        States are kept until ``drop_frozen_states``, so that a prompt that comes again is not computed again. Once
        ``keep_bytes`` are used, the remaining rows stay token ids, and ``read`` computes their states each time.
        """
        if not self.trunk_layers:
            return rows
        with self._precision():
            return self._reader.precompute_frozen_layers(rows, keep_bytes, token_budget)

    def drop_frozen_states(self) -> None:
        """Free what ``precompute_frozen_layers`` has kept."""
        if self.trunk_layers:
            self._reader.frozen_states.drop()

    @property
    def kept_bytes(self) -> int:
        """Memory of the states that ``precompute_frozen_layers`` keeps."""
        return self._reader.frozen_states.nbytes if self.trunk_layers else 0

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in evaluation mode: dropout would make the policy differ from itself between passes."""
        return super().train(False)

    def version(self, reference: bool) -> int:
        """Another number after every change of what is trained; the reference never changes."""
        # Every change in place, such as an optimiser's step or a loaded checkpoint, raises a tensor's version.
        return 0 if reference else sum(parameter._version for parameter in self.trainable())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def trainable(self) -> list[nn.Parameter]:
        """What is trained: the adapter's parameters, float32, or every weight."""
        return self.lora_parameters() if self.has_reference else list(self.lm.parameters())

    def lora_parameters(self) -> list[nn.Parameter]:
        """The adapter's parameters, float32; none where every weight is trained."""
        return [parameter for name, parameter in self.lm.named_parameters() if "lora_" in name]

    def save(self, folder: str | Path) -> None:
        """Write what is trained: the adapter in PEFT's format to ``adapter``, or all weights to one file."""
        if self.has_reference:
            self.save_adapter(Path(folder, "adapter"))
        else:
            save_tensors(Path(folder, FULL_MODEL), self.lm.state_dict())

    def load(self, folder: str | Path) -> None:
        """Put back what ``save`` wrote, strictly. Raises ConfigError for any tensor missing, unexpected or reshaped."""
        if self.has_reference:
            self.load_adapter_state(load_tensors(Path(folder, "adapter/adapter_model.safetensors")))
        else:
            self.lm.load_state_dict(load_tensors(Path(folder, FULL_MODEL), expected=self.lm.state_dict()))

    def adapter_state(self) -> dict[str, Tensor]:
        """A copy of the adapter on the CPU, under PEFT's names."""
        state = get_peft_model_state_dict(self.lm, save_embedding_layers=False)
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def load_adapter_state(self, state: Mapping[str, Tensor]) -> None:
        """Put an ``adapter_state`` back. Raises ConfigError unless names and shapes are exactly this adapter's."""
        own = self.adapter_state()
        missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        reshaped = [name for name in own if name in state and own[name].shape != state[name].shape]
        kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
        if wrong := [f"{len(names)} {kind} (first {names[0]})" for kind, names in kinds.items() if names]:
            raise ConfigError(
                f"The saved adapter does not fit this model, with tensors {', '.join(wrong)}: set lora.rank, "
                "lora.targets, llm.model and llm.num_layers to what they were when it was saved."
            )
        set_peft_model_state_dict(self.lm, dict(state))

    @contextmanager
    def with_adapter(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """Use another adapter inside the ``with`` block, and restore the own one exactly after it.

        Args:
            state: an ``adapter_state``.

        Raises:
            ConfigError: its names or shapes are not this adapter's.
        """
        own = self.adapter_state()
        self.load_adapter_state(state)
        try:
            yield
        finally:
            self.load_adapter_state(own)

    def save_adapter(self, folder: str | Path) -> None:
        """Write the adapter in PEFT's format, for ``PeftModel.from_pretrained(base_model, folder)``."""
        check_fit_to_save(self.adapter_state(), "the adapter")
        try:
            self.lm.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        except SafetensorError as error:  # a full disk
            raise OSError(str(error)) from error

    def _model(self) -> PreTrainedModel:
        return self.lm.get_base_model() if self.has_reference else self.lm

    def _precision(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast)

    def _adapter(self, on: bool) -> AbstractContextManager:
        assert on or self.has_reference, "a model trained in full is no longer what it was at the start"
        return nullcontext() if on else self.lm.disable_adapter()


def _dtypes(name: str, device: torch.device, frozen: bool) -> tuple[torch.dtype, bool]:
    """The dtype of the weights, and whether they are only multiplied in bfloat16.

    bfloat16 has three digits, in which small steps of weights that are trained would be lost.
    """
    if name == "auto":
        cuda = device.type == "cuda"
        return (torch.bfloat16, False) if cuda and frozen else (torch.float32, cuda)
    if name not in DTYPES:
        raise ConfigError(f"llm.dtype={name} is not known: set llm.dtype to auto, {' or '.join(DTYPES)}.")
    return DTYPES[name], False
