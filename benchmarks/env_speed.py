"""How fast a small network plays and learns SMAX in the vector runner, and where a rollout's time goes."""

import logging
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from lolm_plugin.configuration import config_files
from lolm_plugin.host import open_host, register
from lolm_plugin.paths import BUNDLED
from lolm_plugin.run.components import Parts, assemble, play

WARM_UP = 2  # rounds: jax compiles, torch allocates, the probes of the first battles are done


def measure(
    envs: int = 32,
    map_name: str = "3m",
    seconds: float = 20.0,
    algorithm: str = "updet_mappo",
    threads: Sequence[int] = (1, 2),
    seed: int = 1,
) -> dict[str, float]:
    """Env steps a second of rollout alone and of training, at whichever of the ``threads`` trains fastest.

    An env step is one joint step of one battle. ``seconds`` is how long each of rollout, its parts and, for each
    number of threads, training are measured. The parts of a rollout are shares of its time: ``env``, ``network``
    (its forward passes), ``controller`` (masks, sampling, records) and ``runner`` (the rest). ``outside`` is
    controller and runner together; ``outside_of_training`` the same as a share of a step of training.
    """
    before = torch.get_num_threads()
    try:
        return _measure(_parts(algorithm, envs, map_name, seed), seconds, threads)
    finally:
        torch.set_num_threads(before)


def _measure(parts: Parts, seconds: float, threads: Sequence[int]) -> dict[str, float]:
    def train() -> None:
        parts.learner.train(play(parts), parts.runner.t_env, 0)

    for _ in range(WARM_UP):
        train()
    training = {}
    for count in threads:
        torch.set_num_threads(count)
        training[count] = _steps_per_second(parts, train, seconds)
    best = max(training, key=lambda count: training[count])
    torch.set_num_threads(best)
    rollout = _steps_per_second(parts, parts.runner.run, seconds)
    shares = _shares(parts, seconds)
    outside = shares["controller"] + shares["runner"]
    return {
        "envs": parts.args.batch_size_run,
        "threads": best,
        "rollout_steps_per_second": rollout,
        "training_steps_per_second": training[best],
        **{f"training_steps_per_second_{count}_threads": speed for count, speed in training.items()},
        **shares,
        "outside": outside,
        "outside_of_training": outside * training[best] / rollout,
    }


def _parts(algorithm: str, envs: int, map_name: str, seed: int) -> Parts:
    """Runner, controller and learner as a training run has them, without its files and its log."""
    host = open_host(None)
    register(host)
    run = {"env_args": {"map_name": map_name, "seed": seed}, "seed": seed, "use_cuda": False}
    sizes = dict.fromkeys(("batch_size_run", "batch_size", "buffer_size"), envs)
    config = config_files.resolve(algorithm, "smax", BUNDLED / "config").config
    args = Namespace(**config_files.merge(config, {**run, **sizes}), device="cpu")
    logger: Any = SimpleNamespace(log_stat=lambda *_: None, console_logger=logging.getLogger(__name__))
    return assemble(host, args, logger, host.registries["runner"]["vector"](args=args, logger=logger))


def _steps_per_second(parts: Parts, play: Callable[[], Any], seconds: float) -> float:
    """Of ``play``, again and again for about so long."""
    steps, started = parts.runner.t_env, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        play()
    return (parts.runner.t_env - steps) / elapsed


def _shares(parts: Parts, seconds: float) -> dict[str, float]:
    runner, spent = parts.runner, defaultdict(float)
    timed = (
        (runner.env, "reset", "env"),
        (runner.env, "step", "env"),
        (runner.mac, "select_actions", "select"),
        (runner.mac.agent, "evaluate", "network"),
        (runner, "run", "all"),
    )
    for owner, method, name in timed:
        setattr(owner, method, _timed(getattr(owner, method), spent, name))
    try:
        _steps_per_second(parts, runner.run, seconds)
    finally:
        for owner, method, _ in timed:
            delattr(owner, method)  # the class has its own
    seconds_of = {
        "env": spent["env"],
        "network": spent["network"],
        "controller": spent["select"] - spent["network"],
        "runner": spent["all"] - spent["env"] - spent["select"],
    }
    return {name: value / spent["all"] for name, value in seconds_of.items()}


def _timed(function: Callable[..., Any], spent: dict[str, float], name: str) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - started

    return run
