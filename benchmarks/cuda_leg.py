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

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers.utils import logging

from benchmarks import gpu
from benchmarks.cuda_steps import steps
from benchmarks.setting import Setting, machine
from benchmarks.timed_steps import Leg, Sizes, dry, on_gpu, run
from lolm_plugin import strict_json
from lolm_plugin.errors import ConfigError
from lolm_plugin.llm import smollm2
from lolm_plugin.llm.sources import resolve, seeded

REPORT = "cuda.json"
GRACE = 30.0  # seconds after the last minute until the process ends by force, for example because a kernel hangs


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
        if sizes.setting.device != "cpu":
            torch.cuda.manual_seed_all(0)
        with seeded(0), torch.device(sizes.setting.device):
            model = AutoModel.from_config(Qwen3Config(**sizes.shape), dtype=torch.bfloat16)
        model.save_pretrained(folder)
        del model
        resolve(tokenizer).load_tokenizer().save_pretrained(folder)
        gpu.reset_peak_memory(sizes.setting.device)
        yield folder
