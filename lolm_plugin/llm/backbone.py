"""A language model as an encoder of prompts: LoRA on top, its frozen self underneath, or trained in full.

With LoRA one set of weights is both the policy's trunk (adapter on) and the reference (adapter off).
"""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.pytorch_utils import Conv1D

from lolm_plugin.checkpoints.files import load_tensors, save_tensors
from lolm_plugin.errors import ConfigError
from lolm_plugin.llm import sources
from lolm_plugin.llm.batching import pad_right
from lolm_plugin.randomness import keyed_seeds

FULL_MODEL = "model.safetensors"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Backbone(nn.Module):
    """Token ids in, one hidden state a row out.

    Attributes: ``tokenizer``; ``hidden_size``; ``num_layers``; ``context_length`` in tokens; ``shares_prefix``,
    whether a common prefix is run once and not once a row; ``has_reference``, whether the model as it was at the
    start is still there.
    """

    def __init__(self, llm: Mapping, lora: Mapping, seed: int, device: str | torch.device = "cpu") -> None:
        """``llm``: model, num_layers, dtype, pretrained, train, share_prefix. ``lora``: rank, alpha, targets.

        ``seed`` decides the adapter, and the language model too if it is not pretrained; the global random
        state is left as it was. Raises ConfigError for any of these that cannot be used.
        """
        super().__init__()
        source = sources.resolve(llm["model"])
        self.has_reference: bool = llm["train"] == "lora"
        dtype, self._autocast = _dtypes(llm["dtype"], torch.device(device), frozen=self.has_reference)
        model_seed, lora_seed = (int(word) for word in keyed_seeds(seed, "backbone", count=2))
        model = source.load_model(llm["num_layers"], dtype, llm["pretrained"], model_seed)
        self.tokenizer = source.load_tokenizer()
        self.hidden_size: int = model.config.hidden_size
        self.num_layers: int = model.config.num_hidden_layers
        limit = getattr(model.config, "max_position_embeddings", None)  # absent where positions are relative
        self.context_length: int = limit or self.tokenizer.model_max_length
        self.shares_prefix = bool(llm["share_prefix"]) and _attends_fully(model)
        self._pad_id: int = self.tokenizer.pad_token_id or 0
        _check_causal(model, source.model)
        if self.has_reference:
            with sources.seeded(lora_seed):
                self.lm = _with_lora(model, lora, source.model)
        else:
            self.lm = model.requires_grad_(True)
        self.to(device)

    def encode(self, prefix: Sequence[int], sequences: Sequence[Sequence[int]], reference: bool = False) -> Tensor:
        """The final hidden state at the last token of ``prefix + sequence``: float32 ``[rows, hidden_size]``.

        ``prefix`` is what all rows begin with and may be empty; each sequence has at least one token.
        ``reference`` switches the adapter off and records no gradient; a model trained in full has none. All rows
        run at once: see ``batching.plan_microbatches``. Raises ConfigError for a prompt longer than the context.
        """
        if not sequences:
            return torch.zeros(0, self.hidden_size, device=self.device)
        assert min(map(len, sequences)) > 0, "a sequence without tokens has no last token"
        longest = len(prefix) + max(map(len, sequences))
        if longest > self.context_length:
            raise ConfigError(
                f"A prompt of {longest} tokens does not fit the {self.context_length} tokens of the language "
                "model's context: set prompt.style=compact for shorter prompts, or llm.model to a model with a "
                "longer context."
            )
        run = self._run_after_prefix if self.shares_prefix and len(prefix) else self._run_full
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast)
        with torch.no_grad() if reference else nullcontext(), self._adapter(on=not reference), autocast:
            return run(prefix, sequences).float()

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in evaluation mode: dropout would make the policy differ from itself between passes."""
        return super().train(False)

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

    def save_adapter(self, folder: str | Path) -> None:
        """Write the adapter in PEFT's format, for ``PeftModel.from_pretrained(base_model, folder)``."""
        self.lm.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)

    def _run_full(self, prefix: Sequence[int], sequences: Sequence[Sequence[int]]) -> Tensor:
        ids, lengths = pad_right([[*prefix, *sequence] for sequence in sequences], self._pad_id)
        return _last(_hidden(self._model(), ids.to(self.device)), lengths)

    def _run_after_prefix(self, prefix: Sequence[int], sequences: Sequence[Sequence[int]]) -> Tensor:
        model = self._model()
        cache = DynamicCache(config=model.config)
        _hidden(model, torch.tensor([list(prefix)], device=self.device), cache)
        for layer in cache.layers:
            # expand, not repeat: gradients of all rows add up in the one prefix.
            layer.keys = layer.keys.expand(len(sequences), -1, -1, -1)
            layer.values = layer.values.expand(len(sequences), -1, -1, -1)
        ids, lengths = pad_right(sequences, self._pad_id)
        return _last(_hidden(model, ids.to(self.device), cache), lengths)

    def _model(self) -> PreTrainedModel:
        return self.lm.get_base_model() if self.has_reference else self.lm

    def _adapter(self, on: bool) -> AbstractContextManager:
        assert on or self.has_reference, "a model trained in full is no longer what it was at the start"
        return nullcontext() if on else self.lm.disable_adapter()


def _hidden(model: PreTrainedModel, ids: Tensor, cache: DynamicCache | None = None) -> Tensor:
    """States after the final norm ``[rows, width, hidden]``.

    No attention mask: padding is on the right, where a causal model's real tokens cannot see it, and a
    mask would cost the fast attention kernel.
    """
    return model(input_ids=ids, past_key_values=cache, use_cache=cache is not None).last_hidden_state


def _last(hidden: Tensor, lengths: Tensor) -> Tensor:
    rows = torch.arange(len(lengths), device=hidden.device)
    return hidden[rows, lengths.to(hidden.device) - 1]


def _attends_fully(model: PreTrainedModel) -> bool:
    """Whether the cache of every layer is plain keys and values of all tokens (no window, no recurrence)."""
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _check_causal(model: PreTrainedModel, name: str) -> None:
    """Right padding without a mask is exact only if no token sees a later one: try it."""
    with torch.no_grad():
        first, second = _hidden(model, torch.tensor([[3, 4, 5, 6], [3, 4, 5, 7]]))[:, :3]
    if (first - second).abs().max() > torch.finfo(first.dtype).eps ** 0.5 * first.abs().max():
        raise ConfigError(
            f"llm.model={name} lets tokens see later ones, so it is no causal language model: set llm.model to "
            "one that is, such as Qwen/Qwen3-0.6B."
        )


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


def _with_lora(model: PreTrainedModel, lora: Mapping, name: str) -> PeftModel:
    if not isinstance(lora["rank"], int) or lora["rank"] < 1:
        raise ConfigError(f"lora.rank={lora['rank']} is no positive integer: set lora.rank to 1 or more.")
    config = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        target_modules=_targets(model, lora["targets"]),
        lora_dropout=0.0,
        bias="none",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about GPT-2's transposed layers, which PEFT then handles
        peft = get_peft_model(model, config)
    peft.peft_config["default"].base_model_name_or_path = name
    return peft


def _targets(model: PreTrainedModel, targets: str | Sequence[str]) -> list[str]:
    """The full names of the linear layers meant by ``targets``."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    if targets == "all-linear":
        return linear
    wanted = [targets] if isinstance(targets, str) else list(targets)
    for target in wanted or ["(nothing)"]:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            kinds = sorted({name.rsplit(".", 1)[-1] for name in linear})
            raise ConfigError(
                f"lora.targets names {target}, which no linear layer of the model is called: set lora.targets to "
                f"all-linear or to some of {', '.join(kinds)}."
            )
    return wanted
