"""Trackers that get all values of an environment step at once: the base class, and Trackio."""

from pathlib import Path
from typing import Any

from lolm_plugin.errors import ConfigError
from lolm_plugin.maps import label


class StepTracker:
    """Sends the values of a step together to ``run``, because W&B's steps can only increase."""

    run: Any

    def __init__(self) -> None:
        self._t, self._values = -1, dict[str, Any]()

    def log(self, key: str, value: Any, t: int) -> None:
        """Add a value of environment step ``t``."""
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


class Trackio(StepTracker):
    """Run of Trackio, a board on this machine (``trackio show``). A project has the runs of one map.

    A resumed run continues its run of the same name.

    Raises:
        ConfigError: the package is missing.
    """

    def __init__(self, config: dict[str, Any], name: str) -> None:
        super().__init__()
        try:
            import trackio
        except ImportError as error:
            raise ConfigError(
                "use_trackio=True needs the package trackio, which is not installed; pip install "
                "'lolm_plugin[trackio]', or set use_trackio to False."
            ) from error
        self._html = trackio.Html
        map_name = label(config["env_args"].get("map_name") or config["env_args"].get("key"))
        self.run = trackio.init(
            project=f"{config['env']}-{map_name}",
            name=name,
            group=config["name"],
            config=config,
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def log_page(self, key: str, page: Path) -> None:
        """Add an html page to the last step."""
        self._values[key] = self._html(page, inject=False)
