"""``python -m benchmarks --only smol``: both sides compute what their names say, and what is counted is what ran."""

import json

import pytest
import torch

from benchmarks import data, smol_baseline, smol_profile
from benchmarks.__main__ import main
from benchmarks.entries import smol
from benchmarks.plain_scene import Scene, SeenUnit, Self, describe
from benchmarks.setting import Setting
from benchmarks.smol_profile import PHASES, SHARES, Product, profile, seconds_alone
from lolm_plugin import registry
from lolm_plugin.llm.batching import plan_packs
from lolm_plugin.prompts.style import build_style

SMALL = Setting(smol_model="tiny-llama", num_layers=2, episodes=2)
ATTENTION, MLP, OUTPUT = 2 * 64 * 64 + 2 * 32 * 64, 3 * 64 * 128, 64 * 64  # weights of a layer of tiny-llama
LAYER = ATTENTION + MLP


@pytest.fixture(scope="module")
def batch():
    torch.set_num_threads(1)
    return smol.battles(SMALL)


@pytest.fixture(scope="module")
def before(batch):
    """The frozen side after its first round, and what was counted in it."""
    engine = smol.build(SMALL, "before")
    stages, calls = engine.mac.agent.backbone._reader._stages, []
    top = stages.top

    def recorded(states, packing):
        if torch.is_grad_enabled():
            calls.append((len(states), len(packing.wanted)))
        return top(states, packing)

    stages.top = recorded
    return engine, *profile(engine, batch), calls


def now(*updates):
    return smol.build(Setting(smol_model="tiny-llama", num_layers=2, episodes=2, updates=updates), "now")


def rows_of(products, name, layer):
    return sum(p.rows * times for p, times in products.items() if p.name == name and p.layer == layer)


def packed(engine, lengths):
    """Tokens of prompts of these lengths, padded to the longest of their group."""
    packs = plan_packs(lengths, engine.mac.token_budget, len(engine.mac.agent.prompter.prefix))
    return sum(len(group) * max(lengths[row] for row in group) for pack in packs for group in pack)


def test_the_frozen_side_is_not_that_of_the_yaml(before):
    args, backbone = before[0].args, before[0].mac.agent.backbone
    assert (args.llm["keep_rollout_states"], args.lora["layers"], args.lora["rank"]) == (False, None, 8)
    assert (args.epochs, args.minibatches) == (2, 4)
    assert backbone.trunk_layers == 0
    assert isinstance(backbone._reader._stages._top.layers[-1], smol_baseline.WantedTokens)
    assert before[1]["kept_states_bytes"] == 0
    assert smol_baseline.SETTINGS["llm"]["num_layers"] == 4


def test_the_frozen_side_computes_queries_for_all_tokens_of_its_last_layer(before, batch):
    products = before[2]
    everywhere = rows_of(products, "k_proj", layer=1)
    assert rows_of(products, "q_proj", layer=1) == rows_of(products, "o_proj", layer=1) == everywhere
    assert rows_of(products, "up_proj", layer=1) < everywhere / 10
    _, products = profile(now("lora.layers=null"), batch)
    assert rows_of(products, "q_proj", layer=1) < rows_of(products, "k_proj", layer=1) / 10


def test_layer_passes_of_the_frozen_side_are_those_of_arithmetic(before, batch):
    engine, numbers, _, with_gradient = before
    tokens, prefix = sum(map(len, engine.prompts(batch))), numbers["prefix_tokens"]
    steps = [engine.own_tokens(batch, t) for t in range(batch.max_seq_length - 1)]
    everything = engine.own_tokens(batch)
    reference, played = packed(engine, everything), sum(packed(engine, lengths) for lengths in steps if lengths)
    for phase, run, read in (("rollout", played, sum(map(len, steps))), ("reference", reference, len(everything))):
        passes = numbers["layer_passes"][phase]  # the prefix runs once: keys and values stay while weights do
        assert passes["below"] == pytest.approx((run + prefix) / tokens)
        assert passes["last"] == pytest.approx(((run + prefix) * ATTENTION + read * MLP) / LAYER / tokens)
    run, read = map(sum, zip(*with_gradient, strict=True))
    passes = numbers["layer_passes"]["learner backward"]  # nothing below the first layer's projections is trained
    assert passes["below"] == pytest.approx(run * (OUTPUT + MLP) / LAYER / tokens)
    assert passes["last"] == pytest.approx((run * ATTENTION + read * MLP) / LAYER / tokens)
    assert len(with_gradient) >= 2 * 4  # epochs times minibatches


def test_kept_states_spare_the_learner_the_frozen_layers(batch):
    engine = now("lora.layers=1")
    numbers, _ = profile(engine, batch)
    below = [numbers["layer_passes"][phase]["below"] for phase in PHASES]
    steps = [engine.own_tokens(batch, t) for t in range(batch.max_seq_length - 1)]
    played = sum(packed(engine, lengths) for lengths in steps if lengths)
    tokens = sum(map(len, engine.prompts(batch)))
    # Of battles alone, without the statistics of features; a prompt that comes again is not computed again.
    assert 0 < below[0] <= (played + numbers["prefix_tokens"]) / tokens
    assert below[1:] == [0, 0, 0]
    distinct = {ids for t in range(batch.max_seq_length - 1) for ids in set(engine.prompts(batch, t))}
    assert numbers["kept_states_bytes"] == sum(map(len, distinct)) * 64 * 4


def test_both_sides_play_and_learn_the_same_decisions(before, batch):
    head = ("head.features=raw", "head.attack_keys=shared")
    engine = now("lora.layers=null", f"prompt.style={smol_baseline.STYLE}", *head)
    theirs, ours = before[0].log_probs(batch), engine.log_probs(batch)
    assert len(theirs) == int(data.deciding(batch).sum()) > 0
    available = theirs.isfinite()
    assert torch.allclose(theirs[available], ours[available], atol=1e-5)
    assert torch.equal(available, ours.isfinite())
    assert theirs[available].std() > 0.01  # no uniform policy, of which all sides would be equal
    assert len(before[0].logits(batch)) == len(now().logits(batch)) == len(theirs)


def test_time_shares_are_those_of_the_whole_round(before):
    shares = before[1]["time_shares"]
    assert tuple(shares) == SHARES
    assert sum(shares.values()) == pytest.approx(1)
    assert all(shares[name] > 0 for name in SHARES if name != "frozen layers")
    assert shares["frozen layers"] == 0


def test_exactly_the_counted_products_run_alone(monkeypatch):
    products = {
        Product("rollout", 0, "up_proj", (3, 4), 10): 2,
        Product("learner forward", 0, "up_proj", (3, 4), 5): 1,
        Product("learner backward", 0, "up_proj", (3, 4), 5): 1,
    }
    ran = []
    monkeypatch.setattr(smol_profile, "linear", lambda x, weight: ran.append((tuple(x.shape), tuple(weight.shape))))
    assert seconds_alone(products, PHASES[:1], torch.ones(1)) > 0
    assert ran == [((10, 4), (3, 4))] * 2
    ran.clear()
    seconds_alone(products, PHASES[1:], torch.ones(1))
    assert ran == [((5, 4), (3, 4)), ((5, 3), (4, 3))]


def test_the_frozen_compact_style_word_for_word():
    seen = SeenUnit("enemy", 2, "stalker", True, 10.0, -0.02, 10.0, 1.0, 0.5, 0.0)
    close = SeenUnit("ally", 0, "marine", True, 4.5, 2.7, -3.6, 0.756, None, 0.25)
    same_spot = SeenUnit("enemy", 0, "zealot", True, 0.0, 0.01, 0.0, 0.25, 0.0, 0.0)
    gone = SeenUnit("enemy", 3, "zealot", False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    hidden = SeenUnit("enemy", 4, "zealot", False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, in_range=True)
    me = Self(1, "marauder", 0.5, None, 0.125, 0.25, 0.755)
    actions = ("no-op", "stop", "move east", "attack enemy 2", "heal ally 0")
    with smol_baseline.styles():
        style = build_style(smol_baseline.STYLE)
    assert smol_baseline.STYLE not in registry.PROMPT_STYLES
    assert style.instruction + style.goal == (
        "Battle. Pick one action for your unit.\nGoal: kill all enemies, weakest first, and stay alive.\n"
    )
    assert describe(style, Scene(me, (close,), (same_spot, seen, gone, hidden), actions)).text == (
        "You: marauder hp 0.50 wait 0.12\n"
        "ally 0: marine hp 0.76 2.7 east 3.6 south\n"
        "enemy 0: zealot hp 0.25 shield 0.00 here\n"
        "enemy 2: stalker hp 1.00 shield 0.50 10.0 north\n"
        "enemy 3: none\n"
        "enemy 4: in range, unknown\n"
        "Actions: none stop east attack 2 heal 0\n"
        "Best:"
    )


def test_the_command_prints_and_writes_both_sides(tmp_path, capsys):
    file = tmp_path / "numbers.json"
    small = ["--model=tiny-llama", "--num-layers=2", "--episodes=1", "--smol-rounds=1", "--threads=1", "--leg=cpu"]
    assert main(["--only=smol", "--with=lora.layers=1", f"--json={file}", *small]) == 0
    report = json.loads(file.read_text())
    entries = {entry["name"]: entry for entry in report["entries"]}
    assert list(entries) == ["smol_rollout", "smol_learner", "smol_both", "smol_memory"]
    section = report["smol"]
    assert (section["map"], section["battles"], section["rounds"]) == ("3m", 1, 1)  # not --map's default
    assert section["updates"] == ["lora.layers=1"]
    for key, side in (("baseline", "before"), ("engine", "now")):
        numbers = section[side]
        for part in ("rollout", "learner", "both"):
            seconds = section["decisions"] / numbers["decisions_per_second"][part]
            assert seconds == pytest.approx(entries[f"smol_{part}"][key])
            assert 0 < numbers["gemm_fraction"][part] < 1
        assert numbers["peak_bytes"] == entries["smol_memory"][key] > numbers["kept_states_bytes"]
        assert set(numbers["layer_passes"]) == set(PHASES)
    assert section["before"]["kept_states_bytes"] == 0 < section["now"]["kept_states_bytes"]
    printed = capsys.readouterr().out
    assert all(words in printed for words in ("now with lora.layers=1", "of the GEMM rate: both", "time: optimiser"))
    assert "plain port" not in printed


@pytest.mark.parametrize(
    ("update", "sentence"),
    [
        ("lora.layers", "--with=lora.layers has no value; write --with=KEY=VALUE"),
        ("lora.layerz=1", "The key lora.layerz on the command line is unknown"),
    ],
)
def test_a_wrong_update_ends_before_anything_is_measured(update, sentence, capsys):
    assert main(["--only=smol", f"--with={update}"]) == 2
    assert sentence in capsys.readouterr().err
