"""The program the plugin plugs into: the user's EPyMARL checkout, or the bundled stand-in.

Finding the host and its configuration folder is cheap; torch and the host are imported by ``open_host`` alone.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lolm_plugin import registry
from lolm_plugin.errors import ConfigError
from lolm_plugin.paths import cache_dir, use_host_config_dir

KINDS = ("env", "runner", "mac", "agent", "critic", "learner", "action_selector")
BUNDLED = Path(__file__).parent / "bundled"

# Values of ``--epymarl`` and ``$EPYMARL_HOME`` that ask for the bundled host.
NO_CHECKOUT = ("none", "bundled")


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


def is_checkout(path: Path) -> bool:
    """Whether ``path`` is the top folder of an EPyMARL checkout."""
    return (path / "src/run.py").is_file() and (path / "src/components/episode_buffer.py").is_file()


def locate(explicit: str | None) -> Path | None:
    """The EPyMARL checkout to use, or None for the bundled host.

    Looked for in this order: ``explicit`` (the value of ``--epymarl``), ``$EPYMARL_HOME``, ``./epymarl``,
    ``../epymarl``, the per-user cache. The first two may also say ``none`` or ``bundled``.

    Raises ConfigError when one of the first two names something that is no checkout.
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
    """The folder with ``default.yaml`` (and, in a checkout, ``algs/`` and ``envs/``) of what ``locate`` found."""
    return BUNDLED / "config" if path is None else path / "src/config"


def open_host(path: Path | None) -> Host:
    """Imports the host that ``locate`` found.

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
