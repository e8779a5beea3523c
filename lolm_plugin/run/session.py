"""Inputs of a training run, and the facts about it that its checkpoints store."""

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from lolm_plugin import __version__
from lolm_plugin.checkpoints import Checkpoint
from lolm_plugin.host import Host
from lolm_plugin.run.components import RunComponents
from lolm_plugin.run.resuming import Resumed
from lolm_plugin.run.stopping import StopRequests

PACKAGES = ("torch", "transformers", "peft", "safetensors", "numpy", "sacred")  # results depend on their versions


@dataclass(frozen=True)
class Session:
    """Inputs of a training run: host, Sacred's run object, configuration and start.

    ``start`` is the checkpoint that it continues from. ``resume`` is set if it continues that checkpoint's own run.
    """

    host: Host
    sacred_run: Any
    config: dict[str, Any]
    stop: StopRequests
    start: Checkpoint | None = None
    resume: Resumed | None = None

    def facts(self, components: RunComponents) -> dict[str, Any]:
        """Return the facts about the run that each of its checkpoints stores."""
        args, config = components.args, self.config
        before = self.start.facts if self.start and self.resume else {}
        record, began = sacred_folder(self.sacred_run), getattr(self.sacred_run, "start_time", None)
        # The number of a removed record is used again; the start time, which is also in run.json, is unique.
        start_times = [(record, began.isoformat())] if record and began else []
        # The number of threads is measured. A resumed run keeps it, because other numbers sum in another order.
        resolved = {"torch_threads": torch.get_num_threads()} if "torch_threads" in config else {}
        return {
            "algorithm": args.name,
            "env": args.env,
            "env_args": {key: value for key, value in config["env_args"].items() if key != "seed"},
            "seed": args.seed,
            "sizes": {name: getattr(args, name) for name in ("n_agents", "n_actions", "state_shape")},
            "host": {"name": self.host.name, "version": self.host.version},
            "version": __version__,
            "packages": _package_versions(),
            "sacred_runs": [*before.get("sacred_runs", []), record],
            "sacred_starts": [*before.get("sacred_starts", []), *start_times],
            "transfer": before.get("transfer") if before else getattr(self.sacred_run, "info", {}).get("transfer"),
            "config": {**config, "env_args": {**config["env_args"], "seed": None}},  # as in the record
            "resolved_settings": resolved,
        }


def sacred_folder(sacred_run: Any) -> str | None:
    """Return the folder of Sacred's file record, if there is one."""
    folders = [getattr(observer, "dir", None) for observer in getattr(sacred_run, "observers", None) or []]
    return next((str(folder) for folder in folders if folder), None)


def _package_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
