"""Open the host program: the user's EPyMARL checkout, or the bundled host.

``paths.locate`` finds it. Only ``open_host`` imports torch and the host.
"""

from functools import partial
from pathlib import Path
from typing import Any

from lolm_plugin import registry
from lolm_plugin.host.interface import KINDS, Host
from lolm_plugin.paths import BUNDLED, config_dir, use_host_config_dir

__all__ = ["KINDS", "Host", "open_host", "register"]


def open_host(path: Path | None) -> Host:
    """Import the host that ``paths.locate`` found.

    Raises:
        ConfigError: the checkout cannot be imported. A package is missing, or another module has one of its top-level
            names.
    """
    use_host_config_dir(config_dir(path))
    if path is None:
        from lolm_plugin.host import bundled

        return bundled.load(BUNDLED)
    from lolm_plugin.host import epymarl

    return epymarl.load(path)


def register(host: Host) -> None:
    """Add every entry of ``registry.ENTRIES`` to the host's registries; a second call changes nothing."""
    for kind, entries in registry.ENTRIES.items():
        table = host.registries[kind]
        for name, where in entries.items():
            assert name not in table or _where(table[name]) == where, f"{host.name} has its own {kind} {name!r}"
            entry = registry.Deferred(where)
            # A runner needs the host's batches and environments; it gets the host here and imports none.
            table[name] = partial(entry, host=host) if kind == "runner" else entry


def _where(entry: Any) -> str | None:
    return getattr(getattr(entry, "func", entry), "where", None)
