"""The baseline computes the same as the engine; otherwise their times could not be compared."""

import pytest
import torch

from benchmarks import battles
from benchmarks.engine import KL_COEF
from benchmarks.entries import Bench, Mismatch, farthest, gradient_differences, gradients
from benchmarks.plain_port import PlainPort
from benchmarks.setting import Setting
from tests.benchmarks.small import MODELS, small_bench
from tests.slow import all_slow_but


@pytest.fixture(scope="module", params=all_slow_but(["tiny-llama"], MODELS))
def bench(request):
    return small_bench(request.param)


@pytest.fixture(scope="module")
def batch(bench):
    return bench.batch(5)


def test_the_batch_has_dead_agents_and_padding(batch):
    played, deciding = battles.valid(batch), battles.deciding(batch)
    assert 0 < deciding.sum() < played.sum() * deciding.shape[-1]  # dead agents
    assert not played.all()  # padding


def test_baseline_and_engine_have_the_same_action_probabilities(bench, batch):
    port = bench.port
    assert farthest(bench.engine().log_probs(batch), port.log_probs(batch)) < 1e-5
    taken, available = port.play(batch), batch["avail_actions"][:, :-1] > 0
    chosen = battles.deciding(batch)
    assert available[chosen].gather(-1, taken[chosen].unsqueeze(-1)).all()


@pytest.mark.parametrize("layers", [None, 1])
def test_baseline_and_engine_have_the_same_gradients(bench, batch, layers):
    engine = bench.engine(layers)
    absolute, relative = gradient_differences(engine, PlainPort(engine.args, engine.mac), batch, graph_tokens=500)
    assert absolute < 1e-5
    assert relative < 1e-4
    found = gradients(engine.mac.agent)
    assert all(gradient.any() for gradient in found.values())
    per_layer = {name.split("layers.")[1][0] for name in found if "lora_" in name}
    assert per_layer == ({"0", "1"} if layers is None else {"1"})


def test_graph_tokens_do_not_change_the_gradients(bench, batch):
    port, advantages, found = bench.port, bench.engine().advantages(batch), []
    for graph_tokens in (None, 500):
        port.update(batch, advantages, KL_COEF, graph_tokens, epochs=1)
        found.append({name: gradient.clone() for name, gradient in gradients(port.policy).items()})
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])


def test_the_engine_evaluates_only_agents_with_a_choice(bench, batch):
    engine = bench.engine()
    assert len(bench.port.prompts.padded(batch, 0)["input_ids"]) == batch.batch_size * engine.args.n_agents
    engine.mac.pop_usage()
    engine.play(batch)
    assert engine.mac.pop_usage()["prompts"] <= battles.deciding(batch).sum()


def test_a_wrong_weight_is_a_mismatch(bench, batch):
    engine, port = bench.engine(), PlainPort(bench.engine().args, bench.engine().mac)
    with torch.no_grad():
        next(parameter for name, parameter in port.policy.named_parameters() if "lora_A" in name).mul_(1.5)
    with pytest.raises(Mismatch, match="do not compute the same"):
        bench.check("learner_full_lora", *gradient_differences(engine, port, batch, graph_tokens=500))


@pytest.mark.parametrize(
    ("dtype", "absolute", "relative", "wrong"),
    [
        ("float32", 0.9e-4, 0.9e-3, False),
        ("float32", 1.1e-4, 0.0, True),
        ("float32", 0.0, 1.1e-3, True),
        ("float32", float("nan"), 0.0, True),
        ("bfloat16", 1e-2, 1e-2, False),
    ],
)
def test_allowed_differences_depend_on_the_dtype(dtype, absolute, relative, wrong):
    bench = Bench(Setting(dtype=dtype))
    if not wrong:
        bench.check("rollout", absolute, relative)
        return
    with pytest.raises(Mismatch, match=r"^rollout: "):
        bench.check("rollout", absolute, relative)
