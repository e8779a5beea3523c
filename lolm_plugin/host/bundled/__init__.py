"""Bundled host: EPyMARL's interface for machines without a checkout. It has no algorithms."""

from functools import partial
from pathlib import Path
from typing import Any

from lolm_plugin import __version__
from lolm_plugin.host.bundled.episode_batch import EpisodeBatch
from lolm_plugin.host.bundled.logger import open_logger
from lolm_plugin.host.interface import KINDS, Host
from lolm_plugin.registry import ENTRIES, Deferred


def load(path: Path) -> Host:
    """Return the bundled host, whose files are in ``path``."""
    registries: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    host = Host(
        name="bundled",
        path=path,
        version=__version__,
        config_dir=path / "config",
        registries=registries,
        EpisodeBatch=EpisodeBatch,
        env_maker=lambda name: host.find("env", name),
        open_logger=open_logger,
    )
    registries["env"]["gymma"] = Deferred("lolm_plugin.envs.gymma:make_env")
    # As in EPyMARL, runner=parallel starts batch_size_run processes.
    runners = {
        "episode": "lolm_plugin.runners.lockstep:EpisodeRunner",
        "parallel": ENTRIES["runner"]["supervised_parallel"],
    }
    registries["runner"] |= {name: partial(Deferred(where), host=host) for name, where in runners.items()}
    return host
