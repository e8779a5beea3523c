"""Find and open the program that the plugin plugs into: the user's EPyMARL checkout, or the bundled host.

Finding it and its configuration folder is cheap; only ``open_host`` imports torch and the host.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

from lolm_plugin import registry
from lolm_plugin.errors import ConfigError
from lolm_plugin.host.interface import KINDS, Host
from lolm_plugin.paths import cache_dir, use_host_config_dir

__all__ = ["BUNDLED", "KINDS", "NO_CHECKOUT", "Host", "config_dir", "is_checkout", "locate", "open_host", "register"]

BUNDLED = Path(__file__).parent / "bundled"
NO_CHECKOUT = ("none", "bundled")  # values of --epymarl and $EPYMARL_HOME that ask for the bundled host


def is_checkout(path: Path) -> bool:
    """Return whether ``path`` is the top folder of an EPyMARL checkout."""
    return (path / "src/run.py").is_file() and (path / "src/components/episode_buffer.py").is_file()


def locate(explicit: str | None) -> Path | None:
    """Return the EPyMARL checkout to use, or None for the bundled host.

    Looks in this order at ``explicit`` (the value of ``--epymarl``), ``$EPYMARL_HOME``, ``./epymarl``, ``../epymarl``
    and the per-user cache. The first two may also be ``none`` or ``bundled``.

    Raises:
        ConfigError: one of the first two names something that is no checkout.
    """
    for key, value in (("--epymarl", explicit), ("EPYMARL_HOME", os.environ.get("EPYMARL_HOME"))):
        if not value:
            continue
        if value.lower() in NO_CHECKOUT:
            return None
        path = Path(value).expanduser().resolve()
        if not is_checkout(path):
            raise ConfigError(
                f"{key}={value} is not an EPyMARL checkout (it has no src/run.py with "
                f"src/components/episode_buffer.py); point {key} at the folder that git clone made, "
                f"or set it to none to use the bundled host."
            )
        return path
    for guess in (Path("epymarl"), Path("../epymarl"), cache_dir() / "epymarl"):
        if is_checkout(guess):
            return guess.resolve()
    return None


def config_dir(path: Path | None) -> Path:
    """Return the folder of ``default.yaml``, and of ``algs/`` and ``envs/`` in a checkout, of what ``locate`` found."""
    return BUNDLED / "config" if path is None else path / "src/config"


def open_host(path: Path | None) -> Host:
    """Import the host that ``locate`` found.

    Raises:
        ConfigError: the checkout cannot be imported, as a package that it needs is not installed or another module has
            taken one of its top-level names.
    """
    use_host_config_dir(config_dir(path))
    if path is None:
        from lolm_plugin.host import bundled

        return bundled.load(BUNDLED)
    from lolm_plugin.host import epymarl

    return epymarl.load(path)


def register(host: Host) -> None:
    """Put every entry of ``registry.ENTRIES`` into the host's dicts; doing so again changes nothing."""
    for kind, entries in registry.ENTRIES.items():
        table = host.registries[kind]
        for name, where in entries.items():
            assert name not in table or _where(table[name]) == where, f"{host.name} has its own {kind} {name!r}"
            entry = registry.Deferred(where)
            # A runner fills the batches of the host and builds its environments, and imports no host for it.
            table[name] = partial(entry, host=host) if kind == "runner" else entry


def _where(entry: Any) -> str | None:
    return getattr(getattr(entry, "func", entry), "where", None)
