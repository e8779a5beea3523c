"""Parse the command line that several commands share, and resolve it to a configuration and a host.

``--config --env-config with KEY=VALUE`` and Sacred's flags are exactly EPyMARL's command line.
"""

import argparse
import functools
import logging
import math
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from docopt import docopt

from lolm_plugin.configuration import config_check, config_files, unread_keys, updates
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import hidden_words
from lolm_plugin.paths import config_dir, locate, use_host_config_dir

SACRED_COMMANDS = ("print_config", "print_dependencies", "save_config")


class Parser(argparse.ArgumentParser):
    """Argument parser of one command. A wrong option raises ConfigError."""

    def __init__(self, prog: str, description: str, usage: str | None = None) -> None:
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, usage, description, formatter_class=form, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{message.removeprefix('argument ')}; see {self.prog} --help.")

    def add_run(self, algorithms: str = "the algorithm", environments: str = "the environment") -> None:
        """Add the options that choose a run's files and host."""
        self.add_argument("--config", metavar="NAME|PATH.yaml", help=algorithms)
        self.add_argument("--env-config", metavar="NAME|PATH.yaml", help=environments)
        checkout = "EPyMARL's folder, or none for the bundled host; default: $EPYMARL_HOME, ./epymarl or ../epymarl"
        self.add_argument("--epymarl", metavar="PATH|none", help=checkout)


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line: the host, the yaml files, the settings after ``with``, and Sacred's flags."""

    checkout: Path | None  # EPyMARL; None: the bundled host
    algorithm: str | None
    environment: str | None
    words: tuple[str, ...]  # all other words: Sacred's flags, ``with`` and the settings
    updates: dict[str, Any]  # nested

    @property
    def host_dir(self) -> Path:
        """Folder of the host's yaml files."""
        return config_dir(self.checkout)

    def new_run(self) -> tuple[dict[str, Any], list[str]]:
        """Return the configuration of a new run, with keys and types checked, and lines for the log."""
        resolved = config_files.resolve(self.algorithm, self.environment, self.host_dir)
        config = config_check.apply_updates(resolved, self.updates, self.host_dir)
        return config, from_files(config_files.stack(resolved, self.updates), config)

    def check(self, config: Mapping[str, Any], resumed: bool = False) -> list[str]:
        """Raise ConfigError for values out of range or in conflict; return lines for the log."""
        config_check.check(config, resumed)
        return [*updates.repeated(_after_with(self.words)), *unread_keys.notes(config, self.updates)]


def parse(options: argparse.Namespace, words: Sequence[str]) -> CommandLine:
    """Find the host and parse the settings. The arguments are the result of ``Parser.parse_known_args``."""
    checkout = locate(options.epymarl)
    use_host_config_dir(config_dir(checkout))
    given = updates.parse(_after_with(words)) if _has_settings(words) else {}
    return CommandLine(checkout, options.config, options.env_config, tuple(words), given)


def configuration(arguments: Sequence[str], command: str, checked: bool = True) -> dict[str, Any]:
    """Return the configuration of a new run from a command line without Sacred's flags.

    Raises:
        ConfigError: as for a run. Without ``checked``, only keys and types are checked.
    """
    parser = Parser(command, "")
    parser.add_run()
    line = parse(*parser.parse_known_args(list(arguments)))
    refuse_stray(line.words, command)
    config, _ = line.new_run()
    if checked:
        line.check(config)
    return config


def refuse_stray(words: Sequence[str], command: str) -> None:
    """Raise ConfigError for a word before ``with``."""
    if words and words[0] != "with":
        raise ConfigError(f"{command} does not know {hidden_words(words)[0]}; see {command} --help.")


def sacred_options(line: CommandLine, command: str) -> dict[str, Any]:
    """Parse and check Sacred's options. Sacred itself checks most of their values only after the run has started."""
    try:
        options = docopt(_sacred_usage(command), list(line.words), default_help=False)
    except SystemExit as error:
        shown = shlex.join(hidden_words(line.words))
        raise ConfigError(f"{shown} cannot be parsed; see --help for the form.") from error
    if options["COMMAND"] not in (None, *SACRED_COMMANDS):
        raise ConfigError(
            f"{options['COMMAND']} is neither an option nor KEY=VALUE after `with`, nor one of Sacred's commands "
            f"{', '.join(SACRED_COMMANDS)}; see --help for the form."
        )
    if options["--queue"]:
        raise ConfigError("-q (--queue) cannot be used, as nothing starts queued runs; leave it out to start the run.")
    if options["--enforce_clean"]:
        raise ConfigError(
            "-e (--enforce_clean) cannot be used, because a run needs no repository; leave it out: info.json records "
            "the commit, with -dirty if files differ from it."
        )
    if options["--mongo_db"] is not None and not re.fullmatch(r"[\w.:!-]+", options["--mongo_db"]):
        raise ConfigError("-m (--mongo_db) is Sacred's and takes only HOST:PORT:NAME; set --mongo to an address.")
    number, level, capture = options["--id"], options["--loglevel"], options["--capture"]
    if number is not None and not (number.isdecimal() and number.isascii()):
        raise ConfigError(f"--id={number} is not a number, but records are numbered; set it to one such as 7.")
    if level is not None and not level.isdecimal() and level not in logging.getLevelNamesMapping():
        raise ConfigError(f"--loglevel={level} is not a level; set it to DEBUG, INFO, WARNING, ERROR or CRITICAL.")
    if capture not in (None, "no", "sys", "fd"):
        raise ConfigError(f"--capture={capture} is not a capture mode; set it to no, sys or fd.")
    for name in ("--beat-interval", "--priority"):
        if (value := options[name]) is not None and not _is_number(value):
            raise ConfigError(f"{name}={value} is not a number; set it to one such as 10.")
    return options


@functools.cache
def _sacred_usage(command: str) -> str:
    """Return Sacred's usage text, from which docopt builds its parser."""
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    from sacred import Experiment  # slow to import, and other commands do not need it

    return Experiment("pymarl", save_git_info=False).get_usage(command)[2]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _after_with(words: Sequence[str]) -> Sequence[str]:
    return words[words.index("with") + 1 :] if "with" in words else []


def _has_settings(words: Sequence[str]) -> bool:
    """Return True if there is ``with``. Raises ConfigError for a setting before it, or one without a value."""
    if "with" not in words:
        stray = [word for word in hidden_words(words) if "=" in word and not word.startswith("-")]
        if stray:
            raise ConfigError(f"{stray[0]} comes before the word `with`; write `with {' '.join(stray)}`.")
        return False
    for word in hidden_words(_after_with(words)):
        if not word.startswith("-") and "=" not in word:
            raise ConfigError(f"{word} after `with` is not KEY=VALUE; write it without spaces around the equals sign.")
    return True


def from_files(layers: Sequence[config_files.Layer], config: Mapping[str, Any]) -> list[str]:
    """Return log lines: the effective settings of map and presets, and a note if the KL weight never reaches 0."""
    flat = config_files.flatten(config)
    notes = []
    for layer in layers:
        settings = config_files.flatten(layer.settings) if layer.section or layer.preset else {}
        kept = [
            f"{key}={value}"
            for key, value in settings.items()
            if flat[key] == value and (flat.get("kl.enabled") or not key.startswith("kl."))
        ]
        if kept:
            notes.append(f"From {layer.source}: {', '.join(kept)}; keys after `with` override them.")
    if flat.get("kl.enabled") and flat["kl.anneal_steps"] > flat["t_max"]:
        notes.append(
            f"The KL weight does not reach 0: kl.anneal_steps={flat['kl.anneal_steps']} is beyond "
            f"t_max={flat['t_max']}."
        )
    return notes
