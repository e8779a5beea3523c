"""What ``lolm doctor`` estimates of a run, against numbers worked out by hand and against what autograd keeps."""

import pytest
import torch

from lolm_plugin import registry, tuning
from lolm_plugin.doctor import (
    episode_limits,
    estimate,
    language_model,
    machine,
    memory,
    networks,
    run_memory,
    run_time,
    words,
)
from lolm_plugin.doctor.language_model import LanguageModel, PromptLengths, Reading
from lolm_plugin.doctor.plan import Plan
from lolm_plugin.envs import smax_scenarios
from lolm_plugin.host.bundled.episode_batch import EpisodeBatch
from lolm_plugin.host.bundled.transforms import OneHot
from lolm_plugin.llm import products
from lolm_plugin.llm.backbone import Backbone
from lolm_plugin.observations import build_layouts, sc2
from tests.llm.settings import LLM, LORA

GIB = 2**30
NARROW = memory.Layer(hidden=10, queries=6, keys=4, inner=20)


# The size of a run


def test_a_battle_is_taken_to_last_half_its_limit():
    assert [estimate.typical_length(limit) for limit in (1, 7, 60)] == [1, 4, 30]


def test_agents_are_taken_to_fall_one_by_one():
    for n_agents in (1, 3, 8):
        left = [n_agents - fallen for fallen in range(n_agents)]
        assert estimate.decisions_a_step(n_agents) == sum(left) / len(left)


@pytest.mark.parametrize(("t_max", "battles", "length"), [(10000, 256, 1), (20000, 8, 30), (240, 8, 30), (0, 8, 30)])
def test_updates_and_tests_are_counted_as_the_host_goes_on(t_max, battles, length):
    interval, t, updates, tested, last_test = 2500, 0, 0, 1, 0
    while t <= t_max:
        t += battles * length
        updates += 1
        if t - last_test >= interval:
            tested, last_test = tested + 1, t
    tested += last_test != t  # at the end
    assert estimate.updates(t_max, battles, length) == updates
    assert estimate.times_tested(updates, interval, battles * length) == tested


def test_the_limit_of_every_map_of_smac_is_known_and_smax_has_the_same():
    assert smax_scenarios.SMAC_LIMITS.keys() == sc2.MAPS.keys()
    for name in set(smax_scenarios.KNOWN_MAPS) & set(smax_scenarios.SMAC_LIMITS):
        assert smax_scenarios.scenario(name).episode_limit == smax_scenarios.SMAC_LIMITS[name], name


@pytest.mark.parametrize(
    ("env", "env_args", "limit"),
    [
        ("probe", {"map_name": "duel"}, 8),
        ("smax", {"map_name": "3m", "time_limit": None}, 60),
        ("smax", {"map_name": "3m", "time_limit": 7}, 7),
        ("sc2", {"map_name": "corridor"}, 400),
        ("sc2v2", {"map_name": "terran_5_vs_5", "time_limit": 150}, 200),
        ("smaclite", {"map_name": "MMM2", "time_limit": 150}, 150),
        ("mine", {"map_name": "mine"}, None),
    ],
)
def test_how_long_a_battle_may_last(env, env_args, limit):
    assert episode_limits.episode_limit(env, env_args) == limit


# Work


def test_the_operations_of_a_token():
    # 2 * 1000 for the linear layers; in each of 2 layers 16 queries against 10 tokens, twice, each 2 operations.
    assert estimate.token_operations(1000, layers=2, queries=16, context=10) == 2000 + 2 * 16 * 10 * 2 * 2


@pytest.mark.parametrize(
    ("changes", "forwards"),
    [
        ({}, 1 + 2 * 4),  # docs/performance.md
        ({"adapted": 0.25}, 1 + 2 * 4 * 0.25),  # the same with lora.layers
        ({"reference": 0.0}, 8),
        ({"reference": 0.5}, 8.5),
        ({"minibatches": 4}, 10),
        ({"every_weight": True, "reference": 0.0}, 12),
        ({"recompute": True}, 13),
        # Below, 1 pass of the reference and 4 of the epochs in place of one; above, 1 + 8.
        ({"adapted": 0.5, "forgotten": 1.0}, 0.5 * 5 + 0.5 * 9),
        ({"adapted": 0.5, "forgotten": 0.5}, 0.5 * 3 + 0.5 * 9),
        ({"adapted": 0.5, "kept_from_play": True}, 0.5 * 0 + 0.5 * 9),
        ({"adapted": 0.5, "kept_from_play": True, "forgotten": 0.5}, 0.5 * 2.5 + 0.5 * 9),
    ],
)
def test_what_an_update_costs_in_forward_passes(changes, forwards):
    assert estimate.Learning(**{"epochs": 4, **changes}).forwards() == forwards


def small_reading(**changes):
    model = LanguageModel(1000, 800, 100, 10, 5, 2, 2, memory.Layer(8, 8, 4, 16), torch.float32)
    return Reading(
        **{
            **{"model": model, "lengths": PromptLengths(4, 10.0, 20), "decision": 10.0},
            **{"batch": 200.0, "budget": 64, "at_once": 64},
            **changes,
        }
    )


def small_run():
    return Plan(None, 4, True, length=2, decisions=1.0, battles=5, updates=3, tests=1, test_battles=2)


@pytest.mark.parametrize(("narrow", "rate"), [(8, 1000 * 0.6), (9, 1000)])  # the model is 8 wide
def test_the_time_of_a_run(narrow, rate, monkeypatch, tiny_args):
    monkeypatch.setattr(machine, "product_rate", lambda *shape: 1000.0)
    monkeypatch.setattr(estimate, "NARROW", narrow)
    config = vars(tiny_args({"kl.enabled": False, "epochs": 1, "t_max": 10}))
    found = run_time.seconds(config, small_run(), small_reading(), "cpu")
    of_token = 2 * (800 - 100) + 4 * 1 * 8 * (4 + 5)  # in the last layer one token attends
    # 3 updates of 5 battles of 2 steps, and a test of 2 such battles; a decision a step, 10 tokens each.
    assert found.play == pytest.approx((30 + 4) * 10 * of_token / rate)
    assert found.learn == pytest.approx(30 * 10 * of_token * 2 / rate)
    assert found.least == (narrow == 9)


def test_what_learning_asks_follows_the_configuration(tiny_args):
    changes = {"kl.enabled": True, "kl.anneal_steps": 30, "t_max": 120, "epochs": 3, "minibatches": 2}
    # The cache has room for 25 of the 100 tokens of a batch: 8 numbers of 4 bytes each.
    changes |= {"llm.trunk_cache_gb": 25 * 8 * 4 / GIB, "llm.recompute": True}
    learning = run_time.learning(vars(tiny_args(changes)), small_run(), small_reading())
    assert learning == estimate.Learning(3, 2, 1.0, 0.25, False, True, 0.75, kept_from_play=True)


# Memory


@pytest.mark.parametrize(
    ("changes", "size", "attention", "feed_forward"),
    [
        # Two norms and the linear layers read 10, 10 and 6, 10, 10 and 20; queries and their result 6, keys, values 4.
        ({}, 4, 4 * (10 + 10 + 6 + 2 * 6 + 2 * 4), 4 * (10 + 10 + 20 + 3 * 20)),
        ({"normed_heads": True}, 4, 4 * (46 + 6 + 4), 4 * 100),
        # In two bytes, but norms read in four.
        ({}, 2, 4 * 10 + 2 * (10 + 6 + 2 * 6 + 2 * 4), 4 * 10 + 2 * (10 + 20 + 3 * 20)),
        # So do adapters, each for itself.
        ({"adapted": (36, 40)}, 2, 4 * 10 + 4 * 36 + 2 * (2 * 6 + 2 * 4), 4 * 10 + 4 * 40 + 2 * 3 * 20),
        ({"adapted": (36, 40)}, 4, 4 * 46, 4 * 100),
    ],
)
def test_what_a_layer_keeps(changes, size, attention, feed_forward):
    layer = memory.Layer(**{**vars(NARROW), **changes})
    assert memory.attention_bytes(layer, size) == attention
    assert memory.feed_forward_bytes(layer, size) == feed_forward


@pytest.mark.parametrize(
    ("learning", "recompute", "short_last", "layers"),
    [
        (3, False, False, 2 * (184 + 400) + (184 + 400)),
        # Keys and values alone: what norm and linear layers read, and both twice: 4 * (10 + 10 + 4 * 4).
        (3, False, True, 2 * (184 + 400) + 144),
        (1, False, True, 144),
        (3, True, True, 2 * 4 * 10 + (184 + 400)),
        (1, True, True, 144),
    ],
)
def test_what_a_pass_keeps(learning, recompute, short_last, layers):
    # And gradients, as large as what attention keeps, or as keys and values where no other layer learns.
    gradients = 144 if short_last and learning == 1 else 184
    assert memory.activation_bytes(NARROW, learning, 100, 4, recompute, short_last) == 100 * (layers + gradients)


def test_weights_and_states():
    assert memory.trained_bytes(100) == 1600
    assert memory.frozen_bytes(100, 10, 2) == 220
    assert memory.frozen_bytes(100, 10, 2, "8bit") == 120
    assert memory.frozen_bytes(100, 10, 2, "4bit") == pytest.approx(73)
    assert memory.trunk_bytes(576, 1000, 4, limit_gb=4.0) == 576 * 1000 * 4
    assert memory.trunk_bytes(576, 1e9, 4, limit_gb=4.0) == 4 * GIB


@pytest.mark.parametrize("rewards", [1, 3])
def test_stored_battles_are_as_large_as_the_hosts(rewards):
    scheme = {
        "state": {"vshape": 11},
        "obs": {"vshape": 7, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (9,), "group": "agents", "dtype": torch.int},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
        "reward": {"vshape": (rewards,)},
    }
    batch = EpisodeBatch(scheme, {"agents": 3}, 5, 13, preprocess={"actions": ("actions_onehot", [OneHot(9)])})
    stored = sum(tensor.nbytes for tensor in batch.data.transition_data.values())
    assert memory.battles_bytes(5, 13, 3, 9, 7, 11, rewards) == stored


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layers", [None, 1])
@pytest.mark.parametrize("model", ["tiny-llama", "tiny-qwen3"])
def test_the_formula_of_a_layer_is_what_autograd_keeps(model, layers, dtype, tiny_args):
    llm, lora = {**LLM, "model": model, "dtype": dtype, "num_layers": 2}, {**LORA, "layers": layers}
    backbone = Backbone(llm, lora, seed=0)
    counted = language_model.measure({**vars(tiny_args()), "llm": llm, "lora": lora}, "cpu")
    rows = backbone.rows([], [[5] * 60] * 50)
    kept = networks.kept_bytes(backbone, lambda: backbone.read(rows))
    layer, size = counted.layer, counted.dtype.itemsize
    attention, feed_forward = memory.attention_bytes(layer, size), memory.feed_forward_bytes(layer, size)
    # The last layer has keys and values of all tokens alone, and the first norm that learns has no gradient.
    expected = (counted.adapted - 1) * (attention + feed_forward) + memory.keys_and_values_bytes(layer, size)
    expected -= 4 * layer.hidden
    expected += 2 * 16 * size  # the rotation of a head of 16 numbers, once for all layers
    expected += 4 * 4  # float32 scores of 4 heads, one query a row
    if size < 4:
        expected += 2 * 4 * 4  # of keys and values the 4 numbers between the adapter's two products
    assert kept / (60 * 50) == pytest.approx(expected, rel=0.1)


def test_what_a_small_network_keeps_grows_with_what_it_reads_at_once(tiny_args):
    args = tiny_args(algorithm="updet_mappo")
    layouts = build_layouts(args.env, args.env_args, args.n_agents, args.n_actions, args.layout)
    policy, critic = networks.build_policy(layouts, vars(args)), networks.build_critic(layouts, vars(args))
    kept = networks.policy_bytes(policy, layouts.observation)
    # Two or three units a row pass through a linear layer of 192 numbers, attention and a feed-forward layer.
    assert 3 * 192 * 4 < kept < 100 * 192 * 4
    assert networks.critic_bytes(critic, layouts) > 0


@pytest.mark.parametrize("algorithm", ["rnn_mappo", "dt2gs_mappo", "updet_paper"])
def test_what_networks_with_memory_keep(algorithm, tiny_args):
    args = tiny_args(algorithm=algorithm)
    layouts = build_layouts(args.env, args.env_args, args.n_agents, args.n_actions, args.layout)
    policy = networks.build_policy(layouts, vars(args))
    assert policy.hidden_width
    assert networks.policy_bytes(policy, layouts.observation) > 4 * policy.hidden_width


def test_memory_that_is_kept_is_counted_once_and_without_parameters():
    layer, x = torch.nn.Linear(3, 3), torch.ones(5, 3)
    with_copy = networks.kept_bytes(layer, lambda: (layer(x), layer(x[:2])))  # the second reads a part of the first's
    assert with_copy == x.nbytes


def test_the_parts_of_memory_are_those_of_the_device(tiny_args):
    config = vars(tiny_args({"llm.product": "onednn", "lora.layers": 1, "llm.token_budget": 500}))
    layouts = build_layouts(config["env"], config["env_args"], 2, config["n_actions"], config["layout"])
    run = Plan(layouts, 60, True, 30, 1.5, battles=8, updates=1, tests=1, test_battles=8)
    critic = networks.build_critic(layouts, config)

    def parts(device):
        reading = language_model.reading(config, run, device)
        shares = run_memory.of_language_model(config, run, reading, critic, device)
        return reading, {share.what: share.size for share in shares}

    reading, on_cpu = parts("cpu")
    layer, trained = reading.model.layer, reading.model.trained + networks.count(critic)
    assert on_cpu["frozen weights"] == 4 * reading.model.parameters
    assert on_cpu["LoRA, head and critic"] == 16 * trained
    assert on_cpu["activations"] >= memory.activation_bytes(layer, 1, reading.at_once, 4, False, True)
    assert on_cpu["what was freed"] == on_cpu["activations"]
    assert on_cpu["oneDNN"] == memory.ONEDNN
    assert on_cpu["states below the adapter"] == 64 * 4 * reading.batch
    sizes = (2, config["n_actions"], layouts.observation.size, layouts.state.size, 1)
    assert on_cpu["stored battles"] == 2 * memory.battles_bytes(8, 61, *sizes)
    _, on_gpu = parts("cuda")
    assert on_cpu.keys() - on_gpu.keys() == {"what was freed", "oneDNN"}
    assert on_gpu["frozen weights"] == 2 * reading.model.parameters  # bfloat16


def test_agent_steps_at_once():
    run = Plan(_layouts("3m"), 60, True, 30, 2.0, battles=8, updates=1, tests=1, test_battles=8)
    at_once = run_memory.agent_steps_at_once
    assert at_once({"microbatch": 100, "minibatches": 1}, run, recurrent=False) == 100
    assert at_once({"microbatch": 8192, "minibatches": 4}, run, recurrent=False) == 2 * 60 * 3
    assert at_once({"microbatch": 100, "minibatches": 1}, run, recurrent=True) == 60 * 3
    assert at_once({"microbatch": 400, "minibatches": 1}, run, recurrent=True) == 2 * 60 * 3


def _layouts(map_name):
    env_args = {"map_name": map_name}
    return build_layouts("smax", env_args, *registry.load(registry.MAP_SIZES["smax"])(env_args))


# The machine


def test_free_memory_is_read_and_a_containers_limit_counts(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       8000 kB\nMemFree:  1 kB\nMemAvailable:   6000 kB\n")
    assert machine.main_memory(meminfo, tmp_path) == (6000 * 1024, 8000 * 1024)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1048576\n")
    assert machine.main_memory(meminfo, tmp_path) == (6000 * 1024, 8000 * 1024)
    (tmp_path / "memory.max").write_text("3145728\n")
    assert machine.main_memory(meminfo, tmp_path) == (2 * 2**20, 3 * 2**20)
    (tmp_path / "memory.max").unlink()
    told, counted = machine.main_memory(cgroup=tmp_path), machine.main_memory(tmp_path / "nothing", tmp_path)
    assert counted.total == pytest.approx(told.total, rel=0.1)


def test_on_a_gpu_its_own_memory_counts(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3, 8))
    assert machine.room("cuda") == (3, 8)


@pytest.mark.parametrize(("product", "rate"), [("auto", 30.0), ("torch", 10.0), ("onednn", 10.0)])
def test_the_rate_of_products_is_that_of_the_faster_library(product, rate, monkeypatch):
    found = iter([10.0, 30.0])
    monkeypatch.setattr(machine, "_times_a_second", lambda call, device, budget: (call(), next(found))[1])
    before = torch.get_num_threads()
    assert machine.product_rate((4, 8, 16), torch.float32, "cpu", product, 1) == rate * 2 * 4 * 8 * 16
    assert torch.get_num_threads() == before


def test_a_library_that_is_not_there_has_no_rate(monkeypatch):
    def missing(*_):
        raise AttributeError("no such operation")

    assert machine._times_a_second(missing, "cpu", 0.01) == 0.0
    monkeypatch.setitem(products.PRODUCTS, "onednn", missing)
    monkeypatch.setattr(machine, "SECONDS", 0.02)
    assert machine.product_rate((64, 64, 64), torch.float32, "cpu", "auto", 1) > 0


def test_onednn_counts_where_a_run_would_take_it(monkeypatch):
    def taken(product, dtype=torch.float32, device="cpu"):
        return machine.takes_onednn(product, dtype, device)

    monkeypatch.setattr(tuning, "known", dict)
    assert [taken(product) for product in ("auto", "onednn", "torch")] == [True, True, False]
    assert not taken("onednn", torch.bfloat16)
    assert not taken("auto", device="cuda")
    monkeypatch.setattr(tuning, "known", lambda: {"speedup by onednn": 1.05})
    assert [taken(product) for product in ("auto", "onednn", "torch")] == [False, True, False]


def test_threads_are_those_of_a_run(monkeypatch):
    monkeypatch.setattr(tuning, "known", lambda: {"threads for language models": 3})
    assert machine.threads(None, "language models") == 3
    assert machine.threads(2, "language models") == 2
    assert machine.threads(None, "small networks") == tuning.cores()


def test_what_is_lowered_already_is_not_advised_and_a_gpu_can_quantise(tiny_args):
    less = run_memory.less_for_language_model
    config = vars(tiny_args({"llm.recompute": True, "batch_size_run": 1, "llm.product": "onednn"}))
    assert less(config, small_reading(), "cpu") == [
        "lower llm.token_budget (64 now)",
        "lower lora.layers (2 now)",
        "set llm.product=torch, which may be slower",
    ]
    assert less(config, small_reading(), "cuda")[-1] == "set llm.quantization=8bit"
    config["llm"]["quantization"] = "8bit"
    assert less(config, small_reading(), "cuda")[-1] == "set llm.quantization=4bit"


def test_numbers_in_words():
    assert [words.count(number) for number in (12345, 596_049_920, 1.7e9)] == ["12,345", "596 million", "1.7 billion"]
    assert [words.memory(size) for size in (GIB * 1.26, GIB / 2, 2**20 / 4)] == ["1.3 GiB", "512 MiB", "0.25 MiB"]
    seconds = (0.2, 40, 3600, 7200, 5 * 86400, 913 * 86400)
    assert [words.duration(value) for value in seconds] == [
        "less than 1 s",
        "40 s",
        "60 min",
        "2.0 h",
        "5.0 days",
        "2.5 years",
    ]
    assert [words.several(number, "enemy", "enemies") for number in (1, 2)] == ["1 enemy", "2 enemies"]
