"""The command ``lolm``, the same as ``python -m lolm_plugin``."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from lolm_plugin import registry
from lolm_plugin.configuration.command_line import Parser
from lolm_plugin.errors import ConfigError, did_you_mean
from lolm_plugin.streams import exit_code

DESCRIPTION = """\
Language-model policies for EPyMARL. `lolm COMMAND --help` explains a command.

Examples
  lolm train --config=lolm_mappo_tiny --env-config=probe
      train a tiny random language model, in seconds
  lolm prompt --env-config=smax with env_args.map_name=3s5z_vs_3s6z prompt.style=paper
      print what the language model of each agent reads, in the paper's prompt style
  lolm doctor --config=lolm_mappo_smol --env-config=smax with env_args.map_name=8m
      measure the time and memory of a run before you start it
"""
COMMANDS = {  # name: (module:function in this package, summary)
    "train": (
        "train:main",
        "train or play a policy: --config=NAME --env-config=NAME [with KEY=VALUE ...], as main.py does",
    ),
    "prompt": ("prompt:main", "print what each agent's language model reads in a live battle"),
    "watch": (
        "watch:main",
        "show battles in a page: what each agent read, thought and did",
    ),
    "imitate": ("imitate:main", "train a language-model policy on a teacher's battles, before PPO"),
    "compare": (
        "compare:main",
        "run a suite of algorithms, maps, transfers and seeds, on this machine or a Ray cluster",
    ),
    "report": ("report:main", "write tables, figures and an html page about the runs below a folder"),
    "dashboard": (
        "dashboard:main",
        "show runs in a browser: Omniboard on an embedded database, or on a MongoDB",
    ),
    "import-runs": ("records:import_runs", "copy the runs below a folder into a MongoDB"),
    "export-run": ("records:export_run", "copy a run of a MongoDB into a folder of files"),
    "doctor": (
        "doctor:main",
        "check which host, environments, StarCraft, language models, GPU and trackers are usable here, and how to get "
        "the others; with --config and --env-config: measure the time, memory and disk space of that run",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code, 2 for an error that the user can fix."""
    return exit_code(partial(_main, list(sys.argv if argv is None else argv)))


def _main(argv: list[str]) -> int:
    parser = Parser("lolm", DESCRIPTION, "lolm COMMAND, or python -m lolm_plugin COMMAND")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=argparse.ArgumentParser)
    for name, (_, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary)
    name, arguments = (argv[1], argv[2:]) if len(argv) > 1 else ("help", [])
    if name == "train":  # Sacred records the program's name, too
        arguments = [f"{argv[0]} train", *arguments]
    if name in COMMANDS:  # each adds its own options: loading the modules of all would take seconds
        return registry.load(f"lolm_plugin.commands.{COMMANDS[name][0]}")(arguments)
    if name not in ("-h", "--help", "help"):
        *known, last = COMMANDS
        raise ConfigError(f"{name} is not a command{did_you_mean(name, COMMANDS)}; use {', '.join(known)} or {last}.")
    print(parser.format_help(), end="")  # argparse's print_help would ignore a broken pipe
    return 0
