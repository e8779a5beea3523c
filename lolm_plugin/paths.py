"""Where the plugin keeps what it downloads or converts."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The per-user cache: ``$LOLM_CACHE``, else ``$XDG_CACHE_HOME/lolm_plugin``, else ``~/.cache/lolm_plugin``.

    Nothing is created.
    """
    if own := os.environ.get("LOLM_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "lolm_plugin"
