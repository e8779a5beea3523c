"""``lolm watch``: play battles with a run's policy and write a page that shows what each agent read and did."""

import logging
import webbrowser
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lolm_plugin import registry
from lolm_plugin.commands.train import check_game_and_prompts
from lolm_plugin.configuration import command_line
from lolm_plugin.errors import ConfigError
from lolm_plugin.paths import expand_home, write_whole

if TYPE_CHECKING:
    from lolm_plugin.watch.record import Record

USAGE = "lolm watch RUN [RUN2] [--output FILE] [--open] [--gif FILE] [--json FILE] [with KEY=VALUE ...]"
DESCRIPTION = """\
Plays greedy battles with the best checkpoint of a run and writes battle.html. The page shows the field, what each agent
read, the probability of each action, and what the frozen language model would have done. It needs no network.

Examples
  lolm watch results/models/RUN                              four battles on the run's own map
  lolm watch results/models/RUN with env_args.map_name=8m    the same policy on another map
  lolm watch results/models/RUN results/models/OTHER         two policies side by side, in battles with equal seeds
  lolm watch results/sacred/lolm_mappo_smol/3m/1/battles/best.json     battles that were kept during a training
  lolm watch results/models/RUN --gif battle.gif             also an animation of the first battle

Keys after `with`: test_nepisode=4 battles, seed=7, load_step=30000 for another checkpoint, use_cuda=True, and the
environment's. A setting that a checkpoint names but that would download or open something must be repeated.
"""
BATTLES = 4


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    parser = command_line.Parser("lolm watch", DESCRIPTION, USAGE)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or a record of battles in JSON")
    parser.add_argument("--output", metavar="FILE", default="battle.html", help="the page; default: battle.html")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--gif", metavar="FILE", help="also write an animation of the first battle")
    parser.add_argument("--json", metavar="FILE", help="also write the record of the battles of the first RUN")
    parser.add_argument("--epymarl", metavar="PATH|none", help="EPyMARL's folder, or none, as for lolm train")
    words = list(arguments)
    after = words.index("with") if "with" in words else len(words)
    options = parser.parse_args(words[:after])
    if len(options.runs) > 2:
        raise ConfigError(f"{len(options.runs)} runs are named, but a page shows one or two; leave some out.")
    options.config = options.env_config = None
    line = command_line.parse(options, words[after:])
    paths = {
        name: Path(expand_home(text, f"--{name}"))
        for name in ("output", "gif", "json")
        if (text := getattr(options, name))
    }
    _check_writable(paths)
    names = [expand_home(run, "RUN") for run in options.runs]
    configs = [None if Path(name).is_file() else _configuration(name, line) for name in names]
    records = []
    for name, config in zip(names, configs, strict=True):
        if config is not None:
            print(f"Playing {config['test_nepisode']} battles of {name} ...", flush=True)
        records.append(_read(name) if config is None else _play(config, line))
    _write(records, paths)
    for record in records:
        print(_summary(record))
    print(f"The page: {paths['output']}")
    if options.open:
        webbrowser.open(paths["output"].resolve().as_uri())
    return 0


def _configuration(run: str, line: command_line.CommandLine) -> dict[str, Any]:
    evaluation = registry.load("lolm_plugin.run.evaluation:configuration")
    config = evaluation(run, line.updates, line.host_dir, BATTLES, _log())
    config["seed"] = config["seed"] if config.get("seed") is not None else 1
    check_game_and_prompts(config, {"COMMAND": None})
    return config


def _play(config: dict[str, Any], line: command_line.CommandLine) -> "Record":
    """Play the battles of a configuration and return their record."""
    import numpy as np
    import torch

    from lolm_plugin import host as hosts
    from lolm_plugin import tuning
    from lolm_plugin.configuration.config_check import LLM_MAC
    from lolm_plugin.run import loop

    host = hosts.open_host(line.checkout)
    hosts.register(host)
    policy = "language models" if config["mac"] == LLM_MAC else "small networks"
    torch.set_num_threads(config["torch_threads"] or tuning.threads(policy))
    np.random.seed(config["seed"])
    torch.manual_seed(config["seed"])
    config = deepcopy(config)
    config["env_args"]["seed"] = config["seed"]
    records: list[Record] = []
    # EPyMARL's logger writes to a Sacred run. Battles that are watched are no experiment, so nothing is recorded.
    nothing = SimpleNamespace(info={}, observers=[], log_scalar=lambda *args, **kwargs: None)
    log = _log()
    level = log.level
    log.setLevel(logging.WARNING)  # the settings and the metrics of a test are not the subject here
    try:
        loop.run(host, nothing, config, log, watch=records.append)
    finally:
        log.setLevel(level)
    if not records:
        raise ConfigError("The battles could not be recorded; the log above has the reason.")
    return records[0]


def _read(name: str) -> "Record":
    return registry.load("lolm_plugin.watch.record:read")(Path(name))


def _write(records: "Sequence[Record]", paths: dict[str, Path]) -> None:
    from lolm_plugin.watch import animation, page, record

    try:
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(paths["output"], page.html(records))
        if "json" in paths:
            write_whole(paths["json"], record.dumps(records[0]))
        if "gif" in paths:
            animation.write(records[0], 0, paths["gif"])
    except OSError as error:
        raise ConfigError(
            f"{error.filename} cannot be written ({error.strerror}); set --output, --gif and --json to files in a "
            "writable folder."
        ) from error


def _check_writable(paths: dict[str, Path]) -> None:
    """Raise ConfigError before any battle is played if a file could not be written."""
    for name, path in paths.items():
        if path.is_dir():
            raise ConfigError(f"--{name}={path} is a folder; set it to a file in it, such as {path / 'battle'}.")
        if path.is_symlink():
            raise ConfigError(f"--{name}={path} is a link, and nothing is written through links; set another file.")


def _summary(record: "Record") -> str:
    """Describe the battles of a record in one line."""
    won = [battle.won for battle in record.battles if battle.won is not None]
    wins = f"{sum(won)} of {len(won)} battles won, " if won else ""
    mean = sum(battle.total_reward for battle in record.battles) / max(1, len(record.battles))
    return f"{record.algorithm} on {record.env} {record.map}, step {record.step:,}: {wins}mean return {mean:.2f}"


def _log() -> logging.Logger:
    return registry.load("lolm_plugin.run.launch:console_logger")()
