"""The leg of a GPU: a few minutes of steps that show whether the engine is right and fast there.

  kernels          rates of the GPU; alignment, error and time of each attention kernel
  battles          play the battles whose prompts the next steps use
  agreement        engine against plain port, in float32 and bfloat16: greatest differences. If they differ in float32,
                   the engine is not timed: rates and tricks are skipped, and the exit code is 1
  rates_N          Qwen3-0.6B's shape with random weights, LoRA on the top N layers: a rollout and an update
  tricks           the same with one optimisation switched off or on at a time
  learning         lolm_mappo_smol on SMAX 3m for the remaining time

Each step knows about how many seconds it needs on a GPU, and is skipped by name if fewer are left. Progress goes to
stderr; the last line of stdout is one JSON document. ``dry`` runs every step with tiny shapes on the CPU.
"""

import gc
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from benchmarks import battles, gpu, kernels
from benchmarks.engine import Engine, arguments
from benchmarks.entries import ALL_STEPS, Bench, Mismatch, farthest, gradient_differences
from benchmarks.gemm_rate import Floor
from benchmarks.learning import learn
from benchmarks.setting import Setting, alternate, machine
from lolm_plugin import strict_json
from lolm_plugin.errors import ConfigError
from lolm_plugin.llm import smollm2
from lolm_plugin.llm.sources import resolve, seeded

REPORT = "cuda.json"
# The comparison holds three models in float32. On a GPU with less memory it takes the first layers only.
WHOLE_MODEL_BYTES, FEW_LAYERS = 20e9, 4
GRACE = 30.0  # seconds after the last minute until the process ends by force, for example because a kernel hangs
QWEN3_06B = {"vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
QWEN3_06B |= {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True}
TINY_QWEN3 = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
TINY_QWEN3 |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.125}
# Settings that switch an optimisation off, or another one on.
TRICKS: dict[str, dict[str, Any]] = {
    "without share_prefix": {"llm": {"share_prefix": False}},
    "without read_positions": {"llm": {"read_positions": False}},
    "without keep_rollout_states": {"llm": {"keep_rollout_states": False}},
    "without frozen states": {"llm": {"frozen_cache_gb": 0}},
    "with recompute": {"llm": {"recompute": True}},
    "with terse prompts": {"prompt": {"style": "terse"}},
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of the leg: those of a GPU, or tiny ones."""

    shape: Mapping[str, int | float | bool]
    lora_layers: tuple[int, ...]
    setting: Setting
    attention: kernels.Shape
    product_width: int
    learning: Mapping[str, Any]  # settings of lolm_mappo_smol


def on_gpu(setting: Setting) -> Sizes:
    """Return the sizes for a GPU. Battles, epochs, map, seed and style are those of ``setting``."""
    setting = replace(setting, device="cuda", dtype="bfloat16", num_layers=None, baseline_tokens=16384)
    learning = {"use_cuda": True, "env_args": {"map_name": "3m"}, "torch_threads": setting.threads}
    return Sizes(QWEN3_06B, (28, 8, 1), setting, kernels.QWEN3, 8192, learning)


def dry(setting: Setting) -> Sizes:
    """Return tiny sizes for a CPU."""
    small = {"map": "3m", "episodes": 2, "steps": 2, "learner_steps": 2, "epochs": 1, "threads": 1, "seed": 2}
    setting = replace(setting, model="tiny-qwen3", num_layers=None, baseline_tokens=500, dtype="bfloat16", **small)
    learning = {"llm": {"model": "tiny-llama", "num_layers": None}, "env_args": {"map_name": "3m"}, "use_cuda": False}
    learning |= {"batch_size_run": 2, "t_max": 1, "test_nepisode": 2, "test_interval": 1000, "torch_threads": 1}
    learning |= {"minibatches": 1, "critic_minibatches": 1, "epochs": 1}
    return Sizes(TINY_QWEN3, (3, 2, 1), setting, kernels.SMALL, 64, learning)


@dataclass
class Leg:
    """State of the leg while it runs.

    Attributes:
        sizes: see ``Sizes``; the setting's model is the folder with random weights.
        until: ``time.monotonic()`` at the end of its time.
        rates: rates of the GPU: ``gpu.describe`` and ``gpu.measured_rates``.
        agreed: True after engine and plain port have computed the same in float32.
    """

    sizes: Sizes
    until: float
    rates: dict[str, Any] = field(default_factory=dict)
    agreed: bool = False

    @property
    def setting(self) -> Setting:
        """The setting of the engine in bfloat16."""
        return self.sizes.setting

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.until - time.monotonic()


@dataclass(frozen=True)
class Step:
    """A step of the leg.

    Attributes:
        name: its name in the report.
        needs: seconds that it needs on a GPU, an estimate.
        work: runs the step and returns its results.
        times_engine: True if it times the engine, which must agree with the plain port first.
    """

    name: str
    needs: float
    work: Callable[[Leg], dict[str, Any]]
    times_engine: bool = False


def run(leg: Leg, steps: Sequence[Step], report: dict[str, Any], write: Callable[[], None]) -> int:
    """Run all steps for which there is time, and add their results to the report. Return 1 if one failed, else 0.

    A failed step does not end the leg, because a GPU's minutes are scarce.
    """
    code = 0
    for step in steps:
        result: dict[str, Any] = {"name": step.name, "needs_seconds": step.needs}
        report["steps"].append(result)
        started = time.monotonic()
        if leg.left() < step.needs:
            result["skipped"] = f"needs about {step.needs:.0f} s, and {max(0.0, leg.left()):.0f} s are left"
        elif step.times_engine and not leg.agreed:
            result["skipped"] = "engine and plain port were not found equal in float32, so their times mean nothing"
        else:
            print(f"{step.name} ...", file=sys.stderr, flush=True)
            try:
                result |= step.work(leg)
            except Exception as error:
                wrong = "WRONG: " if isinstance(error, Mismatch) else f"{type(error).__name__}: "
                result["failed"], code = wrong + (str(error).splitlines() or [""])[0][:400], 1
            result["seconds"] = time.monotonic() - started
            gc.collect()
            gpu.reset_peak_memory(leg.setting.device)
        state = result.get("skipped") or result.get("failed") or "done"
        print(f"{step.name}: {state} ({max(0.0, leg.left()):.0f} s left)", file=sys.stderr, flush=True)
        write()
    return code


def main(setting: Setting, is_dry: bool, minutes: float, output: Path | None) -> int:
    """Run the leg and print its report as the last line of stdout. Return 0, or 1 if a step failed.

    Raises:
        ConfigError: there is no GPU and ``is_dry`` is False, or ``output`` cannot be written.
    """
    if not is_dry and not torch.cuda.is_available():
        raise ConfigError(
            "--leg=cuda needs an NVIDIA GPU, and torch.cuda.is_available() is False: install a torch with CUDA on a "
            "machine with a GPU, or add --dry to run every step with tiny shapes on the CPU."
        )
    started = time.monotonic()
    sizes = dry(setting) if is_dry else on_gpu(setting)
    report: dict[str, Any] = {
        "leg": "cuda",
        "dry": is_dry,
        "minutes": minutes,
        "machine": machine(),
        "gpu": gpu.describe(sizes.setting.device),
        "setting": asdict(sizes.setting) | {"tokenizer": _tokenizer(setting, is_dry), "shape": dict(sizes.shape)},
        "steps": [],
    }
    report["setting"].pop("model")
    lock = threading.Lock()

    def write() -> None:
        report["seconds"] = time.monotonic() - started
        if output:
            try:
                output.mkdir(parents=True, exist_ok=True)
                (output / REPORT).write_text(strict_json.dumps(report, indent=2) + "\n")
            except OSError as error:
                raise ConfigError(f"--output={output} cannot be written ({error.strerror}); name another.") from error

    def end_by_force() -> None:
        with lock:
            report["stopped"] = f"after {minutes:g} minutes and {GRACE:.0f} s, in the step that is named last"
            write()
            print(strict_json.dumps(report), file=out, flush=True)
            os._exit(1)

    out = sys.stdout
    write()
    guard = threading.Timer(minutes * 60 + GRACE, end_by_force)
    guard.daemon = True
    guard.start()
    logging.disable_progress_bar()
    torch.set_num_threads(sizes.setting.threads)
    torch.set_float32_matmul_precision("highest")  # TF32 would make float32 differences as large as bfloat16's
    try:
        with redirect_stdout(sys.stderr), _random_weights(sizes, report["setting"]["tokenizer"]) as folder:
            sizes = replace(sizes, setting=replace(sizes.setting, model=folder))
            return run(Leg(sizes, started + minutes * 60), steps(sizes), report, write)
    finally:
        with lock:
            guard.cancel()
            write()
            print(strict_json.dumps(report), file=out, flush=True)


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


def _tokenizer(setting: Setting, is_dry: bool) -> str:
    """Return the model whose tokenizer is used: a tiny one if SmolLM2's is not in the cache."""
    missing = setting.model == smollm2.SMOLLM2 and not smollm2.is_cached()
    return "tiny-qwen3" if is_dry or missing else setting.model


@contextmanager
def _random_weights(sizes: Sizes, tokenizer: str) -> Iterator[str]:
    """Yield a temporary folder with a Qwen3 of random weights in bfloat16, drawn on the device, and a tokenizer.

    Qwen's own tokenizer is not available without the hub.
    """
    from transformers import AutoModel, Qwen3Config

    with TemporaryDirectory(prefix="lolm-benchmark-") as folder:
        with seeded(0), torch.device(sizes.setting.device):
            model = AutoModel.from_config(Qwen3Config(**sizes.shape), dtype=torch.bfloat16)
        model.save_pretrained(folder)
        del model
        resolve(tokenizer).load_tokenizer().save_pretrained(folder)
        gpu.reset_peak_memory(sizes.setting.device)
        yield folder
