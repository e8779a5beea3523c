"""The command ``lolm``, the same as ``python -m lolm_plugin``."""

import sys
from collections.abc import Sequence
from functools import partial

from lolm_plugin import registry
from lolm_plugin.commands import train
from lolm_plugin.errors import ConfigError, did_you_mean, one_line
from lolm_plugin.passwords import hidden
from lolm_plugin.streams import end_on_broken_pipe

USAGE = """\
lolm COMMAND, or python -m lolm_plugin COMMAND

  lolm train --config=NAME --env-config=NAME [with KEY=VALUE ...]
      the same as python main.py; `lolm train --help` explains
  lolm prompt --env-config=NAME [--config=NAME] [--steps=N] [with KEY=VALUE ...]
      what each agent's language model reads in a live battle, with tokens per part
  lolm doctor [--fetch-epymarl] [--tune]
      which host, environments, StarCraft, language models, GPU and trackers are usable here, and how to get the others
  lolm imitate --config=NAME --env-config=NAME --teacher=RUN|heuristic [with KEY=VALUE ...]
      a language-model policy learns from a cheap teacher's battles before PPO; `lolm imitate --help`
  lolm compare SUITE [--dry-run] [--workers N] [--ray ADDRESS]
      algorithms, maps, transfers and seeds side by side, on this machine or a Ray cluster; `lolm compare --help`
  lolm report DIR
      tables, figures and a page about the runs below a folder; `lolm report --help`
  lolm dashboard [DIR] [--mongo URL]
      the runs in a browser: Omniboard on an embedded database, or on a MongoDB; `lolm dashboard --help`
  lolm import-runs DIR --mongo URL, lolm export-run ID --mongo URL --out DIR
      file records into a MongoDB, and back
  lolm doctor --config=NAME --env-config=NAME [with KEY=VALUE ...]
      how large that run is, and what memory and time it takes here, before it is launched

Try
  lolm prompt --env-config=smax with env_args.map_name=3s5z_vs_3s6z
  lolm prompt --env-config=smax with env_args.map_name=3m prompt.style=paper
"""


COMMANDS = {
    "prompt": "lolm_plugin.commands.prompt:main",
    "imitate": "lolm_plugin.commands.imitate:main",
    "compare": "lolm_plugin.commands.compare:main",
    "report": "lolm_plugin.commands.report:main",
    "dashboard": "lolm_plugin.commands.dashboard:main",
    "import-runs": "lolm_plugin.commands.records:import_runs",
    "export-run": "lolm_plugin.commands.records:export_run",
    "doctor": "lolm_plugin.commands.doctor:main",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 2 for what the user can mend."""
    return end_on_broken_pipe(partial(_main, list(sys.argv if argv is None else argv)))


def _main(argv: list[str]) -> int:
    command, arguments = (argv[1], argv[2:]) if len(argv) > 1 else ("--help", [])
    try:
        if command == "train":
            return train.main([f"{argv[0]} train", *arguments])
        if command in COMMANDS:
            return registry.load(COMMANDS[command])(arguments)
        if command not in ("-h", "--help", "help"):
            known = ("train", *COMMANDS)
            raise ConfigError(
                f"{command} is not a command{did_you_mean(command, known)}; use {', '.join(known[:-1])} or {known[-1]}."
            )
    except ConfigError as error:
        print(f"error: {one_line(hidden(str(error)))}", file=sys.stderr)
        return 2
    print(USAGE)
    return 0
