"""After an out-of-memory error, microbatches are halved and results do not change."""

import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.memory import plan_memory, retry_on_oom
from tests.learners.compare import farthest, tensors


def short_of(limit):
    """Return a function that raises an out-of-memory error for counts above ``limit``."""

    def check(count):
        if count > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines")

    return check


def learned(learner, play):
    for i in range(2):
        learner.train(play(learner.mac, t_env=i, seed=i), i, i)
    return tensors(learner)


def test_a_language_model_halves_its_token_budget(new_learner, tiny_args, play, monkeypatch, caplog):
    whole = new_learner(tiny_args({"llm.token_budget": 4096}))
    expected = learned(whole, play)
    short = new_learner(tiny_args({"llm.token_budget": 4096}))
    encoder, check = short.mac.agent.backbone.encoder, short_of(600)
    encode = encoder.encode

    def limited(batch, pack, reference):
        check(sum(len(batch.ids[prompt]) for group in pack for prompt in group))
        return encode(batch, pack, reference)

    monkeypatch.setattr(encoder, "encode", limited)
    found = learned(short, play)
    assert 16 <= short.mac.token_budget < 4096
    assert farthest(found, expected) < 1e-5
    assert "Out of memory: continuing with llm.token_budget=2048" in caplog.text


def test_the_cache_of_frozen_states_is_halved_before_the_token_budget(
    new_learner, tiny_args, play, monkeypatch, caplog
):
    settings = {"lora.layers": 1, "llm.token_budget": 4096, "minibatches": 2}
    expected = learned(new_learner(tiny_args(settings)), play)
    short = new_learner(tiny_args(settings))
    encoder, stored = short.mac.agent.backbone.encoder, []
    encode = encoder.encode

    def limited(batch, pack, reference):
        states = [kept for kept in batch.frozen_states if kept is not None]
        stored.append(sum(kept.nbytes for kept in states))
        short_of(40_000)(encoder.stored_bytes)
        return encode(batch, pack, reference)

    monkeypatch.setattr(encoder, "encode", limited)
    found = learned(short, play)
    assert max(stored) > 40_000, "the limit must be reached"
    assert stored[-1] <= 40_000
    assert short.mac.frozen_cache_gb * 2**30 <= 40_000
    assert short.mac.token_budget == 4096
    assert farthest(found, expected) < 1e-5
    assert "Out of memory: continuing with llm.frozen_cache_gb=" in caplog.text


def test_the_first_optimiser_step_is_retried(new_learner, tiny_args, play, monkeypatch):
    """Adam allocates its moments there."""
    expected = learned(new_learner(tiny_args({"llm.token_budget": 4096})), play)
    short = new_learner(tiny_args({"llm.token_budget": 4096}))
    step, zeros, calls = short.actor_optimiser.step, torch.zeros_like, []

    def limited(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:  # the second moment of the second parameter
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return zeros(*args, **kwargs)

    def short_step():
        with monkeypatch.context() as patch:
            patch.setattr(torch, "zeros_like", limited)
            step()

    monkeypatch.setattr(short.actor_optimiser, "step", short_step)
    assert farthest(learned(short, play), expected) < 1e-5
    assert len(calls) > 4
    assert short.mac.token_budget == 2048


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_every_form_of_out_of_memory_is_caught(error, new_learner, tiny_args):
    mac, errors = new_learner(tiny_args({"llm.token_budget": 4096})).mac, [error]

    def work():
        if errors:
            raise errors.pop()
        return 5

    assert retry_on_oom(work, mac) == 5
    assert mac.token_budget == 2048


def test_other_errors_are_raised(new_learner, tiny_args):
    mac = new_learner(tiny_args({"llm.token_budget": 4096})).mac

    def work():
        raise RuntimeError("Expected all tensors to be on the same device")

    with pytest.raises(RuntimeError, match="same device"):
        retry_on_oom(work, mac)
    assert mac.token_budget == 4096


def test_a_small_network_halves_its_microbatch(new_learner, tiny_args, play, monkeypatch):
    expected = learned(new_learner(tiny_args(algorithm="updet_mappo")), play)
    short = new_learner(tiny_args(algorithm="updet_mappo"))
    evaluate, check = short.mac.evaluate, short_of(3)

    def limited(steps, rows):
        check(len(rows))
        return evaluate(steps, rows)

    monkeypatch.setattr(short.mac, "evaluate", limited)
    found = learned(short, play)
    assert short.args.microbatch <= 3
    assert farthest(found, expected) < 1e-5


def test_the_critic_halves_its_microbatch(new_learner, tiny_args, play, monkeypatch):
    expected = learned(new_learner(tiny_args({"llm.token_budget": 4096})), play)
    short = new_learner(tiny_args({"llm.token_budget": 4096}))
    evaluate, check = short.critic.evaluate, short_of(1)

    def limited(batch, t_env, episodes):
        check(len(episodes))
        return evaluate(batch, t_env, episodes)

    monkeypatch.setattr(short.critic, "evaluate", limited)
    assert farthest(learned(short, play), expected) < 1e-5
    assert short.mac.token_budget == 4096, "the language model had enough memory"


def test_the_token_budget_is_what_the_free_memory_holds(monkeypatch):
    peak = 0

    def run(tokens):
        nonlocal peak
        peak = 7_000_000 + 1000 * tokens

    for name in ("reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 5_000_000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5_000_000 + peak)
    budgets = {}
    for free in (1_000, 8_000_000, 20_000_000, 10**12):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 10**12))
        plan = plan_memory([torch.nn.Parameter(torch.zeros(250_000))], 4_000_000, run, (256, 1024))
        budgets[free] = plan.token_budget
        assert (plan.training, plan.cache, plan.per_token) == (3_000_000, min(4_000_000, free // 2), 1000)
    # (0.8 * 20 MB - 3 MB - 4 MB) / 1 kB = 9000
    assert budgets == {1_000: 1, 8_000_000: 1, 20_000_000: 8960, 10**12: 32768}


@pytest.mark.parametrize(
    ("algorithm", "keys"), [("lolm_mappo_tiny", "llm.recompute=True, lora.layers"), ("updet_mappo", "widths")]
)
def test_if_the_smallest_microbatch_fails_the_error_names_keys_to_change(new_learner, tiny_args, algorithm, keys):
    mac = new_learner(tiny_args(algorithm=algorithm)).mac

    def never():
        short_of(0)(1)

    with pytest.raises(ConfigError, match=rf"\(CUDA out of memory. Tried to allocate 2.00 GiB.\); set .*{keys}"):
        retry_on_oom(never, mac)


def test_work_that_fits_runs_once(new_learner, tiny_args):
    mac, calls = new_learner(tiny_args()).mac, []
    assert retry_on_oom(lambda: calls.append(1) or 5, mac) == 5
    assert calls == [1]
