"""EPyMARL's switches for TensorBoard and Weights & Biases."""

from pathlib import Path
from typing import Any

from lolm_plugin.errors import ConfigError


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
        self._writer = SummaryWriter(str(folder))

    def log(self, key: str, value: float, t: int) -> None:
        """One value at an environment step."""
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
        arguments = config["env_args"]
        place = arguments.get("map_name") or arguments.get("key")
        self.run = wandb.init(
            entity=config["wandb_team"],
            project=config["wandb_project"],
            config=config,
            group=f"{config['name']}_{config['env']}_{place}",
            mode=config["wandb_mode"],
        )
        self._t, self._values = -1, {}

    def log(self, key: str, value: float, t: int) -> None:
        """One value at an environment step; those of a step go together, as W&B's steps only rise."""
        if t > self._t:
            self._send()
            self._t = t
        self._values[key] = value

    def finish(self) -> None:
        """Send what is still here, and end the run."""
        self._send()
        self.run.finish()

    def _send(self) -> None:
        if self._values:
            self.run.log(self._values, step=self._t)
            self._values = {}
