"""Tests of the encoder: reading only some positions, and storing frozen states, gives plain transformers' numbers."""

import pytest
import torch
import transformers

from lolm_plugin.llm import encoder, tiny
from lolm_plugin.llm.model import Backbone
from lolm_plugin.llm.sources import TINY
from tests.llm.settings import LLM, LORA, with_random_adapter

# The longest prompt has 22 + 90 tokens, more than the window of 32 in half of tiny-gemma3's layers.
PREFIX = [3 + i % 400 for i in range(1, 200, 9)]
LENGTHS = (90, 88, 3, 41, 1, 40, 12, 89)
SEQUENCES = [[3 + (7 * row + 11 * i) % 450 for i in range(length)] for row, length in enumerate(LENGTHS)]
LAST = None  # the state of each prompt's last token
# Entity keys: the last token first, then 0 to 3 ends of sentences.
ENTITIES = [torch.tensor([length - 1, *range(1, length - 1, 7)][: 1 + row % 4]) for row, length in enumerate(LENGTHS)]
RELATIVE = 1e-5


@pytest.fixture(
    params=[(model, layers) for model in TINY for layers in (2, 3)], ids=lambda param: f"{param[0]}-{param[1]}"
)
def folder(request, tmp_path):
    """Save a model of each architecture whose last layer has a sliding window (Gemma 3 with 3 layers) or sees all."""
    model, layers = request.param
    torch.manual_seed(layers)
    transformers.AutoModel.from_config(tiny.config(model, num_hidden_layers=layers)).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    return tmp_path


def make(model, lora_layers=None, **llm):
    """Build a backbone with a random adapter; B = 0 would hide errors."""
    return with_random_adapter(Backbone({**LLM, "model": str(model), **llm}, {**LORA, "layers": lora_layers}, seed=0))


def plain(backbone, read):
    """Compute states with plain transformers and PEFT, one whole prompt at a time."""
    states = []
    for row, sequence in enumerate(SEQUENCES):
        ids = torch.tensor([[*PREFIX, *sequence]])
        positions = torch.tensor([len(sequence) - 1]) if read is LAST else read[row]
        states.append(backbone.lm(input_ids=ids).last_hidden_state[0, len(PREFIX) + positions])
    return torch.cat(states)


def gradients(backbone, states):
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((states * weights).sum(), backbone.lora_parameters())


def check_relative(got, want):
    assert want.norm() > 0
    assert (got - want).norm() <= RELATIVE * want.norm()


@pytest.mark.parametrize("read", [LAST, ENTITIES], ids=["last tokens", "entity keys"])
@pytest.mark.parametrize(("lora_layers", "token_budget"), [(None, 100), (1, None), (1, 100)])
def test_states_and_gradients_are_those_of_plain_transformers(folder, read, lora_layers, token_budget):
    backbone = make(folder, lora_layers)
    assert backbone.encoder.settings.read_positions
    expected = plain(backbone, read)
    expected_gradients = gradients(backbone, expected)
    batch = backbone.prompt_batch(PREFIX, SEQUENCES, read)
    for kept in (batch, backbone.precompute_frozen_layers(batch, 1e9, token_budget)):
        states = backbone.encode(kept, token_budget=token_budget)
        check_relative(states, expected)
        for got, want in zip(gradients(backbone, states), expected_gradients, strict=True):
            check_relative(got, want)
        with torch.no_grad():  # another code path: keys and values of the prefix are cached
            check_relative(backbone.encode(kept, token_budget=token_budget), expected)
    with backbone.lm.disable_adapter(), torch.no_grad():
        reference = plain(backbone, read)
    check_relative(backbone.encode(batch, reference=True, token_budget=token_budget), reference)


def tokens_through(module):
    """Record the number of tokens in each call of a module from now on."""
    counts = []
    module.register_forward_pre_hook(lambda module, inputs: counts.append(inputs[0].shape[-2]))
    return counts


@pytest.mark.parametrize("read", [LAST, ENTITIES], ids=["last tokens", "entity keys"])
def test_the_last_layer_computes_queries_and_mlp_only_for_the_tokens_that_are_read(read):
    backbone = make("tiny-llama")
    layer = backbone.lm.get_base_model().layers[-1]
    counted = {name: tokens_through(module) for name, module in layer.named_modules() if name.endswith("_proj")}
    states = backbone.encode(backbone.prompt_batch(PREFIX, SEQUENCES, read))
    tokens = len(PREFIX) + sum(LENGTHS)
    for name, counts in counted.items():
        if name.endswith(("k_proj", "v_proj")):
            assert tokens <= sum(counts) <= 1.1 * tokens + len(states), name  # a little padding
        else:
            assert sum(counts) == len(states), name


def test_a_last_layer_with_wrong_results_is_computed_for_all_tokens(monkeypatch):
    right = encoder.LastLayer._keys_and_values
    monkeypatch.setattr(encoder.LastLayer, "_keys_and_values", lambda *args: [1.01 * x for x in right(*args)])
    backbone = make("tiny-qwen3")
    assert backbone.encoder.packed
    assert not backbone.encoder.settings.read_positions
    check_relative(backbone.encode(backbone.prompt_batch(PREFIX, SEQUENCES)), plain(backbone, LAST))


def test_a_last_layer_without_the_usual_attributes_is_computed_for_all_tokens(monkeypatch):
    def missing(layer, *_):
        raise AttributeError("input_layernorm")

    monkeypatch.setattr(encoder.LastLayer, "__init__", missing)
    backbone = make("tiny-llama")
    assert backbone.encoder.packed
    assert not backbone.encoder.settings.read_positions


def test_frozen_layers_run_once_per_prompt_until_the_states_are_deleted():
    backbone = make("tiny-llama", lora_layers=1)
    through = tokens_through(backbone.lm.get_base_model().layers[0])
    half, batch = backbone.prompt_batch(PREFIX, SEQUENCES[::2]), backbone.prompt_batch(PREFIX, SEQUENCES)
    backbone.precompute_frozen_layers(half, 1e9)
    first = sum(through)
    kept = backbone.precompute_frozen_layers(batch, 1e9)
    both = sum(through)
    assert first < both < 1.1 * (len(PREFIX) + sum(LENGTHS))
    for reference in (False, True):
        backbone.encode(kept, reference)
    backbone.encode(backbone.precompute_frozen_layers(batch, 1e9))
    assert sum(through) == both
    backbone.encoder.drop_frozen_states()
    backbone.precompute_frozen_layers(half, 1e9)
    assert sum(through) == both + first - len(PREFIX)


def test_stored_states_never_take_more_than_keep_bytes():
    backbone = make("tiny-llama", lora_layers=1)
    batch = backbone.prompt_batch(PREFIX, SEQUENCES)
    limit = sum(LENGTHS) // 2 * backbone.hidden_size * 4
    sizes = []
    for sequences in (SEQUENCES[:3], SEQUENCES, SEQUENCES):  # stored states stay
        kept = backbone.precompute_frozen_layers(backbone.prompt_batch(PREFIX, sequences), limit, token_budget=60)
        sizes.append(sum(states.nbytes for states in kept.frozen_states if states is not None))
    assert 0 < sizes[0] <= sizes[1] == sizes[2] <= limit
    check_relative(backbone.encode(kept), backbone.encode(batch))
