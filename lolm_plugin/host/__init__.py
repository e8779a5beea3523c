"""The program the plugin plugs into: the user's EPyMARL checkout, or the bundled stand-in.

``paths.locate`` finds it; torch and the host are imported by ``open_host`` alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lolm_plugin import registry
from lolm_plugin.errors import ConfigError
from lolm_plugin.paths import config_dir, use_host_config_dir

KINDS = ("env", "runner", "mac", "agent", "critic", "learner", "action_selector")


@dataclass(frozen=True)
class Host:
    """What the plugin needs of the program it plugs into.

    ``registries`` holds the host's own dicts under each of ``KINDS``, so an entry put there is seen by its
    loop; ``run(_run, config, log)`` trains or evaluates as ``config`` says, ``_run`` being Sacred's run object, with
    learners of the host's own (ours have ``run/loop.py``);
    ``open_logger(log, args, config, _run)`` is its logger of statistics, writing wherever ``args`` asks for;
    ``env_maker(name)`` gives the constructor ``(**env_args) -> env`` of an environment, which cloudpickle can carry
    to a fresh process: calling it there brings in what it needs. ConfigError when there is no such environment.
    ``version`` is the git commit of a checkout ("unknown" without git data) or the version of the plugin.
    """

    name: str
    path: Path
    version: str
    config_dir: Path
    registries: dict[str, dict[str, Any]]
    EpisodeBatch: type
    ReplayBuffer: type
    env_maker: Callable[[str], Callable[..., Any]]
    run: Callable[[Any, dict[str, Any], Any], None]
    open_logger: Callable[[Any, Any, dict[str, Any], Any], Any]

    def find(self, kind: str, name: str) -> Any:
        """The entry ``name`` of the registry ``kind``; ConfigError when there is none."""
        return find(self.registries, self.name, kind, name)

    def describe(self) -> str:
        """One line for the log: which host runs, from where."""
        if self.name == "bundled":
            return "Host: bundled (no EPyMARL checkout in use; set EPYMARL_HOME or --epymarl to use one)"
        return f"Host: {self.name} at {self.path} (commit {self.version[:7]})"


def find(registries: dict[str, dict[str, Any]], host: str, kind: str, name: str) -> Any:
    """The entry ``name`` of the registry ``kind`` of the host called ``host``; ConfigError when there is none."""
    table = registries[kind]
    if name in table:
        return table[name]
    elsewhere = ", or set EPYMARL_HOME to use what an EPyMARL checkout offers" if host == "bundled" else ""
    raise ConfigError(
        f"{kind}={name} is not known to the {host} host, which has {', '.join(sorted(table)) or 'none'}; "
        f"change {kind}{elsewhere}."
    )


def open_host(path: Path | None) -> Host:
    """Imports the host that ``paths.locate`` found.

    Raises ConfigError when the checkout cannot be imported: a package it needs is not installed, or another
    module already took one of its top-level names.
    """
    use_host_config_dir(config_dir(path))
    if path is None:
        from lolm_plugin.host import bundled

        return bundled.load()
    from lolm_plugin.host import epymarl

    return epymarl.load(path)


def register(host: Host) -> None:
    """Puts every entry of ``registry.ENTRIES`` into the host's dicts; doing so again changes nothing."""
    for kind, entries in registry.ENTRIES.items():
        table = host.registries[kind]
        for name, where in entries.items():
            assert name not in table or _where(table[name]) == where, f"{host.name} has its own {kind} {name!r}"
            entry = registry.Deferred(where)
            # Runners fill the host's batches and build its environments, and must not import a host for it.
            table[name] = partial(entry, host=host) if kind == "runner" else entry


def _where(entry: Any) -> str | None:
    return getattr(getattr(entry, "func", entry), "where", None)
