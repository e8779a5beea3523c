"""The command ``lolm``, the same as ``python -m lolm_plugin``."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from lolm_plugin import registry
from lolm_plugin.commands import train
from lolm_plugin.configuration.command_line import Parser
from lolm_plugin.errors import ConfigError, did_you_mean
from lolm_plugin.streams import exit_code

DESCRIPTION = """\
Language-model policies for EPyMARL. `lolm COMMAND --help` explains a command.

Try
  lolm train --config=lolm_mappo_tiny --env-config=probe
  lolm prompt --env-config=smax with env_args.map_name=3s5z_vs_3s6z
  lolm prompt --env-config=smax with env_args.map_name=3m prompt.style=paper
  lolm doctor --config=lolm_mappo_smol --env-config=smax with env_args.map_name=8m
"""
COMMANDS = {  # where each is below this package, and its summary
    "train": (
        "train:main",
        "train or play: --config=NAME --env-config=NAME [with KEY=VALUE ...], as main.py does",
    ),
    "prompt": ("prompt:main", "what each agent's language model reads in a live battle, with tokens per part"),
    "imitate": ("imitate:main", "a language-model policy learns from a cheap teacher's battles before PPO"),
    "compare": (
        "compare:main",
        "a suite: algorithms, maps, transfers and seeds side by side, on this machine or a Ray cluster",
    ),
    "report": ("report:main", "tables, figures and a page about the runs below a folder"),
    "dashboard": (
        "dashboard:main",
        "the runs in a browser: Omniboard on an embedded database, or on a MongoDB",
    ),
    "import-runs": ("records:import_runs", "file the records below a folder into a MongoDB"),
    "export-run": ("records:export_run", "write a run of a MongoDB as a folder of files"),
    "doctor": (
        "doctor:main",
        "which host, environments, StarCraft, language models, GPU and trackers are usable here and how to get the "
        "others; with --config and --env-config: what time, memory and disk that run takes here, measured",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 2 for what the user can fix."""
    return exit_code(partial(_main, list(sys.argv if argv is None else argv)))


def _main(argv: list[str]) -> int:
    parser = Parser("lolm", DESCRIPTION, "lolm COMMAND, or python -m lolm_plugin COMMAND")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=argparse.ArgumentParser)
    for name, (_, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary)
    name, arguments = (argv[1], argv[2:]) if len(argv) > 1 else ("help", [])
    if name == "train":
        return train.main([f"{argv[0]} train", *arguments])
    if name in COMMANDS:  # each adds its own options: loading the modules of all would take seconds
        return registry.load(f"lolm_plugin.commands.{COMMANDS[name][0]}")(arguments)
    if name not in ("-h", "--help", "help"):
        *known, last = COMMANDS
        raise ConfigError(f"{name} is not a command{did_you_mean(name, COMMANDS)}; use {', '.join(known)} or {last}.")
    print(parser.format_help(), end="")  # argparse's own print_help drops a broken pipe
    return 0
