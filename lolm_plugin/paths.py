"""Where the plugin keeps what it downloads or converts, and where the host keeps its configuration."""

import os
from pathlib import Path

# Set once by the command line or the host that was opened: observations may not know what a host is.
_host_config_dir = Path("no-host")


def cache_dir() -> Path:
    """The per-user cache: ``$LOLM_CACHE``, else ``$XDG_CACHE_HOME/lolm_plugin``, else ``~/.cache/lolm_plugin``.

    Nothing is created.
    """
    if own := os.environ.get("LOLM_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "lolm_plugin"


def use_host_config_dir(path: Path) -> None:
    """Say where the host's ``default.yaml``, ``algs/`` and ``envs/`` are."""
    global _host_config_dir
    _host_config_dir = path


def host_config_dir() -> Path:
    """The folder that ``use_host_config_dir`` named last; one that does not exist before."""
    return _host_config_dir
