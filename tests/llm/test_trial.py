"""Tests of the trial of a model: it runs packed, or padded with a reason, with transformers' numbers, or is refused."""

from types import SimpleNamespace

import pytest
import torch
import transformers

from lolm_plugin.errors import ConfigError
from lolm_plugin.llm import packing, tiny, trial
from lolm_plugin.llm.encoder import EncoderSettings
from lolm_plugin.llm.model import Backbone
from lolm_plugin.llm.sources import resolve
from tests.llm.settings import LLM, LORA, encode, with_random_adapter

SPECIALS = {"vocab_size": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 2048,
    "initializer_range": 0.125,
    **SPECIALS,
}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.125, **SPECIALS}
OPT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 128, "init_std": 0.1, **SPECIALS}
MIXERS = {"hidden_size": 64, "num_hidden_layers": 2, "initializer_range": 0.1, **SPECIALS}
LONGROPE = {
    "max_position_embeddings": 2048,
    "original_max_position_embeddings": 64,
    "rope_parameters": {
        "rope_type": "longrope",
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "rope_theta": 10000.0,
    },
}
PACKED, LAST_LAYER_EVERYWHERE, PADDED = "packed", "last layer everywhere", "padded"
# Configuration class, its settings, adapted layers, how it runs, and what the warning says.
FAMILIES = {
    "Mistral, a window shorter than the prompt": (
        "MistralConfig",
        {**SIZES, "sliding_window": 16},
        1,
        PACKED,
        None,
    ),
    "attention dropout": ("LlamaConfig", {**SIZES, "attention_dropout": 0.3}, 1, PACKED, None),
    "Cohere, tied and scaled": ("CohereConfig", {**SIZES, "use_qk_norm": True}, 1, PACKED, None),
    "Granite, scaled": ("GraniteConfig", {**SIZES, "attention_multiplier": 0.3}, None, PACKED, None),
    "Granite, embeddings scaled twice": (
        "GraniteConfig",
        {**SIZES, "embedding_multiplier": 2.0},
        1,
        PADDED,
        "states with gradient differ",
    ),
    "Phi-3, joined projections": ("Phi3Config", SIZES, 1, LAST_LAYER_EVERYWHERE, "no attribute 'q_proj'"),
    "Hunyuan, norm after rotation": (
        "HunYuanDenseV1Config",
        {**SIZES, "head_dim": 16},
        None,
        LAST_LAYER_EVERYWHERE,
        "states with gradient differ",
    ),
    "Gemma 2, capped": (
        "Gemma2Config",
        {**SIZES, "head_dim": 16, "sliding_window": 32},
        None,
        PADDED,
        "its attention takes softcap=50.0",
    ),
    "gpt-oss, sinks": (
        "GptOssConfig",
        {**SIZES, "head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1},
        None,
        PADDED,
        "its attention takes s_aux=a tensor",
    ),
    "DiffLlama, attention twice a layer": ("DiffLlamaConfig", SIZES, None, PADDED, "with a cached prefix differ"),
    "Falcon, alibi": (
        "FalconConfig",
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True, **SPECIALS},
        1,
        PADDED,
        "no layers in the usual place",
    ),
    "GPT-2": ("GPT2Config", GPT2, None, PADDED, "no layers in the usual place"),
    "OPT-350m, narrow states": (
        "OPTConfig",
        {**OPT, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
        None,
        PADDED,
        "no layers in the usual place",
    ),
}
PREFIX = [3 + i % 400 for i in range(1, 200, 9)]
SEQUENCES = [[3 + (7 * row + 11 * i) % 450 for i in range(n)] for row, n in enumerate((140, 3, 17, 40))]


@pytest.fixture(autouse=True)
def _nothing_proved(monkeypatch):
    """Forget the successful trials of other tests, which ran on correct code."""
    monkeypatch.setattr(trial, "PASSED_TRIALS", set())


@pytest.fixture
def saved(tmp_path):
    """Save models with random weights, given a configuration class; return the folder."""

    def save(kind, **settings):
        torch.manual_seed(0)
        transformers.AutoModel.from_config(getattr(transformers, kind)(**settings)).save_pretrained(tmp_path)
        tiny.tokenizer().save_pretrained(tmp_path)
        return str(tmp_path)

    return save


def make(model, layers=None, lora=None, **llm):
    return with_random_adapter(
        Backbone({**LLM, "model": str(model), **llm}, {**LORA, "layers": layers, **(lora or {})}, seed=0)
    )


def gradients(backbone, states):
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((states * weights).sum(), backbone.lora_parameters())


def check_equal(got, want):
    assert want.norm() > 0
    assert (got - want).norm() <= 1e-5 * want.norm()


def check_against_plain_transformers(backbone):
    """Compare with plain transformers: eager attention, one whole prompt at a time."""
    states = encode(backbone, PREFIX, SEQUENCES)
    got = gradients(backbone, states)
    with torch.no_grad():
        played = encode(backbone, PREFIX, SEQUENCES)
    backbone.lm.get_base_model().set_attn_implementation("eager")
    prompts = [torch.tensor([[*PREFIX, *sequence]]) for sequence in SEQUENCES]
    plain = torch.cat([backbone.lm(input_ids=ids, use_cache=False).last_hidden_state[:, -1] for ids in prompts])
    check_equal(states, plain)
    check_equal(played, plain)
    for one, other in zip(got, gradients(backbone, plain), strict=True):
        check_equal(one, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_runs_with_the_numbers_of_plain_transformers(saved, family, caplog):
    kind, settings, layers, form, reason = FAMILIES[family]
    backbone = make(saved(kind, **settings), layers)
    found = (
        PADDED
        if not backbone.encoder.packed
        else PACKED
        if backbone.encoder.settings.read_positions
        else LAST_LAYER_EVERYWHERE
    )
    assert found == form
    assert [record.name for record in caplog.records if record.name == "lolm"] == ["lolm"] * bool(reason)
    assert (reason or "") in caplog.text
    check_against_plain_transformers(backbone)


def test_hidden_size_is_the_measured_width_of_the_states(saved):
    backbone = make(saved("OPTConfig", **OPT, word_embed_proj_dim=32, do_layer_norm_before=False))
    assert backbone.hidden_size == 32
    assert encode(backbone, PREFIX, SEQUENCES).shape == (4, 32)
    assert encode(backbone, PREFIX, []).shape == (0, 32)


def test_longrope_refuses_a_prompt_that_would_change_the_others(saved):
    backbone = make(saved("Phi3Config", **{**SIZES, **LONGROPE}))
    assert backbone.encoder.packed
    assert backbone.context_length == 64
    with pytest.raises(ConfigError, match=r"163 tokens does not fit the 64 tokens"):
        encode(backbone, PREFIX, SEQUENCES)


def test_a_model_whose_states_depend_on_the_batch_is_refused(saved, monkeypatch):
    settings = {**SIZES, **LONGROPE, "original_max_position_embeddings": 20}
    monkeypatch.setattr("lolm_plugin.llm.model.context_length", lambda *_: 2048)
    monkeypatch.setattr(trial, "obstacle", lambda model: "it is a test")
    with pytest.raises(ConfigError, match="if its batch contains a longer one"):
        make(saved("Phi3Config", **settings))


def test_the_advice_for_an_adapter_that_peft_refuses_works(saved, caplog):
    folder = saved("MambaConfig", **MIXERS, state_size=8)
    with pytest.raises(
        ConfigError, match=r"lora\.targets=all-linear .*out_proj.* set lora\.targets to .*\[in_proj, x_"
    ):
        make(folder)
    check_against_plain_transformers(make(folder, lora={"targets": ["in_proj", "x_proj"]}))
    assert "no effect" not in caplog.text


def test_an_adapter_without_effect_gives_a_warning(saved, caplog):
    make(saved("MambaConfig", **MIXERS, state_size=8), lora={"targets": ["in_proj", "dt_proj"]})
    assert "adapters of dt_proj have no effect" in caplog.text
    assert "lora.targets" in caplog.text


def test_an_adapter_without_any_layer_is_refused(saved):
    folder = saved("xLSTMConfig", hidden_size=64, num_heads=4, num_blocks=2, **SPECIALS)
    with pytest.raises(ConfigError, match=r"lora\.layers=1 leaves no linear layer"):
        make(folder, layers=1)


# Mistakes that the trial must find: short prompts, or values without gradients, do not show them.


def _detached_prefix(monkeypatch):
    proceed = packing._continue
    monkeypatch.setattr(packing, "_continue", lambda prefix, prompts: proceed(prefix.detach(), prompts))


def _long_prompts(monkeypatch):
    mask = packing._mask

    def forgets(before, *others):
        seen = mask(before, *others)
        return seen & (torch.arange(seen.shape[1]) >= 3) if before >= 128 else seen

    monkeypatch.setattr(packing, "_mask", forgets)


def _known_prefix(monkeypatch):
    attend = packing.Packing.attend

    def shifted(self, layer, *others):
        if self.past is not None:
            self.past = {layer: (keys.flip(2), values) for layer, (keys, values) in self.past.items()}
        return attend(self, layer, *others)

    monkeypatch.setattr(packing.Packing, "attend", shifted)


@pytest.mark.parametrize(
    ("spoil", "layers", "reason"),
    [
        (_detached_prefix, None, "gradients differ"),
        (_long_prompts, None, "states with gradient differ"),
        (_known_prefix, 1, "differ"),
    ],
)
def test_the_trial_finds_mistakes_that_six_tokens_do_not_show(monkeypatch, caplog, spoil, layers, reason):
    spoil(monkeypatch)
    backbone = make("tiny-llama", layers, read_positions=False)
    assert not backbone.encoder.packed
    assert "llm.model=tiny-llama runs padded" in caplog.text
    assert reason in caplog.text


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias", "indices"])
def test_unsupported_arguments_of_packed_attention_are_refused(name):
    query = torch.zeros(1, 1, 3, 4)
    module = SimpleNamespace(layer_idx=0)
    packed = packing.Packing(0, [[3]])
    known = {"dropout": 0.0, "position_ids": torch.arange(3), "use_cache": False, name: None}
    packing.packed_attention(module, query, query, query, None, packing=packed, **known)
    with pytest.raises(packing.UnsupportedAttentionError, match=f"{name}=2"):
        packing.packed_attention(module, query, query, query, None, packing=packed, **{**known, name: 2})


def test_packed_attention_refuses_dropout():
    query = torch.zeros(1, 1, 3, 4)
    with pytest.raises(packing.UnsupportedAttentionError, match=r"dropout=0\.1"):
        packing.packed_attention(None, query, query, query, None, packing=packing.Packing(0, [[3]]), dropout=0.1)


# Errors that say nothing against packing.

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_in_the_long_trial_leaves_the_model_packed(monkeypatch, caplog, error):
    monkeypatch.setattr(trial, "_compare", lambda *_: (_ for _ in ()).throw(error))
    assert make("tiny-llama").encoder.packed
    assert "memory is too small to try llm.model=tiny-llama" in caplog.text


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_in_the_short_trial_is_an_error_that_names_keys(monkeypatch, error):
    monkeypatch.setattr(trial, "_try_whole_model", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(ConfigError, match=r"memory is too small for llm\.model=tiny-llama .*llm\.num_layers"):
        make("tiny-llama")


def test_any_other_error_is_logged_in_one_line(monkeypatch, caplog):
    monkeypatch.setattr(trial, "_try_whole_model", lambda *_: (_ for _ in ()).throw(RuntimeError("a b\nc d")))
    assert not make("tiny-llama").encoder.packed
    (record,) = caplog.records
    assert record.getMessage().endswith("several times slower: RuntimeError: a b.")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_tried_in_float32_for_any_dtype(dtype, caplog):
    assert make("tiny-gemma3", 1, dtype=dtype).encoder.settings.read_positions
    assert not caplog.records


def test_a_quantized_model_is_tried_with_layers_of_the_same_code():
    model = resolve("tiny-gemma3").load_model(None, torch.float32, True, 0)
    model.is_quantized = True
    few, split = trial._few_layers(model, 1)
    assert split == 1
    assert not {parameter.data_ptr() for parameter in few.layers.parameters()} & {
        p.data_ptr() for p in model.parameters()
    }
    trial._compare(trial.TriedModel(few, "tiny-gemma3", 2048), EncoderSettings(1, False, True, True))


def test_the_trial_changes_neither_the_model_nor_the_global_random_state():
    plain = resolve("tiny-gemma3").load_model(None, torch.float32, True, 0).state_dict()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    backbone = make("tiny-gemma3", lora={"targets": ["q_proj"]})
    assert torch.equal(torch.rand(3), expected)
    for name, values in backbone.lm.get_base_model().state_dict().items():
        if "lora_" not in name:
            assert torch.equal(values, plain[name.replace("base_layer.", "")])
    assert backbone.lm.get_base_model().config.sliding_window == 32


def test_a_configuration_is_tried_once_per_process(monkeypatch):
    tried = []
    compare = trial._compare
    monkeypatch.setattr(trial, "_compare", lambda *args: (tried.append(args), compare(*args)))
    make("tiny-llama"), make("tiny-llama"), make("tiny-llama", layers=1)
    assert len(tried) == 2


def test_a_model_that_computes_nan_is_refused(monkeypatch):
    model = resolve("tiny-llama").load_model(None, torch.float32, True, 0)
    model.norm.weight.fill_(torch.inf)
    with pytest.raises(ConfigError, match="NaN or infinite states"):
        trial.check_runs(trial.TriedModel(model, "tiny-llama", 2048))


def test_a_model_that_transformers_cannot_run_is_refused():
    model = resolve("tiny-llama").load_model(None, torch.float32, True, 0)
    model.layers[0].self_attn.head_dim = 8
    with pytest.raises(ConfigError, match="cannot be run by transformers"):
        trial.check_runs(trial.TriedModel(model, "tiny-llama", 2048))
