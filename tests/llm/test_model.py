"""Tests of the backbone: its states and gradients are those of plain Hugging Face models, one prompt at a time."""

import hashlib
import warnings

import pytest
import torch
import transformers
from peft import PeftModel

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm import tiny
from lolm_plugin.llm.model import Backbone
from lolm_plugin.llm.sources import TINY, resolve
from tests.llm.settings import LLM, LORA, encode, with_random_adapter

# The longest sequence exceeds the window of 32 of tiny-gemma3's first layer, with the prefix and without it.
PREFIX = [3 + i % 400 for i in range(1, 200, 9)]
SEQUENCES = [[3 + (7 * row + 11 * i) % 450 for i in range(n)] for row, n in enumerate((40, 3, 17, 1, 40, 29))]


def make(model="tiny-llama", seed=0, lora=None, **llm):
    return Backbone({**LLM, "model": str(model), **llm}, {**LORA, **(lora or {})}, seed)


@pytest.fixture(params=[*TINY, "gemma3 without window"])
def model(request, tmp_path):
    """Return a model of each architecture, and one more from a folder."""
    if request.param in TINY:
        return request.param
    config = tiny.config("tiny-gemma3", layer_types=["full_attention"] * 2)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    return tmp_path


def one_at_a_time(backbone, prefix, sequences):
    """Compute last states with plain Hugging Face: one whole prompt at a time, unpadded, with an attention mask."""
    stacked = []
    for sequence in sequences:
        ids = torch.tensor([[*prefix, *sequence]])
        states = backbone.lm(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        stacked.append(states[0, -1])
    return torch.stack(stacked)


def gradients(backbone, states):
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((states * weights).sum(), backbone.lora_parameters())


@pytest.mark.parametrize("share", [True, False])
def test_states_and_gradients_are_those_of_whole_prompts_one_at_a_time(model, share):
    backbone = with_random_adapter(make(model, share_prefix=share))
    expected = one_at_a_time(backbone, PREFIX, SEQUENCES)
    states = encode(backbone, PREFIX, SEQUENCES)
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(encode(backbone, PREFIX, SEQUENCES), expected, atol=1e-5, rtol=0)
    for got, want in zip(gradients(backbone, states), gradients(backbone, expected), strict=True):
        assert (got - want).norm() <= 1e-4 * want.norm()
        assert want.norm() > 0


def test_a_prefix_is_shared_by_default(model):
    assert make(model).encoder.settings.share_prefix
    assert not make(model, share_prefix=False).encoder.settings.share_prefix


def embedded(backbone):
    """Record the number of tokens in each call of the embedding from now on."""
    counts = []
    embedding = backbone.lm.get_base_model().embed_tokens
    embedding.register_forward_hook(lambda module, inputs, out: counts.append(inputs[0].numel()))
    return counts


def test_no_token_is_computed_twice():
    backbone = make()
    counts = embedded(backbone)
    encode(backbone, PREFIX, SEQUENCES)
    assert sorted(counts) == sorted([len(PREFIX), sum(map(len, SEQUENCES))])


def test_without_gradient_the_prefix_is_computed_again_only_after_a_change_of_weights():
    backbone = with_random_adapter(make())
    counts = embedded(backbone)
    with torch.no_grad():
        for _ in range(3):
            encode(backbone, PREFIX, SEQUENCES)
        assert counts.count(len(PREFIX)) == 1
        before = encode(backbone, PREFIX, SEQUENCES)
        with_random_adapter(backbone, seed=1)
        after = encode(backbone, PREFIX, SEQUENCES)
    assert counts.count(len(PREFIX)) == 2
    assert (after - before).abs().max() > 1e-2
    torch.testing.assert_close(after, one_at_a_time(backbone, PREFIX, SEQUENCES), atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("keep_bytes", [0, 30_000, 10**9])
def test_stored_states_of_frozen_layers_change_no_result(model, share, keep_bytes):
    backbone = with_random_adapter(make(model, share_prefix=share, lora={"layers": 1}))
    assert backbone.encoder.settings.frozen_layers == 1
    batch = backbone.prompt_batch(PREFIX, SEQUENCES)
    kept = backbone.precompute_frozen_layers(batch, keep_bytes, token_budget=64)
    found = [states for states in kept.frozen_states if states is not None]
    assert (len(found) > 0, len(found) == len(SEQUENCES)) == (keep_bytes > 0, keep_bytes == 10**9)
    assert sum(states.nbytes for states in found) == backbone.encoder.stored_bytes <= keep_bytes
    expected = one_at_a_time(backbone, PREFIX, SEQUENCES)
    states = backbone.encode(kept)
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)
    for got, want in zip(gradients(backbone, states), gradients(backbone, expected), strict=True):
        assert (got - want).norm() <= 1e-4 * want.norm()
    plain = encode(backbone, PREFIX, SEQUENCES, reference=True)
    torch.testing.assert_close(backbone.encode(kept, reference=True), plain, atol=1e-5, rtol=0)
    with torch.no_grad():  # after the reference, which has other keys and values
        torch.testing.assert_close(backbone.encode(kept), expected, atol=1e-5, rtol=0)


# Two prompts are equal, one is the beginning of another, one differs in its last token, one in its first.
ALIKE = [[9, 8, 7, 6], [9, 8, 7, 5], [9, 8], [9, 8, 7, 6], [4, 8, 7, 6], [9, 8, 7, 6, 9, 8, 7]]


def test_a_common_beginning_of_prompts_is_computed_once(model):
    backbone = with_random_adapter(make(model, lora={"layers": 1}))
    batch = backbone.prompt_batch(PREFIX, ALIKE)
    counts = embedded(backbone)
    kept = backbone.precompute_frozen_layers(batch, 10**9)
    assert counts == [len(PREFIX), 12]  # of 25: 9 8 7 6, 5, 9 8 7 and 4 8 7 6
    expected = one_at_a_time(backbone, PREFIX, ALIKE)
    states = backbone.encode(kept)
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)
    for got, want in zip(gradients(backbone, states), gradients(backbone, expected), strict=True):
        assert (got - want).norm() <= 1e-4 * want.norm()
    with torch.no_grad():
        torch.testing.assert_close(backbone.encode(batch), expected, atol=1e-5, rtol=0)


def test_without_sharing_every_prompt_is_computed_separately():
    backbone = with_random_adapter(make(share_prefix=False, lora={"layers": 1}))
    counts = embedded(backbone)
    backbone.precompute_frozen_layers(backbone.prompt_batch(PREFIX, ALIKE), 10**9)
    (tokens,) = counts
    assert tokens >= sum(len(PREFIX) + len(row) for row in ALIKE)  # with padding


def test_stored_frozen_states_are_not_computed_again():
    backbone = with_random_adapter(make(lora={"layers": 1}))
    kept = backbone.precompute_frozen_layers(backbone.prompt_batch(PREFIX, SEQUENCES), 10**9)
    counts = embedded(backbone)
    for reference in (False, True):
        backbone.encode(kept, reference)
    assert counts == []


@pytest.mark.parametrize("layers", [0, 3, 1.5, True])
def test_an_invalid_number_of_adapted_layers_is_refused(layers):
    with pytest.raises(ConfigError, match=r"lora\.layers=.* 2 layers .* 1 \.\.\. 2"):
        make(lora={"layers": layers})


def test_an_adapter_on_the_top_layers_only(model):
    named = {**LORA, "layers": 1, "targets": ["q_proj", "down_proj"]}
    names = {name.split("layers.")[1].split(".lora")[0] for name in make(model, lora=named).adapter_state()}
    assert names == {"1.self_attn.q_proj", "1.mlp.down_proj"}


@pytest.mark.parametrize("layers", [None, 1])
@pytest.mark.parametrize("budget", [64, 100, 10**6])
def test_the_token_budget_changes_no_result(model, budget, layers):
    backbone = with_random_adapter(make(model, lora={"layers": layers}))
    batch = backbone.prompt_batch(PREFIX, SEQUENCES)
    expected = one_at_a_time(backbone, PREFIX, SEQUENCES)
    states = backbone.encode(batch, token_budget=budget)
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)
    for got, want in zip(gradients(backbone, states), gradients(backbone, expected), strict=True):
        assert (got - want).norm() <= 1e-4 * want.norm()


def test_recomputed_activations_change_no_gradient_and_are_not_stored(model):
    def stored_bytes(backbone):
        """Return the bytes of all tensors that the graph of one forward pass stores, and the gradients."""
        held = {}

        def pack(tensor):
            held[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            states = encode(backbone, PREFIX, SEQUENCES)
        return sum(held.values()), gradients(backbone, states)

    plain, recomputed = (with_random_adapter(make(model, recompute=recompute)) for recompute in (False, True))
    (much, expected), (little, got) = stored_bytes(plain), stored_bytes(recomputed)
    assert little < 0.75 * much
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_without_prefix(model):
    backbone = with_random_adapter(make(model))
    expected = one_at_a_time(backbone, [], SEQUENCES)
    torch.testing.assert_close(encode(backbone, [], SEQUENCES), expected, atol=1e-5, rtol=0)


def test_a_truncated_model(model):
    backbone = with_random_adapter(make(model, num_layers=1))
    expected = one_at_a_time(backbone, PREFIX, SEQUENCES)
    torch.testing.assert_close(encode(backbone, PREFIX, SEQUENCES), expected, atol=1e-5, rtol=0)
    assert backbone.num_layers == 1


def test_an_empty_batch():
    assert encode(make(), PREFIX, []).shape == (0, 64)


def test_the_policy_equals_the_reference_exactly_at_the_start(model):
    backbone = make(model)
    with torch.no_grad():
        assert torch.equal(encode(backbone, PREFIX, SEQUENCES), encode(backbone, PREFIX, SEQUENCES, reference=True))


@pytest.mark.parametrize("share", [True, False])
def test_the_reference_is_the_pretrained_model_for_any_adapter(model, share):
    backbone = with_random_adapter(make(model, share_prefix=share))
    plain = resolve(str(model)).load_model(None, torch.float32, True, 0)
    reference = encode(backbone, PREFIX, SEQUENCES, reference=True)
    for row, sequence in enumerate(SEQUENCES):
        states = plain(input_ids=torch.tensor([[*PREFIX, *sequence]])).last_hidden_state
        torch.testing.assert_close(reference[row], states[0, -1], atol=1e-5, rtol=0)
    policy = encode(backbone, PREFIX, SEQUENCES)
    assert (policy - reference).abs().max() > 1e-2
    assert policy.requires_grad
    assert not reference.requires_grad


def test_a_forward_pass_of_the_reference_does_not_change_gradients():
    backbone = with_random_adapter(make())
    expected = gradients(backbone, encode(backbone, PREFIX, SEQUENCES))
    states = encode(backbone, PREFIX, SEQUENCES)
    encode(backbone, PREFIX, SEQUENCES, reference=True)
    (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for parameter, want in zip(backbone.lora_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, want)


def _digests(backbone):
    named = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    return {name: hashlib.sha256(t.detach().numpy().tobytes()).digest() for name, t in named.items()}


def test_a_step_changes_the_adapter_and_nothing_else(model):
    backbone = with_random_adapter(make(model))
    trainable = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    assert [id(p) for p in trainable] == [id(p) for p in backbone.lora_parameters()]
    before = _digests(backbone)
    optimiser = torch.optim.AdamW(backbone.parameters(), lr=1e-2, weight_decay=0.1)
    encode(backbone, PREFIX, SEQUENCES).square().sum().backward()
    optimiser.step()
    changed = {name for name, digest in _digests(backbone).items() if digest != before[name]}
    assert changed == {name for name in before if "lora_" in name}
    assert changed


def test_dropout_is_off_in_training_mode(tmp_path):
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=512, resid_pdrop=0.5)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone = with_random_adapter(make(tmp_path)).train()
    assert torch.equal(encode(backbone, PREFIX, SEQUENCES), encode(backbone, PREFIX, SEQUENCES))
    expected = one_at_a_time(backbone, PREFIX, SEQUENCES)
    torch.testing.assert_close(encode(backbone, PREFIX, SEQUENCES), expected, atol=1e-5, rtol=0)


def test_the_seed_sets_the_adapter_and_leaves_the_global_generator_unchanged():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    states = [make(seed=seed).adapter_state() for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(4), expected)
    name = next(name for name in states[0] if "lora_A" in name)
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0][name], states[2][name])


def test_the_seed_sets_the_weights_of_a_model_that_is_not_pretrained():
    drawn = [encode(make(pretrained=False, seed=seed), [], [[5, 6]]) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_bfloat16_weights_with_a_float32_adapter(model):
    backbone, exact = (
        with_random_adapter(make(model, dtype="bfloat16")),
        with_random_adapter(make(model, dtype="float32")),
    )
    states = encode(backbone, PREFIX, SEQUENCES)
    assert states.dtype == torch.float32
    assert backbone.lm.get_base_model().embed_tokens.weight.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in backbone.lora_parameters()} == {torch.float32}
    expected = encode(exact, PREFIX, SEQUENCES)
    assert (states - expected).norm() < 0.05 * expected.norm()
    assert make(model).lm.get_base_model().embed_tokens.weight.dtype == torch.float32


def test_an_adapter_is_restored_from_its_state():
    source, target = with_random_adapter(make(seed=1)), make(seed=2)
    state = source.adapter_state()
    target.load_adapter_state(state)
    assert torch.equal(encode(source, PREFIX, SEQUENCES), encode(target, PREFIX, SEQUENCES))
    with_random_adapter(source, seed=3)
    assert torch.equal(target.adapter_state()[min(state)], state[min(state)])


@pytest.mark.parametrize(
    ("lora", "llm", "complaint"),
    [
        ({"rank": 8}, {}, r"28 of another shape \(first .*lora_A"),
        ({"targets": ["q_proj"]}, {}, r"24 missing \(first .*mlp\.down_proj"),
        ({}, {"num_layers": 1}, r"14 missing \(first .*layers\.1\."),
    ],
)
def test_an_adapter_of_another_model_is_refused(lora, llm, complaint):
    with pytest.raises(ConfigError, match=complaint) as error:
        make().load_adapter_state(make(lora=lora, **llm).adapter_state())
    assert "lora.targets" in str(error.value)


def test_unexpected_tensors_are_refused():
    with pytest.raises(ConfigError, match=r"14 unexpected \(first .*layers\.1\."):
        make(num_layers=1).load_adapter_state(make().adapter_state())


def test_a_saved_adapter_opens_with_peft_alone(model, tmp_path):
    backbone = with_random_adapter(make(model))
    backbone.save_adapter(tmp_path / "adapter")
    plain = resolve(str(model)).load_model(None, torch.float32, True, 0)
    opened = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    states = opened(input_ids=torch.tensor([[*PREFIX, *SEQUENCES[0]]])).last_hidden_state
    torch.testing.assert_close(states[0, -1], encode(backbone, PREFIX, SEQUENCES)[0], atol=1e-5, rtol=0)
    assert opened.peft_config["default"].base_model_name_or_path == str(model)


def test_targets_select_the_layers():
    names = {name.split("layers.")[1].split(".lora")[0] for name in make().adapter_state()}
    assert len(names) == 14
    names = {name.split("layers.")[1].split(".lora")[0] for name in make(lora={"targets": ["q_proj"]}).adapter_state()}
    assert names == {"0.self_attn.q_proj", "1.self_attn.q_proj"}


@pytest.mark.parametrize("targets", [["q_proj", "q_prj"], ["norm"], [], "embed_tokens"])
def test_targets_that_name_no_linear_layer_are_refused(targets):
    with pytest.raises(ConfigError, match=r"lora\.targets .* down_proj, gate_proj, k_proj, o_proj, q_proj"):
        make(lora={"targets": targets})


@pytest.mark.parametrize("rank", [0, 2.5, "8"])
def test_a_rank_that_is_not_a_positive_integer_is_refused(rank):
    with pytest.raises(ConfigError, match=r"lora\.rank="):
        make(lora={"rank": rank})


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ConfigError, match=r"llm\.dtype=float16"):
        make(dtype="float16")


@pytest.mark.parametrize("share", [True, False])
def test_a_prompt_beyond_the_context_is_refused(share):
    backbone = make(share_prefix=share)
    with pytest.raises(ConfigError, match=r"2049 tokens .* 2048 .*prompt\.style=compact.*llm\.model"):
        encode(backbone, [5] * 1000, [[6], [7] * 1049])


def test_a_model_that_sees_later_tokens_is_refused(tmp_path):
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=512
    )
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="lets tokens see later ones"):
        make(tmp_path)


POSITIONS = [torch.tensor(positions) for positions in ([39, 0, 17], [2], [16, 5], [0], [39], [28, 1, 2, 27])]


def all_states(backbone, prefix, sequences, read_positions):
    """Compute the states at these positions of each sequence with plain Hugging Face, one prompt at a time."""
    stacked = []
    for sequence, wanted in zip(sequences, read_positions, strict=True):
        ids = torch.tensor([[*prefix, *sequence]])
        states = backbone.lm(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        stacked.append(states[0, len(prefix) + wanted])
    return torch.cat(stacked)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("token_budget", [None, 64])
def test_states_at_any_positions_are_those_of_whole_prompts(model, share, token_budget):
    backbone = with_random_adapter(make(model, share_prefix=share))
    expected = all_states(backbone, PREFIX, SEQUENCES, POSITIONS)
    batch = backbone.prompt_batch(PREFIX, SEQUENCES, POSITIONS)
    states = backbone.encode(batch, token_budget=token_budget)
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)
    for got, want in zip(gradients(backbone, states), gradients(backbone, expected), strict=True):
        assert (got - want).norm() <= 1e-4 * want.norm()
    with torch.no_grad():
        torch.testing.assert_close(backbone.encode(batch, token_budget=token_budget), expected, atol=1e-5, rtol=0)
    some = batch.take([5, 0])
    torch.testing.assert_close(backbone.encode(some), torch.cat([expected[-4:], expected[:3]]), atol=1e-5, rtol=0)


def test_states_at_any_positions_with_frozen_layers_and_of_the_reference():
    backbone = with_random_adapter(make(lora={"layers": 1}))
    batch = backbone.precompute_frozen_layers(backbone.prompt_batch(PREFIX, SEQUENCES, POSITIONS), 30_000)
    expected = all_states(backbone, PREFIX, SEQUENCES, POSITIONS)
    torch.testing.assert_close(backbone.encode(batch), expected, atol=1e-5, rtol=0)
    with backbone.lm.disable_adapter():
        plain = all_states(backbone, PREFIX, SEQUENCES, POSITIONS)
    torch.testing.assert_close(backbone.encode(batch, reference=True), plain, atol=1e-5, rtol=0)


def test_states_at_any_positions_of_a_model_that_cannot_be_packed(monkeypatch):
    monkeypatch.setattr("lolm_plugin.llm.trial.obstacle", lambda model: "it is a test")
    backbone = with_random_adapter(make())
    assert not backbone.encoder.packed
    states = backbone.encode(backbone.prompt_batch(PREFIX, SEQUENCES, POSITIONS), token_budget=64)
    torch.testing.assert_close(states, all_states(backbone, PREFIX, SEQUENCES, POSITIONS), atol=1e-5, rtol=0)
