"""Interface between the plugin and its host program."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lolm_plugin.errors import ConfigError

KINDS = ("env", "runner", "mac", "agent", "critic", "learner", "action_selector")


@dataclass(frozen=True)
class Host:
    """EPyMARL, or the bundled host in its place.

    registries: the host's own dicts, one for each of ``KINDS``; a configuration can name every entry
    env_maker: name of an environment -> its constructor ``(**env_args) -> env``. cloudpickle can send it to a fresh
        process, where it imports what it needs. ConfigError if there is no such environment
    open_logger: ``(log, args, config, _run)`` -> a logger of statistics with the outputs that ``args`` selects. Its
        ``log_page(key, file)`` passes an html page to the outputs that can show one
    run: ``(_run, config, log)`` trains or evaluates with one of the host's own learners; ``_run`` is Sacred's run
        object. None: the host has no learners
    version: the git commit of a checkout ("unknown" without git data), or the version of the plugin
    """

    name: str
    path: Path
    version: str
    config_dir: Path
    registries: dict[str, dict[str, Any]]
    EpisodeBatch: Callable[..., Any]
    env_maker: Callable[[str], Callable[..., Any]]
    open_logger: Callable[[Any, Any, dict[str, Any], Any], Any]
    run: Callable[[Any, dict[str, Any], Any], None] | None = None

    def find(self, kind: str, name: str) -> Any:
        """Return the entry ``name`` of the registry ``kind``. Raises ConfigError if there is none."""
        table = self.registries[kind]
        if name in table:
            return table[name]
        checkout = ", or set EPYMARL_HOME to use what an EPyMARL checkout offers" if self.name == "bundled" else ""
        raise ConfigError(
            f"{kind}={name} is not known to the {self.name} host, which has {', '.join(sorted(table)) or 'none'}; "
            f"change {kind}{checkout}."
        )

    def describe(self) -> str:
        """Return a log line with the host's name, path and commit."""
        if self.name == "bundled":
            return "Host: bundled (no EPyMARL checkout in use; set EPYMARL_HOME or --epymarl to use one)"
        return f"Host: {self.name} at {self.path} (commit {self.version[:7]})"
