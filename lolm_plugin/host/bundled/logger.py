"""Statistics to the console, to Sacred, and to TensorBoard or Weights & Biases by EPyMARL's switches."""

import logging
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from lolm_plugin.errors import ConfigError

WINDOW = 5  # the console shows the mean of so many last values; of epsilon the last one
COLUMNS = 4  # statistics in one line of the console


def open_logger(log: logging.Logger, args: Any, config: dict[str, Any], run: Any) -> "Logger":
    """See ``Host.open_logger``. Raises ConfigError for a kind of logging that lacks its package or its settings."""
    logger = Logger(log)
    if config["use_tensorboard"]:
        logger.trackers.append(TensorBoard(Path(args.local_results_path, "tb_logs", args.unique_token)))
    if config["use_wandb"]:
        tracker = WandB(config)
        logger.trackers.append(tracker)
        logger.wandb = tracker.run
    logger.setup_sacred(run)
    return logger


class Logger:
    """Keep every statistic in ``stats`` (name -> list of ``(t_env, value)``) and hand it to Sacred and the trackers.

    Sacred gets scalars only: its ``info`` is written again as a whole at every heartbeat, so it must not grow.
    """

    def __init__(self, console_logger: logging.Logger) -> None:
        self.console_logger = console_logger
        self.stats: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        self.trackers: list[TensorBoard | WandB] = []
        self.wandb: Any = None  # W&B's run
        self._run: Any = None

    def setup_sacred(self, run: Any) -> None:
        """Hand statistics to Sacred's run object ``run`` from now on."""
        self._run = run

    def log_stat(self, key: str, value: Any, t: int, to_sacred: bool = True) -> None:
        """Log ``value`` (a number, or a tensor or array with one element) at environment step ``t``."""
        value = float(value)
        self.stats[key].append((t, value))
        for tracker in self.trackers:
            tracker.log(key, value, t)
        if self._run is not None and to_sacred:
            self._run.log_scalar(key, value, t)

    def finish(self) -> None:
        """Close the trackers at the end of the run."""
        for tracker in self.trackers:
            tracker.finish()

    def print_recent_stats(self) -> None:
        """Write one table of every statistic to the console; ``episode`` must have been logged."""
        t_env, episode = self.stats["episode"][-1]
        cells = []
        for key in sorted(self.stats.keys() - {"episode"}):
            window = 1 if key == "epsilon" else WINDOW
            mean = fmean(value for _, value in self.stats[key][-window:])
            cells.append(f"{key + ':':<25}{mean:>8.4f}")
        lines = [f"Recent Stats | t_env: {t_env:>10} | Episode: {episode:>8.0f}"]
        lines += ["\t".join(cells[i : i + COLUMNS]) for i in range(0, len(cells), COLUMNS)]
        self.console_logger.info("\n".join(lines))


class TensorBoard:
    """Event files in ``folder``. Raises ConfigError without the package."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "use_tensorboard=True needs the package tensorboard, which is not installed; pip install tensorboard, "
                "or set use_tensorboard to False."
            ) from error
        self._writer: Any = SummaryWriter(str(folder))

    def log(self, key: str, value: float, t: int) -> None:
        """Write a value at environment step ``t``."""
        self._writer.add_scalar(key, value, t)

    def finish(self) -> None:
        """Write what is still in memory."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases, named and grouped as EPyMARL does. Raises ConfigError for what it lacks."""

    def __init__(self, config: dict[str, Any]) -> None:
        for key in ("wandb_team", "wandb_project"):
            if config[key] is None:
                raise ConfigError(f"use_wandb=True has nowhere to log to; set {key}, or use_wandb to False.")
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                "use_wandb=True needs the package wandb, which is not installed; pip install wandb, or set use_wandb "
                "to False."
            ) from error
        map_name = config["env_args"].get("map_name") or config["env_args"].get("key")
        self.run = wandb.init(
            entity=config["wandb_team"],
            project=config["wandb_project"],
            config=config,
            group=f"{config['name']}_{config['env']}_{map_name}",
            mode=config["wandb_mode"],
        )
        self._t, self._values = -1, dict[str, float]()

    def log(self, key: str, value: float, t: int) -> None:
        """Send the values of an environment step together, as W&B's steps can only rise."""
        if t > self._t:
            self._send()
            self._t = t
        self._values[key] = value

    def finish(self) -> None:
        """Send the last values and end the run."""
        self._send()
        self.run.finish()

    def _send(self) -> None:
        if self._values:
            self.run.log(self._values, step=self._t)
            self._values = {}
