"""The state, the sizes and the time budget of the cuda leg, and the loop over its steps."""

import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks import gpu, kernels
from benchmarks.entries import Mismatch
from benchmarks.setting import Setting

# Padded tokens of the plain port for each backward pass. It takes 0.15 MB a token and layer in float32: 9 GB.
BASELINE_TOKENS = 2048
QWEN3_06B = {"vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
QWEN3_06B |= {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True}
TINY_QWEN3 = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
TINY_QWEN3 |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.125}


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
    setting = replace(setting, device="cuda", dtype="bfloat16", num_layers=None, baseline_tokens=BASELINE_TOKENS)
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
