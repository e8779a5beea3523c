"""Checks that a model folder contains one complete language model.

Refused are an adapter in addition to full weights, and missing, unused or NaN tensors. transformers accepts most of
these folders without a warning, and then trains another model than the named one.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lolm_plugin.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
SHARD_INDEX = "model.safetensors.index.json"
MOST_JSON_BYTES = 64 * 2**20  # larger index files are not read; those of the largest models have under 10 MB


def check_no_adapter(folder: Path, model: str, complete: bool = True) -> None:
    """Raise ConfigError if ``folder`` contains an adapter.

    transformers would add an adapter to full weights in the same folder. The policy before training and the reference
    of the KL would then be a model that no key names.

    Args:
        folder: the model's folder.
        model: the value of ``llm.model``.
        complete: False if the weights may not have been downloaded yet.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        return
    if not (folder / "config.json").is_file() or (complete and not _has_weights(folder)):
        raise ConfigError(
            f"llm.model={model} is an adapter{_base(folder)}, not a language model: merge it into its base model with "
            "PEFT (PeftModel.from_pretrained(...).merge_and_unload().save_pretrained(...)) and set llm.model to the "
            "merged folder; to load a policy of this program, set checkpoint_path or transfer_from instead."
        )
    raise ConfigError(
        f"llm.model={model} contains full weights and an adapter, so it names two models: set llm.model to a "
        f"folder without {ADAPTER_CONFIG} and {ADAPTER_FILES[0]} to train the full weights, or merge the adapter into "
        "them first (merge_and_unload of PEFT)."
    )


def check_shards(folder: Path, model: str) -> None:
    """Raise ConfigError if the weight index is damaged or names a file that is not directly in ``folder``."""
    if missing := missing_shards(folder, model):
        raise ConfigError(
            f"llm.model={model} lacks {missing[0]!r}, which its {SHARD_INDEX} names: set llm.model to a folder that "
            "contains all of its weights."
        )


def missing_shards(folder: Path, model: str) -> list[str]:
    """List the files that the weight index, if there is one, names and that are not directly in ``folder``."""
    index = folder / SHARD_INDEX
    if not index.is_file():
        return []
    try:
        if index.stat().st_size > MOST_JSON_BYTES:
            raise ValueError("it is too large")
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(shard for shard in shards if Path(shard).name != shard or not (folder / shard).is_file())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        raise ConfigError(
            f"llm.model={model} has a damaged {SHARD_INDEX} ({error}): set llm.model to a complete copy of the model."
        ) from error


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase", config: "PretrainedConfig", model: str) -> None:
    """Raise ConfigError if the tokenizer has ids that the model has no embedding for."""
    size = getattr(config, "vocab_size", None)
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest < 0:
        raise ConfigError(f"llm.model={model} has a tokenizer without tokens: set llm.model to a complete model.")
    if isinstance(size, int) and highest >= size:
        raise ConfigError(
            f"llm.model={model} has a tokenizer with ids up to {highest} but embeddings only for ids up to "
            f"{size - 1}, so the tokenizer is another model's: set llm.model to a folder with its own tokenizer."
        )


def check_loaded(model: "PreTrainedModel", unexpected: Iterable[str], name: str) -> None:
    """Raise ConfigError if the folder's files do not belong together, or if a weight is not finite.

    The files do not belong together if the folder has weights of a layer, such as a bias, that config.json disables.

    Args:
        model: the model with the folder's weights.
        unexpected: names of the tensors in the folder that the model did not load.
        name: the value of ``llm.model``.
    """
    from torch import Tensor

    modules = dict(model.named_modules())
    prefix = f"{model.base_model_prefix}."
    for tensor in sorted(unexpected):
        owner, _, kind = tensor.removeprefix(prefix).rpartition(".")
        # Task heads and layers above llm.num_layers have no module here and may be unused. A bias of a layer may not.
        if kind in ("weight", "bias") and isinstance(getattr(modules.get(owner), "weight", None), Tensor):
            raise ConfigError(
                f"llm.model={name} has weights for {tensor}, which its config.json switches off, so config.json and "
                "weights belong to two models: set llm.model to a folder whose files belong together."
            )
    for tensor, values in model.named_parameters():
        # One pass over memory: the sum is NaN or infinite if any number is. A sum can also overflow, so confirm it.
        if values.is_floating_point() and not values.sum().isfinite() and not values.isfinite().all():
            raise ConfigError(
                f"llm.model={name} has NaN or infinite numbers in its weights, first in {tensor}: set llm.model to an "
                "undamaged copy of the model."
            )


def context_length(config: "PretrainedConfig", tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the maximum number of tokens of a prompt.

    With longrope (Phi-3's 128k models), a prompt longer than the original context changes the position embeddings of
    all prompts in its batch. States would then depend on the other prompts, so the original context is the limit.
    """
    # Models with relative positions do not have this value. Their tokenizer has the length they were trained on.
    limit = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    parameters = getattr(config, "rope_parameters", None) or {}
    for rope in (parameters, *(value for value in parameters.values() if isinstance(value, dict))):
        if rope.get("rope_type") == "longrope":
            limit = min(limit, rope.get("original_max_position_embeddings") or limit)
    return int(limit)


def _has_weights(folder: Path) -> bool:
    return any(path.name not in ADAPTER_FILES for path in folder.glob("*.safetensors"))


def _base(folder: Path) -> str:
    """Return the base model that an adapter's configuration names, as text for a message."""
    try:
        path = folder / ADAPTER_CONFIG
        base = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size < 2**20 else {}
        name = base.get("base_model_name_or_path")
    except (ValueError, AttributeError, RecursionError, OSError):
        return ""
    return f" of {name[:100]!r}" if isinstance(name, str) and name else ""
