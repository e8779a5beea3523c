"""Child process of ``preflight``: train a few batches of the real run, and measure them.

``python -m lolm_plugin.doctor.measured_run FOLDER CHECKOUT SECONDS`` reads a checked configuration from
``FOLDER/config.json`` and trains with the components and the loop of a real run. After each stage it writes its
measurements to ``FOLDER/measured.json``. CHECKOUT is EPyMARL's folder, or ``none``. The process ends after SECONDS.
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import psutil
import torch

from lolm_plugin import host as hosts
from lolm_plugin import strict_json, tuning
from lolm_plugin.configuration import config_check
from lolm_plugin.doctor.preflight import DONE, MEASURED, Measured
from lolm_plugin.errors import ConfigError, NonFiniteError
from lolm_plugin.run import loop
from lolm_plugin.run.components import play
from lolm_plugin.run.launch import console_logger
from lolm_plugin.tracking.provenance import peak_memory

# The first batch and the first update compile (JAX, oneDNN) and fill caches. If one round of both takes less than
# WARM_UP_SECONDS, more rounds follow, and the means leave out the first round.
WARM_UP_SECONDS = 10.0
ROUNDS = 3
# Errors of Python, PyTorch on a GPU, PyTorch on a CPU, and JAX.
SIGNS_OF_FULL_MEMORY = ("memoryerror", "out of memory", "can't allocate memory", "resource_exhausted")


class MeasuredTraining(loop.Training):
    """Training that stops after a few batches and records the time of each stage."""

    def __init__(self, note: Callable[..., None], *args: Any) -> None:
        """Store ``note(stage, **numbers)``, which writes the measurements. ``args`` are those of a training."""
        super().__init__(*args)
        self._note = note

    def _loop(self) -> None:
        began = time.time()
        rounds: list[dict[str, float]] = []
        while len(rounds) < ROUNDS and time.time() - began < WARM_UP_SECONDS:
            rounds.append(self._round())
            tokens, peaks = self.logger.stats.get("prompt_tokens_mean"), peak_memory()
            self._note(
                DONE,
                **{name: fmean(numbers[name] for numbers in rounds[1:] or rounds) for name in rounds[0]},
                start_seconds=began - psutil.Process().create_time(),
                tokens_per_decision=tokens[-1][1] if tokens else None,
                checkpoint_bytes=self._checkpoint_bytes(),
                peak_bytes=peaks.get("peak_memory_mb", 0.0) * 1e6,
                peak_gpu_bytes=peaks.get("peak_gpu_memory_mb", 0.0) * 1e6,
            )

    def _checkpoint_bytes(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            self._fill(Path(folder))
            return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())

    def _round(self) -> dict[str, float]:
        """Play one batch and make one update."""
        self._note("playing a batch")
        began, first_t = time.perf_counter(), self.runner.t_env
        batch = play(self.components)
        played = time.perf_counter()
        self._note("making an update", batch_seconds=played - began)
        self._learn_from(batch)
        # No decision follows the last step of an episode.
        steps = batch["filled"][:, :-1] * batch["filled"][:, 1:] > 0
        choices = (batch["avail_actions"][:, :-1] > 0).sum(-1) > 1
        return {
            "batch_seconds": played - began,
            "update_seconds": time.perf_counter() - played,
            "episodes": batch.batch_size,
            "env_steps": self.runner.t_env - first_t,
            "decisions": int((choices & steps).sum()),
        }


def measure(folder: Path, checkout: str) -> None:
    """Run the configuration in ``folder`` as ``launch`` does, but without Sacred. All files go into ``folder``."""
    measured = Measured()

    def note(stage: str, **numbers: Any) -> None:
        nonlocal measured
        measured = replace(measured, stage=stage, **numbers)
        unfinished = folder / f".{MEASURED}"  # a reader never sees a half-written file
        unfinished.write_text(strict_json.dumps(asdict(measured)))
        unfinished.replace(folder / MEASURED)

    config = json.loads((folder / "config.json").read_text())
    host = hosts.open_host(None if checkout == "none" else Path(checkout))
    hosts.register(host)
    policy = "language models" if config["mac"] == config_check.LLM_MAC else "small networks"
    torch.set_num_threads(config["torch_threads"] or tuning.threads(policy))
    config["seed"] = config["env_args"]["seed"] = config.get("seed") or 0
    np.random.seed(config["seed"])
    torch.manual_seed(config["seed"])
    try:
        loop.run(host, None, config, console_logger(), training=partial(MeasuredTraining, note))
    except (ConfigError, NonFiniteError) as error:
        note(measured.stage, error=str(error))
    except Exception as error:
        text = f"{type(error).__name__} {error}".lower()
        note(measured.stage, out_of_memory=any(sign in text for sign in SIGNS_OF_FULL_MEMORY))
        raise


if __name__ == "__main__":
    # The parent process may have died, so this process limits its own time.
    deadline = threading.Timer(float(sys.argv[3]), os._exit, [1])
    deadline.daemon = True
    deadline.start()
    measure(Path(sys.argv[1]), sys.argv[2])
