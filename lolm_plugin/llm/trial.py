"""Trials of a language model at the start of a run: its states are compared with those of plain transformers.

An architecture can run packed if its numbers agree; its name does not matter. Otherwise it runs padded, with a warning
that says why. A model whose states depend on the other prompts of a batch is refused.

There are two trials. One runs the whole model on short prompts. The other runs a few of its layers on long prompts,
with large weights and with gradients. For the whole model this would take too long.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm.encoder import (
    EncoderSettings,
    PackedEncoder,
    PaddedEncoder,
    decoder_layers,
    obstacle,
    padded_states,
    with_layers,
)
from lolm_plugin.llm.kernel_check import MASKED
from lolm_plugin.llm.lora import adapted_kinds, called_linear_layers
from lolm_plugin.llm.packing import UnsupportedAttentionError
from lolm_plugin.llm.prompt_batch import PromptBatch, members
from lolm_plugin.llm.sources import quiet, seeded
from lolm_plugin.memory import is_out_of_memory

# Errors of a model that is not built as PackedEncoder and LastLayer assume.
UNSUPPORTED_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
# Largest relative errors of states and gradients, in float32. Rounding reaches 8e-6 and 9e-5 for SmolLM2, 3e-6 and 1e-5
# for 35 tiny families. Wrong prefixes, rotations and scales of five families gave 5e-2 and more. Lower limits would run
# correct models padded; higher ones would accept small mistakes.
VALUE_LIMIT, GRADIENT_LIMIT = 1e-4, 3e-3
# Share of the largest gradient's norm; errors of smaller gradients are relative to it. Smaller: rounding noise would be
# compared, for example that of a key's bias, whose gradient is 0. Larger: mistakes in small gradients are missed.
GRADIENT_FLOOR = 1e-2
# Factor on the weights. Attention scores are then 9 times as large, so that a cap or a wrong scale has an effect. At 6
# and more attention becomes one-hot, and gradients of queries and keys vanish.
LARGE = 3.0
ADAPTER_STD = 0.05  # of the adapters in the trial; before training they are zero, which would hide errors
WINDOW = 40  # tokens; largest sliding window in the trial, shorter than its prompts
MOST_KINDS = 3  # kinds of layers in the trial, of the frozen and of the trained layers each
PREFIX_TOKENS = 20
# Successful trials of a few layers in this process. They test the architecture, so a second model of the same
# configuration needs none. Evaluations and tests build such models.
PASSED_TRIALS: set[tuple[object, ...]] = set()
PADDED = "llm.model=%s runs padded, which changes no result but is several times slower: %s."
WHOLE_LAST_LAYER = (
    "llm.model=%s computes its last layer for all tokens, not only for those that are read, which changes no result "
    "but is slower: %s."
)
# One prompt is longer than the 128 queries of one attention call on a CPU, two begin alike, some are short.
LENGTHS, ALIKE = (136, 130, 33, 30, 9, 1), 100


@dataclass(frozen=True)
class TriedModel:
    """Model to try: ``lm`` is the base model, with its adapter if it has one.

    ``name`` is ``llm.model``. ``context`` is the maximum number of tokens of a prompt.
    """

    lm: PreTrainedModel
    name: str
    context: int


class _DiffersError(ValueError):
    """Error for a packed model whose numbers differ from those of plain transformers."""


def check_runs(model: TriedModel) -> int:
    """Run the model once and return the width of its states. Warn of adapters that have no effect.

    Raises:
        ConfigError: the model cannot be run, computes NaN, or lets tokens see later ones. Right padding without a mask
            is exact only if no token sees a later one.
    """
    lm, name = model.lm, model.name
    try:
        with torch.no_grad(), quiet(), called_linear_layers(lm) as called:
            ids = torch.tensor([[3, 4, 5, 6], [3, 4, 5, 7]], device=lm.device) % lm.config.vocab_size
            states = lm(input_ids=ids, use_cache=False).last_hidden_state[:, :3].float()
    except UNSUPPORTED_ERRORS as error:
        if is_out_of_memory(error):
            raise _no_memory(name, error) from error
        raise ConfigError(
            f"llm.model={name} cannot be run by transformers ({_reason(error)}): set llm.model to a model whose "
            "config.json and weights fit each other."
        ) from error
    if not states.isfinite().all():
        raise ConfigError(f"llm.model={name} computes NaN or infinite states: set llm.model to another model.")
    if not _agree(states[0], states[1], lm.dtype):
        raise ConfigError(
            f"llm.model={name} lets tokens see later ones, so it is not a causal language model: set llm.model to "
            "one that is, such as Qwen/Qwen3-0.6B."
        )
    if unused := adapted_kinds(lm) - called:
        logging.getLogger("lolm").warning(
            "The adapters of %s have no effect in llm.model=%s, whose code reads these weights without calling their "
            "layers: set lora.targets to others, such as [%s].",
            " and ".join(sorted(unused)),
            name,
            ", ".join(sorted(called)),
        )
    return states.shape[-1]


def choose_encoder(
    model: TriedModel, settings: EncoderSettings, version: Callable[[bool], int]
) -> PackedEncoder | PaddedEncoder:
    """Return an encoder with the numbers of plain transformers: packed if possible, otherwise padded.

    A warning says why the model runs padded, or why its last layer is computed for all tokens although ``settings`` ask
    only for those that are read.

    Raises:
        ConfigError: the memory is too small for the model and a few short prompts, or padding changes the states of a
            prompt.
    """
    if lacks := obstacle(model.lm):
        return _padded_encoder(model, lacks)
    attention, reasons = model.lm.config._attn_implementation, []
    for read_positions in [True, False] if settings.read_positions else [False]:
        tried = replace(settings, read_positions=read_positions)
        try:
            _try_few_layers(model, tried)
            tried = _with_working_kernel(model, tried)
        except UNSUPPORTED_ERRORS as error:
            model.lm.set_attn_implementation(attention)
            if is_out_of_memory(error):  # has nothing to do with the architecture
                raise _no_memory(model.name, error) from error
            reasons.append(_reason(error))
            if isinstance(error, UnsupportedAttentionError):
                break
        else:
            if reasons:
                logging.getLogger("lolm").warning(WHOLE_LAST_LAYER, model.name, reasons[0])
            return PackedEncoder(model.lm, tried, version)
    return _padded_encoder(model, reasons[-1])


def _padded_encoder(model: TriedModel, reason: str) -> PaddedEncoder:
    """Warn and return a padded encoder. Raises ConfigError if padding changes the states of a prompt."""
    logging.getLogger("lolm").warning(PADDED, model.name, reason)
    batch = _prompts(model, 3, (30, 12, 2))
    # quiet: transformers recommends a mask here. Right padding needs none, which this comparison checks.
    with torch.no_grad(), quiet():
        padded = padded_states(model.lm, batch.repeat_prefix().take(members(batch.plan()[0])))
        if not _agree(padded, _plain(model, batch), model.lm.dtype):
            raise ConfigError(
                f"llm.model={model.name} computes other states for a prompt if its batch contains a longer one, so "
                "the policy would depend on the batch: set llm.model to another model, such as Qwen/Qwen3-0.6B."
            )
    return PaddedEncoder(model.lm)


def _prompts(model: TriedModel, prefix_tokens: int, lengths: Sequence[int], alike: int = 0) -> PromptBatch:
    """Make up prompts that fit into the context. The first two begin with the same ``alike`` tokens."""
    vocabulary = model.lm.config.vocab_size
    prefix_tokens = min(prefix_tokens, model.context // 2)
    lengths = [min(length, model.context - prefix_tokens) for length in lengths]
    position = torch.arange(max(lengths))
    ids = [(5 + 7 * prompt + 11 * position[:length]) % vocabulary for prompt, length in enumerate(lengths)]
    ids[1][:alike] = ids[0][:alike]
    # The last token first, then 0 to 3 earlier ones.
    reads = [torch.tensor([length - 1, *range(0, length - 1, 8)][: 1 + i % 4]) for i, length in enumerate(lengths)]
    prefix = (3 + 13 * torch.arange(prefix_tokens)).remainder(vocabulary).tolist()
    return PromptBatch.of(prefix, ids, reads)


def _plain(model: TriedModel, batch: PromptBatch) -> Tensor:
    """Compute states with plain transformers, one whole prompt at a time, in the order of a pack."""
    whole = batch.repeat_prefix()
    return torch.cat([padded_states(model.lm, whole.take([prompt])) for prompt in members(batch.plan()[0])])


def _packed(encoder: PackedEncoder, batch: PromptBatch) -> Tensor:
    """Compute states with the packed model, in the same order."""
    return encoder.encode(batch, batch.plan()[0], reference=False)


def _encoder(model: TriedModel, settings: EncoderSettings) -> PackedEncoder:
    return PackedEncoder(model.lm, settings, version=lambda reference: 0)  # the weights do not change during a trial


def _try_whole_model(model: TriedModel, settings: EncoderSettings) -> None:
    """Compare short prompts in the model's own dtype, without gradient. Raises _DiffersError."""
    batch = _prompts(model, 3 * settings.share_prefix, (9, 9, 8, 2))
    with torch.no_grad():
        plain = _plain(model, batch)
        packed = _packed(_encoder(model, settings), batch)
    if not _agree(packed, plain, model.lm.dtype):
        raise _DiffersError("states of the whole model differ from those of plain transformers")


def _with_working_kernel(model: TriedModel, settings: EncoderSettings) -> EncoderSettings:
    """Test the whole model and return settings with which it works, without ``varlen`` if it fails only with it.

    Raises _DiffersError.
    """
    if settings.varlen:
        try:
            _try_whole_model(model, settings)
        except UNSUPPORTED_ERRORS as error:
            if is_out_of_memory(error):
                raise
            masked = replace(settings, varlen=False)
            _try_whole_model(model, masked)
            logging.getLogger("lolm").warning(MASKED, model.name, _reason(error))
            return masked
    else:
        _try_whole_model(model, settings)
    return settings


def _try_few_layers(model: TriedModel, settings: EncoderSettings) -> None:
    """Compare a few layers with and without gradient, and with stored frozen states. Raises _DiffersError.

    They compute in float32, so with masks. ``kernel_check.py`` compares the kernel without masks with this attention.
    """
    trained = sum(p.numel() for p in decoder_layers(model.lm).parameters() if p.requires_grad)
    config = model.lm.config.to_json_string(use_diff=False)
    proof = (type(model.lm), config, trained, model.lm.device.type, settings)
    if proof in PASSED_TRIALS:
        return
    try:
        few, frozen_layers = _few_layers(model.lm, settings.frozen_layers)
        _compare(replace(model, lm=few), replace(settings, frozen_layers=frozen_layers))
        PASSED_TRIALS.add(proof)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        # The trial of the whole model follows and needs less memory.
        logging.getLogger("lolm").warning(
            "The memory is too small to try llm.model=%s on long prompts; it is tried only on short ones.",
            model.name,
        )


def _compare(model: TriedModel, settings: EncoderSettings) -> None:
    batch = _prompts(model, PREFIX_TOKENS * settings.share_prefix, LENGTHS, ALIKE)
    trained = [parameter for parameter in decoder_layers(model.lm).parameters() if parameter.requires_grad]
    plain = _plain(model, batch)
    weights = torch.randn(plain.shape, generator=torch.Generator().manual_seed(0)).to(plain.device)
    expected = _gradients(plain, weights, trained)
    encoder = _encoder(model, settings)
    states = _packed(encoder, batch)
    _check_values("with gradient", states, plain)
    _check_gradients(_gradients(states, weights, trained), expected)
    with torch.no_grad():
        _check_values("with a cached prefix", _packed(encoder, batch), plain)
        if settings.frozen_layers:
            kept = encoder.precompute_frozen_layers(batch, keep_bytes=2**40, token_budget=None)
            _check_values("with stored frozen states", _packed(encoder, kept), plain)


def _few_layers(model: PreTrainedModel, split: int) -> tuple[PreTrainedModel, int]:
    """Copy a few of the model's layers in float32, with large weights and adapters; return also how many are frozen.

    The copy has short sliding windows. It shares the model's embeddings and rotary embeddings.
    """
    own = decoder_layers(model)
    chosen = _different_layers(model, range(split)) + _different_layers(model, range(split, len(own)))
    layers, frozen = [own[index] for index in chosen], sum(index < split for index in chosen)
    few = with_layers(model, layers, chosen, final_norm=True)
    with seeded(0):
        if getattr(model, "is_quantized", False):  # no float weights to copy: new layers of the same classes
            kinds = [cast(Callable[..., nn.Module], type(layer)) for layer in layers]
            copies = nn.ModuleList(kind(few.config, index) for kind, index in zip(kinds, chosen, strict=True))
            copies.apply(model._init_weights)
            copies[:frozen].requires_grad_(False)
            norm = copy.deepcopy(model.norm)
        else:
            copies, norm = copy.deepcopy((decoder_layers(few), model.norm), {id(model.config): few.config})
        few.layers, few.norm = copies.to(model.device).float(), norm.float()
        few.set_input_embeddings(_Float32(model.get_input_embeddings()))
        _enlarge(copies)
    for owner in (few.config, *copies.modules()):
        window = getattr(owner, "sliding_window", None)
        if isinstance(window, int) and window > WINDOW:
            setattr(owner, "sliding_window", WINDOW)  # noqa: B010  a configuration or a module
    return few.eval(), frozen


@torch.no_grad()
def _enlarge(layers: nn.ModuleList) -> None:
    for name, parameter in layers.named_parameters():
        if "lora_B" in name:
            parameter.copy_(torch.randn(parameter.shape) * ADAPTER_STD)
        elif "lora_" not in name and parameter.ndim > 1:
            parameter.mul_(LARGE)


class _Float32(nn.Module):
    """The model's embedding with float32 output."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    @property
    def weight(self) -> Tensor:
        return cast(Tensor, self.embedding.weight)

    def forward(self, ids: Tensor) -> Tensor:
        return self.embedding(ids).float()


def _different_layers(model: PreTrainedModel, indices: range) -> list[int]:
    """Return the first layer of each kind in ``indices``, and the model's last layer if ``indices`` contain it."""
    kinds: dict[str, int] = {}
    for index in indices:
        kinds.setdefault(_kind(model, index), index)
    chosen = list(kinds.values())[:MOST_KINDS]
    last = len(decoder_layers(model)) - 1
    return sorted({*chosen, last}) if last in indices else chosen


def _kind(model: PreTrainedModel, index: int) -> str:
    """Describe a layer without its weights, for example its window or the lack of a rotary embedding."""
    layer = decoder_layers(model)[index]
    attention = getattr(layer, "self_attn", layer)
    types = [
        (getattr(model.config, per_layer, None) or {index: ""})[index]
        for per_layer in ("layer_types", "mlp_layer_types")
    ]
    settings = {
        name: value
        for name, value in vars(attention).items()
        if isinstance(value, bool | int | float | str) and name != "layer_idx"
    }
    return repr([*types, type(attention), type(getattr(layer, "mlp", None)), sorted(settings.items())])


def _gradients(states: Tensor, weights: Tensor, trained: Sequence[Tensor]) -> Sequence[Tensor]:
    return torch.autograd.grad((states * weights).sum(), trained, materialize_grads=True) if trained else ()


def _check_values(which: str, packed: Tensor, plain: Tensor) -> None:
    error = float((packed - plain).detach().norm() / plain.detach().norm())
    if not error <= VALUE_LIMIT:
        raise _DiffersError(f"states {which} differ from those of plain transformers by {error:.1g} of their norm")


def _check_gradients(packed: Sequence[Tensor], plain: Sequence[Tensor]) -> None:
    norms = [float(gradient.norm()) for gradient in plain]
    for got, want, norm in zip(packed, plain, norms, strict=True):
        error = float((got - want).norm()) / max(norm, GRADIENT_FLOOR * max(norms), 1e-30)
        if not error <= GRADIENT_LIMIT:
            raise _DiffersError(f"gradients differ from those of plain transformers by {error:.1g} of their norm")


def _agree(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    one, other = one.float(), other.float()
    return bool((one - other).abs().max() <= torch.finfo(dtype).eps ** 0.5 * one.abs().max())


def _reason(error: Exception) -> str:
    if isinstance(error, _DiffersError | NotImplementedError):
        return str(error)
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _no_memory(name: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"The memory is too small for llm.model={name} and a few short prompts ({str(error).splitlines()[0][:200]}): "
        "set llm.num_layers to fewer layers, llm.quantization=8bit, or llm.model to a smaller model."
    )
