"""Statistics to the console and to Sacred."""

import logging
from collections import defaultdict
from statistics import fmean
from typing import Any

from lolm_plugin.errors import ConfigError

# The console shows the mean of this many last values; of epsilon the last one.
WINDOW = 5
COLUMNS = 4


def open_logger(log: logging.Logger, args: Any, config: dict[str, Any], run: Any) -> "Logger":
    """See ``Host.open_logger``. Raises ConfigError for a kind of logging that only EPyMARL has."""
    for key in ("use_tensorboard", "use_wandb"):
        if config[key]:
            raise ConfigError(f"{key}=True needs the EPyMARL host; set EPYMARL_HOME, or {key} to False.")
    logger = Logger(log)
    logger.setup_sacred(run)
    return logger


class Logger:
    """Keeps every statistic in ``stats`` (name -> list of ``(t_env, value)``) and hands it to Sacred.

    Sacred gets scalars only: its ``info`` is written again as a whole at every heartbeat, so it must not grow.
    """

    def __init__(self, console_logger: logging.Logger) -> None:
        self.console_logger = console_logger
        self.stats: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        self._run: Any = None

    def setup_sacred(self, run: Any) -> None:
        """From now on, statistics go to Sacred's run object ``run`` as well."""
        self._run = run

    def log_stat(self, key: str, value: Any, t: int, to_sacred: bool = True) -> None:
        """Logs ``value`` (a number, or a tensor or array with one element) at environment step ``t``."""
        value = float(value)
        self.stats[key].append((t, value))
        if self._run is not None and to_sacred:
            self._run.log_scalar(key, value, t)

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
