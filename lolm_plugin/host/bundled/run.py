"""The loop: play, store, train, test now and then, save now and then."""

import datetime
import logging
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from typing import Any

import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.host.bundled import find
from lolm_plugin.host.bundled.episode_batch import ReplayBuffer, Scheme
from lolm_plugin.host.bundled.logger import Logger
from lolm_plugin.host.bundled.transforms import OneHot


@dataclass
class Parts:
    """What one run is made of."""

    args: Namespace
    logger: Logger
    runner: Any
    buffer: ReplayBuffer
    learner: Any


def run(_run: Any, config: dict[str, Any], log: logging.Logger) -> None:
    """Trains or evaluates as ``config`` says; ``_run`` is Sacred's run object.

    Raises ConfigError for a name that is not registered, a checkpoint that does not exist and a kind of
    logging that only EPyMARL has.
    """
    args = Namespace(**_checked(config, log))
    args.device = "cuda" if args.use_cuda else "cpu"
    place = args.env_args.get("map_name") or args.env_args["key"]
    args.unique_token = f"{args.name}_seed{args.seed}_{place}_{datetime.datetime.now()}"
    logger = Logger(log)
    logger.setup_sacred(_run)
    log.info("Experiment Parameters:\n%s\n", pformat(config, indent=4, width=1))

    # Before anything slow is built.
    checkpoint = _find_checkpoint(args) if args.checkpoint_path else None
    runner = find("runner", args.runner)(args=args, logger=logger)
    try:
        parts = assemble(args, logger, runner)
        if checkpoint is not None:
            log.info("Loading model from %s", checkpoint)
            parts.learner.load_models(str(checkpoint))
            runner.t_env = int(checkpoint.name)
        if checkpoint is not None and (args.evaluate or args.save_replay):
            _evaluate(parts)
            log.info("Finished Evaluation")
        else:
            _train(parts)
            log.info("Finished Training")
    finally:
        runner.close_env()


def _checked(config: dict[str, Any], log: logging.Logger) -> dict[str, Any]:
    config = dict(config)
    for key in ("use_tensorboard", "use_wandb"):
        if config[key]:
            raise ConfigError(f"{key}=True needs the EPyMARL host; set EPYMARL_HOME, or {key} to False.")
    if config["use_cuda"] and not torch.cuda.is_available():
        config["use_cuda"] = False
        log.warning("use_cuda was switched off, as no CUDA device is available.")
    # Tests run in rounds of batch_size_run episodes.
    rounds = max(1, config["test_nepisode"] // config["batch_size_run"])
    config["test_nepisode"] = rounds * config["batch_size_run"]
    return config


def _find_checkpoint(args: Namespace) -> Path:
    folder = Path(args.checkpoint_path)
    steps = [int(step.name) for step in folder.glob("*") if step.is_dir() and step.name.isdigit()]
    if not steps:
        problem = "has no checkpoint (no folder named by a step)" if folder.is_dir() else "is not a folder"
        raise ConfigError(
            f"checkpoint_path={args.checkpoint_path} {problem}; set checkpoint_path to a folder like "
            f"results/models/<run>, or to '' to start afresh."
        )
    # load_step=0 asks for the last one, any other for the nearest.
    step = max(steps) if args.load_step == 0 else min(steps, key=lambda step: abs(step - args.load_step))
    return folder / str(step)


def assemble(args: Namespace, logger: Logger, runner: Any) -> Parts:
    """Builds buffer, controller and learner for the environments of ``runner``, whose sizes ``args`` gets."""
    info = runner.get_env_info()
    args.n_agents = info["n_agents"]
    args.n_actions = info["n_actions"]
    args.state_shape = info["state_shape"]

    scheme: Scheme = {
        "state": {"vshape": info["state_shape"]},
        "obs": {"vshape": info["obs_shape"], "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (info["n_actions"],), "group": "agents", "dtype": torch.int},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
        "reward": {"vshape": (1 if args.common_reward else args.n_agents,)},
    }
    groups = {"agents": args.n_agents}
    preprocess = {"actions": ("actions_onehot", [OneHot(args.n_actions)])}
    buffer = ReplayBuffer(
        scheme,
        groups,
        args.buffer_size,
        info["episode_limit"] + 1,
        preprocess=preprocess,
        device="cpu" if args.buffer_cpu_only else args.device,
    )
    mac = find("mac", args.mac)(buffer.scheme, groups, args)
    runner.setup(scheme=scheme, groups=groups, preprocess=preprocess, mac=mac)
    learner = find("learner", args.learner)(mac, buffer.scheme, logger, args)
    if args.use_cuda:
        learner.cuda()
    return Parts(args, logger, runner, buffer, learner)


def _evaluate(parts: Parts) -> None:
    args, logger, runner = parts.args, parts.logger, parts.runner
    # No training statistics are due.
    runner.log_train_stats_t = runner.t_env
    for _ in range(args.test_nepisode):
        runner.run(test_mode=True)
    if args.save_replay:
        runner.save_replay()
    logger.log_stat("episode", runner.t_env, runner.t_env)
    logger.print_recent_stats()


def _train(parts: Parts) -> None:
    args, logger, runner, log = parts.args, parts.logger, parts.runner, parts.logger.console_logger
    episode = 0
    first_t, started = runner.t_env, time.monotonic()
    last_test_t = -args.test_interval - 1
    last_log_t = 0
    last_save_t = 0

    log.info("Beginning training for %s timesteps", args.t_max)
    while runner.t_env <= args.t_max:
        play_and_learn(parts, episode)

        if runner.t_env - last_test_t >= args.test_interval:
            elapsed = time.monotonic() - started
            left = elapsed * max(0, args.t_max - runner.t_env) / (runner.t_env - first_t)
            log.info("t_env: %s / %s", runner.t_env, args.t_max)
            log.info("Estimated time left: %s. Time passed: %s", _duration(left), _duration(elapsed))
            last_test_t = runner.t_env
            for _ in range(max(1, args.test_nepisode // runner.batch_size)):
                runner.run(test_mode=True)

        if args.save_model and (last_save_t == 0 or runner.t_env - last_save_t >= args.save_model_interval):
            last_save_t = runner.t_env
            folder = Path(args.local_results_path, "models", args.unique_token, str(runner.t_env))
            folder.mkdir(parents=True, exist_ok=True)
            log.info("Saving models to %s", folder)
            parts.learner.save_models(str(folder))

        episode += args.batch_size_run
        if runner.t_env - last_log_t >= args.log_interval:
            logger.log_stat("episode", episode, runner.t_env)
            logger.print_recent_stats()
            last_log_t = runner.t_env


def play_and_learn(parts: Parts, episode: int) -> None:
    """One ``run`` into the buffer and, once there is enough in it, one update; ``episode`` were played before."""
    args, buffer, runner = parts.args, parts.buffer, parts.runner
    buffer.insert_episode_batch(runner.run(test_mode=False))
    if buffer.can_sample(args.batch_size):
        sample = buffer.sample(args.batch_size)
        sample = sample[:, : int(sample.max_t_filled())]
        if sample.device != args.device:
            sample.to(args.device)
        parts.learner.train(sample, runner.t_env, episode)


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
