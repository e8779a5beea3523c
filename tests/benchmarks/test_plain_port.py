"""The baseline computes what the engine computes: else a ratio of their times means nothing."""

import pytest
import torch

from benchmarks import compare, data
from benchmarks.engine import KL_COEF
from benchmarks.entries.prompts import decisions
from benchmarks.fstrings import describer
from benchmarks.plain_prompts import PlainPrompts
from benchmarks.plain_scene import Scene, Self, scenes
from benchmarks.setting import Setting
from lolm_plugin.prompts.style import build_style
from tests.benchmarks.small import MODELS, small_bench


@pytest.fixture(scope="module", params=MODELS)
def bench(request):
    return small_bench(request.param)


def test_the_batch_has_what_the_two_sides_treat_differently(bench):
    batch = bench.learner_batch
    there, deciding = data.valid(batch), data.deciding(batch)
    assert 0 < deciding.sum() < there.sum() * deciding.shape[-1]  # dead agents
    assert not there.all()  # padding


def test_the_baseline_draws_actions_from_the_same_probabilities(bench):
    port, batch = bench.port, bench.rollout_batch
    assert compare.rollouts(bench.engine(), port, batch).logits < 1e-5
    taken, available = port.play(batch), batch["avail_actions"][:, :-1] > 0
    rows = data.deciding(batch)
    assert available[rows].gather(-1, taken[rows].unsqueeze(-1)).all()


@pytest.mark.parametrize("layers", [None, 1])
def test_the_baseline_learns_from_the_same_logits_with_the_same_gradients(bench, layers):
    engine = bench.engine(layers)
    difference = compare.learners(engine, bench.port_of(engine), bench.learner_batch, graph_tokens=500)
    assert difference.logits < 1e-5
    assert difference.relative < 1e-4
    gradients = engine.gradients()
    assert all(gradient.any() for gradient in gradients.values())
    per_layer = {name.split("layers.")[1][0] for name in gradients if "lora_" in name}
    assert per_layer == ({"0", "1"} if layers is None else {"1"})


def test_how_much_graph_the_baseline_keeps_changes_no_gradient(bench):
    port, batch = bench.port, bench.learner_batch
    advantages, found = bench.engine().advantages(batch), []
    for graph_tokens in (None, 10**9, 500):
        port.update(batch, advantages, KL_COEF, graph_tokens)
        found.append({name: gradient.clone() for name, gradient in port.gradients().items()})
    assert all(compare.relative(other, found[0]) < 1e-5 for other in found[1:])


def test_the_baseline_reads_every_agent_and_the_engine_only_those_with_a_choice(bench, monkeypatch):
    port, batch = bench.port, bench.rollout_batch
    tokens = port.prompts.tokens(batch, 0)
    assert len(tokens["input_ids"]) == batch.batch_size * bench.engine().args.n_agents
    read = []
    monkeypatch.setattr(port, "tick", read.append)
    port.play(batch)
    assert sum(read) == port.prompts.padded_tokens(batch)
    engine = bench.engine()
    engine.mac.take_usage()
    engine.play(batch)
    assert engine.mac.take_usage()["rows"] <= data.deciding(batch).sum()


@pytest.mark.parametrize("style", ["paper", "compact"])
@pytest.mark.parametrize("map_name", ["3m", "3s_vs_4z"])
def test_the_f_strings_have_the_words_of_the_style(style, map_name):
    bench = small_bench(map_name=map_name, style=style)
    plain, prompter = PlainPrompts(bench.engine().args), bench.engine().mac.agent.prompter
    for obs, available, agents in decisions(bench.rollout_batch):
        seen = scenes(prompter.layout, obs, available, agents)
        texts = ["".join(parts.values()) for parts in prompter.writer.describe(obs, available, agents)]
        assert [plain.describe(scene) for scene in seen] == texts


def test_a_style_without_f_strings_describes_for_itself():
    scene = Scene(Self(0, "marine", 1.0, None, 0.0, None, None), (), (), ("stop",))
    assert describer("terse", build_style("terse"))(scene).startswith("You marine\nBlocked:")


def test_a_wrong_weight_is_a_mismatch(bench):
    engine, port = bench.engine(), bench.port_of(bench.engine())
    with torch.no_grad():
        next(parameter for name, parameter in port.policy.named_parameters() if "lora_A" in name).mul_(1.5)
    difference = compare.learners(engine, port, data.fullest(bench.learner_batch), graph_tokens=500)
    with pytest.raises(compare.Mismatch, match="do not compute the same"):
        difference.check(bench.setting, "learner_full_lora")


@pytest.mark.parametrize(
    ("dtype", "numbers", "wrong"),
    [
        ("float32", (0.9e-4, 5.0, 0.9e-3), False),
        ("float32", (1.1e-4, 0.0, 0.0), True),
        ("float32", (0.0, 0.0, 1.1e-3), True),
        ("float32", (float("nan"), None, None), True),
        ("bfloat16", (1e-2, 1e-2, 1e-2), False),
    ],
)
def test_float32_allows_so_much_difference(dtype, numbers, wrong):
    difference, setting = compare.Difference(*numbers), Setting(dtype=dtype)
    if not wrong:
        assert difference.check(setting, "rollout") is difference
        return
    with pytest.raises(compare.Mismatch, match=r"^rollout: "):
        difference.check(setting, "rollout")
