"""A training run of ``lolm_mappo_smol`` on SMAX that ends at a given time, and its curve."""

import time
from collections.abc import Mapping
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from lolm_plugin import host as hosts
from lolm_plugin import tuning
from lolm_plugin.configuration import config_check, config_files
from lolm_plugin.doctor.preflight import CHILD_SETTINGS
from lolm_plugin.paths import BUNDLED
from lolm_plugin.run import loop
from lolm_plugin.run.launch import console_logger

LOGGED = ("battle_won_mean", "return_mean", "entropy", "ratio_epoch0", "agent_steps_per_second", "llm_time_share")
TESTED = ("test_battle_won_mean", "test_sampled_battle_won_mean", "test_return_mean")


class TimedTraining(loop.Training):
    """Training that stops when its time is up, after a last test.

    Args:
        until: ``time.monotonic()`` at the end of the time.
        points: receives a point of the curve after each test.
        args: those of a training.
    """

    def __init__(self, until: float, points: list[dict[str, float]], *args: Any) -> None:
        super().__init__(*args)
        self._until, self._points, self._started = until, points, time.monotonic()
        self._test_seconds, self._round_ended = 0.0, self._started

    def _learn_from(self, batch: Any) -> None:
        super()._learn_from(batch)
        now = time.monotonic()
        if now + (now - self._round_ended) + self._test_seconds > self._until:  # no time for another batch and a test
            self.args.t_max = self.runner.t_env - 1  # the loop ends after this update, with a test
        self._round_ended = now

    def _test(self) -> bool:
        started = time.monotonic()
        played = super()._test()
        self._test_seconds = time.monotonic() - started
        series = {name: self.logger.stats[name][-1][1] for name in TESTED if self.logger.stats.get(name)}
        point = {"env_steps": self.runner.t_env, "seconds": round(time.monotonic() - self._started, 1)}
        self._points.append(point | {name: float(value) for name, value in series.items()})
        return played


def learn(changes: Mapping[str, Any], until: float) -> dict[str, Any]:
    """Train until ``time.monotonic()`` is ``until`` or ``t_max`` is reached; return the curve and the last statistics.

    ``changes`` are settings of ``lolm_mappo_smol``. Nothing is written outside a temporary folder.
    """
    host = hosts.open_host(None)
    hosts.register(host)
    points: list[dict[str, float]] = []
    with TemporaryDirectory(prefix="lolm-benchmark-") as folder:
        fixed = {**CHILD_SETTINGS, "local_results_path": folder, "runner_log_interval": 1, "seed": 1}
        resolved = config_files.resolve("lolm_mappo_smol", "smax", BUNDLED / "config")
        config = config_check.apply_updates(resolved, config_files.merge(changes, fixed), BUNDLED / "config")
        config_check.check(config)
        config["env_args"]["seed"] = config["seed"]
        torch.set_num_threads(config["torch_threads"] or tuning.threads("language models"))
        np.random.seed(config["seed"])
        torch.manual_seed(config["seed"])
        started, logs = time.monotonic(), Logs()
        loop.run(host, None, config, console_logger(), training=partial(logs.training, until, points))
    seconds = time.monotonic() - started
    return {
        "curve": points,
        "seconds": seconds,
        "env_steps": logs.env_steps,
        "env_steps_per_second": logs.env_steps / seconds,
        "finished": logs.env_steps > config["t_max"],
        "t_max": config["t_max"],
        "last": logs.last(),
        "settings": {"model": config["llm"]["model"], "pretrained": config["llm"]["pretrained"], **changes},
    }


class Logs:
    """Access to the statistics of a training that ``loop.run`` builds and runs."""

    def __init__(self) -> None:
        self._training: TimedTraining | None = None

    def training(self, until: float, points: list[dict[str, float]], *args: Any) -> TimedTraining:
        """Build the training and keep it."""
        self._training = TimedTraining(until, points, *args)
        return self._training

    @property
    def env_steps(self) -> int:
        """Environment steps of the training."""
        return self._training.runner.t_env if self._training else 0

    def last(self) -> dict[str, float]:
        """Return the last value of some series."""
        stats = self._training.logger.stats if self._training else {}
        return {name: float(stats[name][-1][1]) for name in LOGGED if stats.get(name)}
