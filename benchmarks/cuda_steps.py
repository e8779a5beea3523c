"""The steps of the cuda leg: kernels, agreement with the plain port, rates, optimisations, and a training."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks import battles, gpu, kernels
from benchmarks.engine import Engine, arguments
from benchmarks.entries import ALL_STEPS, Bench, farthest, gradient_differences
from benchmarks.gemm_rate import Floor
from benchmarks.learning import learn
from benchmarks.setting import Setting, alternate
from benchmarks.timed_steps import Leg, Sizes, Step
from lolm_plugin.llm import smollm2

# The comparison holds three models in float32. On a GPU with less memory it takes the first layers only.
WHOLE_MODEL_BYTES, FEW_LAYERS = 20e9, 4
# Settings that switch an optimisation off, or another one on.
TRICKS: dict[str, dict[str, Any]] = {
    "without share_prefix": {"llm": {"share_prefix": False}},
    "without read_positions": {"llm": {"read_positions": False}},
    "without keep_rollout_states": {"llm": {"keep_rollout_states": False}},
    "without frozen states": {"llm": {"frozen_cache_gb": 0}},
    "with recompute": {"llm": {"recompute": True}},
    "with terse prompts": {"prompt": {"style": "terse"}},
}


def steps(sizes: Sizes) -> list[Step]:
    """List the steps in their order. What they need on a GPU is an estimate: none was timed on one yet."""
    layers = [Step(f"rates_{n}", 45, partial(rates, lora_layers=n), times_engine=True) for n in sizes.lora_layers]
    return [
        Step("kernels", 15, attention_kernels),
        Step("battles", 30, play_battles),
        Step("agreement", 45, agreement),
        *layers,
        Step("tricks", 75, tricks, times_engine=True),
        Step("learning", 45, learning),
    ]


def attention_kernels(leg: Leg) -> dict[str, Any]:
    """Measure the GPU's rates and compare the attention kernels."""
    device = leg.setting.device
    leg.rates = gpu.describe(device) | gpu.measured_rates(device, leg.sizes.product_width)
    return {"rates": leg.rates, "kernels": kernels.compare(leg.sizes.attention, device)}


def play_battles(leg: Leg) -> dict[str, Any]:
    """Play the battles of the next steps with random actions. They stay in memory."""
    batch = Bench(leg.setting).batch(ALL_STEPS)
    valid, deciding = battles.valid(batch), battles.deciding(batch)
    steps, decisions = int(valid.sum()), int(deciding.sum())
    return {"battles": len(valid), "env_steps": steps, "deciding_share": decisions / steps / deciding.shape[-1]}


def agreement(leg: Leg) -> dict[str, Any]:
    """Compare the engine with the plain port, which must be equal in float32; return the greatest differences.

    The differences to float32 are those to the plain port in float32. Raises Mismatch.
    """
    whole = leg.setting.device == "cpu" or leg.rates["memory_bytes"] > WHOLE_MODEL_BYTES
    setting = replace(leg.setting, num_layers=None if whole else FEW_LAYERS)
    exact, found = _differences(replace(setting, dtype="float32"), None)
    leg.agreed = True
    _, in_bfloat16 = _differences(setting, exact)
    return {"num_layers": setting.num_layers, "float32": found, "bfloat16": in_bfloat16}


def _differences(setting: Setting, exact: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
    """Return the plain port's log-probabilities, and the differences between both sides. Raises Mismatch.

    ``exact``: the plain port's log-probabilities in float32; None: ``setting`` has float32.
    """
    bench = Bench(setting)
    batch = bench.batch(setting.steps)
    engine, port = bench.engine(), bench.port
    ours, plain = engine.log_probs(batch), port.log_probs(batch)
    bench.check(f"rollout in {setting.dtype}", farthest(ours, plain))
    fullest = int(battles.deciding(batch).sum((1, 2)).argmax())  # one episode is enough for the gradients
    episode = batch[fullest : fullest + 1]
    absolute, relative = gradient_differences(engine, port, episode, setting.baseline_tokens)
    bench.check(f"learner in {setting.dtype}", absolute, relative)
    sides = {"plain_port": lambda: port.play(batch), "engine": lambda: engine.play(batch)}
    seconds = alternate(sides, setting.repeats, setting.device)
    return plain, {
        "log_probs_max_abs_diff": farthest(ours, plain),
        "log_probs_engine_to_float32": farthest(ours, plain if exact is None else exact),
        "log_probs_plain_port_to_float32": farthest(plain, plain if exact is None else exact),
        "gradients_max_abs_diff": absolute,
        "gradients_diff_relative": relative,
        "decisions": len(ours),
        "rollout_seconds": seconds,
        "rollout_ratio": seconds["plain_port"] / seconds["engine"],
    }


def rates(leg: Leg, lora_layers: int) -> dict[str, Any]:
    """Measure a rollout and an update with LoRA on the top ``lora_layers`` layers."""
    return _measure(leg, lora_layers, {})


def tricks(leg: Leg) -> dict[str, Any]:
    """Measure with one setting changed at a time; return the times with the change divided by those without it."""
    middle = leg.sizes.lora_layers[1]
    base = _measure(leg, middle, {})
    found: dict[str, Any] = {"lora_layers": middle, "base": base, "changes": {}}
    for name, changes in TRICKS.items():
        if leg.left() < leg.setting.repeats:
            found["changes"][name] = {"skipped": "no time left"}
            continue
        changed = _measure(leg, middle, changes)
        found["changes"][name] = {
            **{
                f"{part}_ratio": changed[part]["seconds"] / base[part]["seconds"]
                for part in ("rollout", "learner", "both")
            },
            "tokens_per_decision": changed["tokens_per_decision"],
            "peak_memory_bytes": {part: changed[part]["peak_memory_bytes"] for part in ("rollout", "learner")},
        }
    return found


def learning(leg: Leg) -> dict[str, Any]:
    """Train ``lolm_mappo_smol`` for the remaining time. Without SmolLM2 in the cache, a random model learns."""
    changes = dict(leg.sizes.learning)
    if "llm" not in changes and not smollm2.is_cached():
        changes["llm"] = {"model": leg.setting.model, "pretrained": False, "num_layers": FEW_LAYERS}
    return learn(changes, leg.until)


def _measure(leg: Leg, lora_layers: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return speed, memory and fraction of the peak of a rollout, an update and both."""
    setting, device = leg.setting, leg.setting.device
    gpu.reset_peak_memory(device)
    layers = int(leg.sizes.shape["num_hidden_layers"])
    engine = Engine(arguments(setting, None if lora_layers == layers else lora_layers, changes))
    batch = Bench(setting).batch(setting.learner_steps)
    work = _work(engine, batch, layers - lora_layers, setting.epochs)
    sides = {"rollout": lambda: engine.play(batch), "learner": lambda: engine.update(batch)}
    peaks: dict[str, int | None] = {}
    for name, side in sides.items():  # the warm-up, which also measures the memory
        gpu.reset_peak_memory(device)
        side()
        peaks[name] = gpu.peak_memory(device)
    seconds = alternate(sides, setting.repeats, device)
    seconds["both"] = sum(seconds.values())
    peaks["both"] = max((peak for peak in peaks.values() if peak is not None), default=None)
    decisions = int(battles.deciding(batch).sum())
    found: dict[str, Any] = {"lora_layers": lora_layers, "packed": engine.mac.agent.backbone.encoder.packed}
    found |= {"decisions": decisions, "tokens_per_decision": work["tokens"] / decisions, "epochs": setting.epochs}
    for name, passed in (("rollout", 1), ("learner", setting.epochs), ("both", 1)):
        flop = 2 * (work["rollout"] + work["learner"] if name == "both" else work[name])
        found[name] = {
            "seconds": seconds[name],
            "tokens_per_second": passed * work["tokens"] / seconds[name],
            "agent_steps_per_second": decisions / seconds[name],
            "mfu": _share(flop, seconds[name], leg.rates.get("peak_bf16_tflops")),
            "of_measured_product_rate": _share(flop, seconds[name], leg.rates.get("product_tflops")),
            "peak_memory_bytes": peaks[name],
        }
    return found


def _work(engine: Engine, batch: Any, frozen: int, epochs: int) -> dict[str, int]:
    """Count tokens, and multiply-adds of a rollout and an update. Attention and LoRA's products do not count.

    The states of the ``frozen`` lowest layers are kept from the rollout.
    """
    backbone, prefix = engine.mac.agent.backbone, len(engine.mac.agent.prompter.prefix)
    floor = Floor(backbone.lm, backbone.encoder.settings.read_positions)
    tokens = sum(engine.prompt_lengths(batch))
    batches = max(1, math.ceil(tokens / max(1, engine.mac.token_budget - prefix)))
    kept = sum(floor.forward[:frozen]) * (tokens + prefix)
    learner = floor.learner(frozen, tokens, prefix, batches, epochs) - kept
    return {"tokens": tokens, "rollout": floor.rollout(tokens, prefix), "learner": learner}


def _share(flop: float, seconds: float, tflops: float | None) -> float | None:
    return flop / seconds / (tflops * 1e12) if tflops else None
