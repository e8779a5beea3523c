"""The process that ``preflight`` measures: the run itself, for a few batches.

``python -m lolm_plugin.doctor.measured_run FOLDER CHECKOUT SECONDS`` reads a checked configuration from
``FOLDER/config.json``, trains with the components and the loop of a real run, and writes what it measured, after each
stage, to ``FOLDER/measured.json``. CHECKOUT is EPyMARL's, or ``none``. It ends itself after SECONDS.
"""

import json
import os
import sys
import threading
import time
from dataclasses import asdict
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
from lolm_plugin.doctor.preflight import MEASURED, Measured
from lolm_plugin.errors import ConfigError, NumbersError
from lolm_plugin.run import loop
from lolm_plugin.run.components import play
from lolm_plugin.run.launch import console_logger
from lolm_plugin.tracking.provenance import peak_memory

# The first batch and the first update compile (JAX, oneDNN) and fill caches. Where one round of both takes less than
# WARM_UP_SECONDS, more rounds follow, and the first one is left out of the means.
WARM_UP_SECONDS = 10.0
ROUNDS = 3


class MeasuredTraining(loop.Training):
    """A training that stops after a few batches and notes how long each stage took."""

    def __init__(self, folder: Path, measured: Measured, *args: Any) -> None:
        """``folder``: where to write ``measured``; ``args``: as for a training."""
        super().__init__(*args)
        self._folder, self._measured = folder, measured

    def _loop(self) -> None:
        measured, began = self._measured, time.time()
        measured.start_seconds = began - psutil.Process().create_time()
        rounds = []
        while len(rounds) < ROUNDS and time.time() - began < WARM_UP_SECONDS:
            rounds.append(self._round())
            for name in rounds[0]:
                setattr(measured, name, fmean(numbers[name] for numbers in rounds[1:] or rounds))
        prompt_tokens = self.logger.stats.get("prompt_tokens_mean")
        if prompt_tokens:
            measured.tokens_per_decision = prompt_tokens[-1][1]
        checkpoint = self._folder / "checkpoint"
        checkpoint.mkdir()
        self._fill(checkpoint)
        measured.checkpoint_bytes = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
        measured.peak_memory_mb = peak_memory()
        write(self._folder, measured, "done")

    def _round(self) -> dict[str, float]:
        """Play one batch and make one update."""
        write(self._folder, self._measured, "playing a batch")
        began, first_t = time.perf_counter(), self.runner.t_env
        batch = play(self.parts)
        played = time.perf_counter()
        if not self._measured.batch_seconds:
            self._measured.batch_seconds = played - began
        write(self._folder, self._measured, "making an update")
        self._learn_from(batch)
        # The last step of an episode is followed by no decision.
        steps = batch["filled"][:, :-1] * batch["filled"][:, 1:] > 0
        choices = (batch["avail_actions"][:, :-1] > 0).sum(-1) > 1
        return {
            "batch_seconds": played - began,
            "update_seconds": time.perf_counter() - played,
            "episodes": batch.batch_size,
            "env_steps": self.runner.t_env - first_t,
            "decisions": int((choices & steps).sum()),
        }


def write(folder: Path, measured: Measured, stage: str) -> None:
    """Write what was measured so far, whole or not at all."""
    measured.stage = stage
    unfinished = folder / f".{MEASURED}"
    unfinished.write_text(strict_json.dumps(asdict(measured)))
    unfinished.replace(folder / MEASURED)


def measure(folder: Path, checkout: str) -> None:
    """Run the configuration in ``folder`` as ``launch`` does, without Sacred, into ``folder``."""
    config = json.loads((folder / "config.json").read_text())
    host = hosts.open_host(None if checkout == "none" else Path(checkout))
    hosts.register(host)
    policy = "language models" if config["mac"] == config_check.LLM_MAC else "small networks"
    torch.set_num_threads(config["torch_threads"] or tuning.threads(policy))
    config["seed"] = config["env_args"]["seed"] = config.get("seed") or 0
    np.random.seed(config["seed"])
    torch.manual_seed(config["seed"])
    measured = Measured()
    try:
        loop.run(host, None, config, console_logger(), training=partial(MeasuredTraining, folder, measured))
    except (ConfigError, NumbersError) as error:
        measured.error = str(error)
    except Exception as error:
        measured.error = f"{type(error).__name__}: {error}"
        text = measured.error.lower()
        measured.out_of_memory = isinstance(error, MemoryError) or any(
            words in text for words in ("out of memory", "can't allocate memory", "resource_exhausted")
        )
        raise
    finally:
        write(folder, measured, measured.stage)


if __name__ == "__main__":
    # Whoever started this process may be gone by then.
    deadline = threading.Timer(float(sys.argv[3]), os._exit, [1])
    deadline.daemon = True
    deadline.start()
    measure(Path(sys.argv[1]), sys.argv[2])
