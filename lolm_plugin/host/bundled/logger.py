"""Statistics to the console and to Sacred."""

import logging
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from lolm_plugin.host.bundled.trackers import TensorBoard, WandB

# The console shows the mean of this many last values; of epsilon the last one.
WINDOW = 5
COLUMNS = 4


def open_logger(log: logging.Logger, args: Any, config: dict[str, Any], run: Any) -> "Logger":
    """See ``Host.open_logger``. Raises ConfigError for a kind of logging whose package is missing."""
    logger = Logger(log)
    if config["use_tensorboard"]:
        logger.trackers.append(TensorBoard(Path(args.local_results_path, "tb_logs", args.unique_token)))
    if config["use_wandb"]:
        found = WandB(config)
        logger.trackers.append(found)
        logger.wandb = found.run
    logger.setup_sacred(run)
    return logger


class Logger:
    """Keeps every statistic in ``stats`` (name -> list of ``(t_env, value)``) and hands it to Sacred.

    Sacred gets scalars only: its ``info`` is written again as a whole at every heartbeat, so it must not grow.
    """

    def __init__(self, console_logger: logging.Logger) -> None:
        self.console_logger = console_logger
        self.stats: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        self.trackers: list[TensorBoard | WandB] = []
        self.wandb: Any = None  # W&B's run, where there is one
        self._run: Any = None

    def setup_sacred(self, run: Any) -> None:
        """From now on, statistics go to Sacred's run object ``run`` as well."""
        self._run = run

    def log_stat(self, key: str, value: Any, t: int, to_sacred: bool = True) -> None:
        """Logs ``value`` (a number, or a tensor or array with one element) at environment step ``t``."""
        value = float(value)
        self.stats[key].append((t, value))
        for tracker in self.trackers:
            tracker.log(key, value, t)
        if self._run is not None and to_sacred:
            self._run.log_scalar(key, value, t)

    def finish(self) -> None:
        """The run is over."""
        for tracker in self.trackers:
            tracker.finish()

    def print_recent_stats(self) -> None:
        """Writes one table of every statistic to the console; ``episode`` must have been logged."""
        t_env, episode = self.stats["episode"][-1]
        cells = []
        for key in sorted(self.stats.keys() - {"episode"}):
            window = 1 if key == "epsilon" else WINDOW
            mean = fmean(value for _, value in self.stats[key][-window:])
            cells.append(f"{key + ':':<25}{mean:>8.4f}")
        lines = [f"Recent Stats | t_env: {t_env:>10} | Episode: {episode:>8.0f}"]
        lines += ["\t".join(cells[i : i + COLUMNS]) for i in range(0, len(cells), COLUMNS)]
        self.console_logger.info("\n".join(lines))
