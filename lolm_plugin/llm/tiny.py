"""Random language models that are small enough for tests, and their shared tokenizer."""

from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3TextConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

VOCABULARY = 512
SPECIALS = ("<pad>", "<bos>", "<eos>")
ARCHITECTURES = {"tiny-llama": LlamaConfig, "tiny-qwen3": Qwen3Config, "tiny-gemma3": Gemma3TextConfig}

CORPUS = (
    "You are a marine. You are a marauder. You are a stalker. You are a zealot. You are a zergling.",
    "You are a hydralisk. You are a medivac. You are a colossus. You are a baneling. You are a spine crawler.",
    "Your goal is to win the battle: kill all enemy units and keep your allies alive.",
    "Your health is 0.75, your shield is 0.50, your weapon cooldown is 0.25, your position is (0.12, -0.34).",
    "Ally 1 is a marine at distance 0.56, relative position (0.10, -0.20), with health 1.00.",
    "Enemy 0 is a zealot at distance 0.33, relative position (-0.45, 0.06), with health 0.50, in range.",
    "You see no enemies. You see no allies. The unit is dead. The unit can heal its allies.",
    "Available actions: stop, move north, move south, move east, move west, attack enemy 0, attack enemy 1.",
    "The available actions are: stop, move north, move south, move east, move west, heal ally 0.",
    "The best action for this agent in the current state is action",
)


def config(name: str, **sizes: Any) -> PretrainedConfig:
    """Build the configuration of ``tiny-llama``, ``tiny-qwen3`` or ``tiny-gemma3``. ``sizes`` replaces any field.

    Gemma's layers alternate between a sliding window and full attention.
    """
    fields: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
        "max_position_embeddings": 2048,
        # 1 / sqrt(hidden_size): at the usual 0.02 the states of such a narrow model hardly depend on the prompt.
        "initializer_range": 0.125,
        "vocab_size": VOCABULARY,
        "pad_token_id": SPECIALS.index("<pad>"),
        "bos_token_id": SPECIALS.index("<bos>"),
        "eos_token_id": SPECIALS.index("<eos>"),
    }
    if name == "tiny-gemma3":
        layers = sizes.get("num_hidden_layers", fields["num_hidden_layers"])
        fields["sliding_window"] = 32
        fields["layer_types"] = ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
    return ARCHITECTURES[name](**fields | sizes)


def tokenizer() -> PreTrainedTokenizerFast:
    """Build a byte-level BPE tokenizer of at most 512 tokens. It encodes any text; every digit is a token."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained()),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=2048,
    )


@cache
def _trained() -> str:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    return bpe.to_str()
