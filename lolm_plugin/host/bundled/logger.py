"""Log statistics to the console, to Sacred and, if the settings ask for it, to TensorBoard, W&B or Trackio."""

import logging
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from lolm_plugin.errors import ConfigError
from lolm_plugin.tracking.steps import StepTracker, Trackio

WINDOW = 5  # the console shows the mean of this number of last values; for epsilon only the last value
COLUMNS = 4  # statistics in one console line


def open_logger(log: logging.Logger, args: Any, config: dict[str, Any], run: Any) -> "Logger":
    """Return a logger; see ``Host.open_logger``. Raises ConfigError if a tracker lacks a package or a setting."""
    logger = Logger(log)
    if config["use_tensorboard"]:
        logger.trackers.append(TensorBoard(Path(args.local_results_path, "tb_logs", args.unique_token)))
    if config["use_wandb"]:
        tracker = WandB(config)
        logger.trackers.append(tracker)
        logger.wandb = tracker.run
    if getattr(args, "use_trackio", False):
        logger.trackers.append(Trackio(config, args.unique_token))
    logger.setup_sacred(run)
    return logger


class Logger:
    """Logger that keeps every statistic and passes it to Sacred and the trackers.

    ``stats`` maps a name to its list of ``(t_env, value)``. Sacred gets scalars only: its ``info`` is written again
    completely at every heartbeat, so it must not grow.
    """

    def __init__(self, console_logger: logging.Logger) -> None:
        self.console_logger = console_logger
        self.stats: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        self.trackers: list[TensorBoard | WandB | Trackio] = []
        self.wandb: Any = None  # W&B's run
        self._run: Any = None

    def setup_sacred(self, run: Any) -> None:
        """Pass statistics to Sacred's run object ``run`` from now on."""
        self._run = run

    def log_stat(self, key: str, value: Any, t: int, to_sacred: bool = True) -> None:
        """Log ``value`` (a number, or a tensor or array with one element) at environment step ``t``."""
        value = float(value)
        self.stats[key].append((t, value))
        for tracker in self.trackers:
            tracker.log(key, value, t)
        if self._run is not None and to_sacred:
            self._run.log_scalar(key, value, t)

    def log_page(self, key: str, page: Path) -> None:
        """Pass an html page to the trackers, at the last step."""
        for tracker in self.trackers:
            tracker.log_page(key, page)

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
    """TensorBoard event files in ``folder``. Raises ConfigError if the package is missing."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "use_tensorboard=True needs the package tensorboard, which is not installed; pip install tensorboard, "
                "or set use_tensorboard to False."
            ) from error
        self._writer: Any = SummaryWriter(str(folder))
        self._t = 0

    def log(self, key: str, value: float, t: int) -> None:
        """Write a value at environment step ``t``."""
        self._t = t
        self._writer.add_scalar(key, value, t)

    def log_page(self, key: str, page: Path) -> None:
        """Write where the page is, because TensorBoard shows no html."""
        self._writer.add_text(key, f"Open `{page}` in a browser.", self._t)

    def finish(self) -> None:
        """Write buffered values and close the file."""
        self._writer.close()


class WandB(StepTracker):
    """Weights & Biases run, named and grouped as in EPyMARL. Raises ConfigError if a package or setting is missing."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
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
        self._html = wandb.Html

    def log_page(self, key: str, page: Path) -> None:
        """Add an html page to the last step."""
        self._values[key] = self._html(page.read_text(encoding="utf-8"), inject=False)
