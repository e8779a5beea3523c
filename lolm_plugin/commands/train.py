"""``python main.py --config=... --env-config=... with key=value``: EPyMARL's command line, checked and explained."""

import functools
import logging
import math
import os
import re
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lolm_plugin import host as hosts
from lolm_plugin.configuration import config_check, config_files, unread_keys, updates
from lolm_plugin.errors import ConfigError, one_line
from lolm_plugin.passwords import Address, hidden, hidden_words, parse
from lolm_plugin.paths import expand_home, use_host_config_dir
from lolm_plugin.run import resuming
from lolm_plugin.run.launch import Launch, console_logger, launch
from lolm_plugin.streams import end_on_broken_pipe

USAGE = """\
Train, or play, language-model policies and their baselines on multi-agent battles, inside EPyMARL where a checkout is
found.

  python main.py --config=ALGORITHM --env-config=ENVIRONMENT [--epymarl=PATH|none] [with KEY=VALUE ...]
  python main.py --resume RUN_DIR [--strict]

Try
  python main.py --config=lolm_mappo_tiny --env-config=probe
      a tiny random language model learns a one-step battle in seconds
  python main.py --config=lolm_mappo_smol --env-config=smax with env_args.map_name=3m t_max=3000
      a real pretrained model, SmolLM2-135M, on a CPU
  python main.py --config=lolm_mappo --env-config=sc2 with env_args.map_name=MMM2
      the paper's run, on StarCraft II inside EPyMARL; Qwen3-0.6B comes from the Hugging Face hub and wants a GPU
  python main.py --config=updet_mappo --env-config=smax with env_args.map_name=3m
      a baseline: UPDeT under the same learner; so are asn_attention_mappo, dt2gs_mappo and rnn_mappo
  python main.py ... with evaluate=True checkpoint_path=results/models/RUN env_args.map_name=OTHER
      play a checkpoint, on its own map or zero-shot on another
  python main.py ... with transfer_from=results/models/RUN env_args.map_name=OTHER
      go on learning on another map: the policy and critic of RUN, fresh optimisers, steps from 0, no KL
  python main.py --resume "results/models/RUN"
      go on with a run that was stopped or killed, as if it had not been

Keys after `with`
  seed=1  t_max=20000  env_args.map_name=8m  llm.model=smollm2-135m  prompt.style=compact  kl.enabled=False
  preset=reference: a baseline as it was published; config/presets has all of them
  learner_preset=dt2gs_ref|epymarl|large_batch|standard: named settings of the learner; config/learners
  Every key with a one-line comment: config/default.yaml and the yaml of the algorithm.

Options
  --config=NAME|PATH.yaml       {algs}
  --env-config=NAME|PATH.yaml   {envs}
  --resume=RUN_DIR              a run's folder under results/models or results/sacred; it stands for both --configs,
                                and `with` takes t_max, intervals and keys of the machine, none of the experiment
  --strict                      a damaged checkpoint ends the program; without it the one before is loaded
  --epymarl=PATH|none           EPyMARL checkout; else $EPYMARL_HOME, ./epymarl, ../epymarl; none: bundled host
  --mongo=URL                   a MongoDB for Omniboard beside the files; $LOLM_MONGO_URL is not seen by `ps`
  -h, --help                    this text
  print_config with KEY=VALUE   show the resolved configuration; so do Sacred's flags -n NAME, -c COMMENT, -u

Results: results/sacred/ALGORITHM/MAP/N holds the Sacred run and curve.png, results/models the checkpoints.
`python -m lolm_plugin doctor` tells what this machine can run; `... prompt` shows what the model reads.
"""


SACRED_COMMANDS = ("print_config", "print_dependencies", "save_config")


def take_option(arguments: list[str], name: str) -> str | None:
    """Remove ``--name=value`` or ``--name value`` from ``arguments`` and return the value."""
    for i, argument in enumerate(arguments):
        if argument == name:
            if i + 1 == len(arguments):
                raise ConfigError(f"{name} has no value; write {name}=VALUE.")
            value = arguments[i + 1]
            del arguments[i : i + 2]
            return value
        if argument.startswith(f"{name}="):
            del arguments[i]
            return argument.split("=", 1)[1]
    return None


def take_flag(arguments: list[str], name: str) -> bool:
    """Remove ``--name`` from ``arguments``; whether it was there."""
    there = name in arguments
    if there:
        arguments.remove(name)
    return there


def usage(host_dir: Path) -> str:
    """The help text with the names that exist."""
    return USAGE.format(
        **{kind: ", ".join(sorted(config_files.available(kind, host_dir))) for kind in config_files.OPTIONS}
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 2 for what the user can mend, 1 for a crash."""
    argv = list(sys.argv if argv is None else argv)
    try:
        return end_on_broken_pipe(partial(_main, argv))
    except ConfigError as error:
        print(f"error: {one_line(hidden(str(error)))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return 130


def _main(argv: list[str]) -> int:
    command, arguments = argv[0], argv[1:]
    if "-h" in arguments or "--help" in arguments:
        print(usage(hosts.config_dir(_any_checkout())))
        return 0
    checkout = hosts.locate(take_option(arguments, "--epymarl"))
    host_dir = hosts.config_dir(checkout)
    use_host_config_dir(host_dir)
    algorithm, environment = take_option(arguments, "--config"), take_option(arguments, "--env-config")
    resume, strict = take_option(arguments, "--resume"), take_flag(arguments, "--strict")
    mongo, resumed = take_option(arguments, "--mongo"), None
    if resume is not None:
        if algorithm or environment:
            raise ConfigError(
                "--resume goes on with the configuration of its checkpoint; leave out --config and --env-config, or "
                "leave out --resume and set checkpoint_path."
            )
        changes, options = _parse(command, arguments)
        found = resuming.find(expand_home(resume, "--resume"), strict, console_logger())
        config, resumed = resuming.configuration(found, changes, host_dir, console_logger())
        notes = updates.repeated(_after_with(arguments))
    else:
        config, options, notes = new_run(command, arguments, algorithm, environment, host_dir)
        if config.get("imitate", {}).get("teacher"):
            raise ConfigError(
                f"imitate.teacher={config['imitate']['teacher']} means nothing to a training: run "
                f"lolm imitate --teacher={config['imitate']['teacher']}, or remove it."
            )
    if strict:
        config["strict"] = True
    if resume is None:
        config_check.check_one_start(config)
    config_check.check(config, resumed=resumed is not None)
    notes += unread_keys.notes(config, parse_updates(arguments))
    notes += check_game_and_prompts(config, options)
    mongo = take_mongo(config, mongo)
    program = [*interpreter(), *argv[0].split()]
    asked = Launch(program, argv[1:], options, notes, resumed, mongo)
    return launch(config, hosts.open_host(checkout), asked)


def new_run(
    command: str, arguments: Sequence[str], algorithm: str | None, environment: str | None, host_dir: Path
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The configuration of a new run, Sacred's options, and lines for the log; values are not checked yet."""
    resolved = config_files.resolve(algorithm, environment, host_dir)
    changes, options = _parse(command, arguments)
    config = config_check.apply_updates(resolved, changes, host_dir)
    notes = [*updates.repeated(_after_with(arguments)), *_notes(config_files.stack(resolved, changes), config)]
    return config, options, notes


def configuration(arguments: Sequence[str]) -> dict[str, Any]:
    """Build the configuration of a new run from its arguments; values are not checked yet."""
    rest = list(arguments)
    host_dir = hosts.config_dir(hosts.locate(take_option(rest, "--epymarl")))
    algorithm, environment = take_option(rest, "--config"), take_option(rest, "--env-config")
    return new_run("lolm train", rest, algorithm, environment, host_dir)[0]


def check_game_and_prompts(config: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """Raise ConfigError where StarCraft is missing or prompts do not fit; returns lines for the log."""
    if config["env"] in ("sc2", "sc2v2") and options["COMMAND"] is None:
        from lolm_plugin.doctor import starcraft

        starcraft.require(config["env"], config["env_args"]["map_name"])
    if config.get("mac") == config_check.LLM_MAC and options["COMMAND"] is None:
        from lolm_plugin.controllers.prompter import check_prompts

        return check_prompts(config)
    return []


def take_mongo(config: dict[str, Any], option: str | None) -> Address | None:
    """Remove the database's address from the configuration, which is recorded, and return it parsed."""
    in_config = config.pop("mongo", "")
    given = (("--mongo", option), ("mongo", in_config), ("LOLM_MONGO_URL", os.environ.get("LOLM_MONGO_URL")))
    return next((parse(text, name) for name, text in given if text), None)


def parse_updates(arguments: Sequence[str]) -> dict[str, Any]:
    """What ``with KEY=VALUE ...`` sets, nested, values read as Sacred reads them."""
    _check_updates_written_well(arguments)
    return updates.parse(_after_with(arguments))


def interpreter() -> list[str]:
    """What to type before ``main.py``, so that a printed command runs as it stands."""
    python, here = Path(sys.executable), Path.cwd()
    return [str(python.relative_to(here) if python.is_relative_to(here) else python)]


def _after_with(arguments: Sequence[str]) -> Sequence[str]:
    return arguments[arguments.index("with") + 1 :] if "with" in arguments else []


def _any_checkout() -> Path | None:
    try:
        return hosts.locate(None)
    except ConfigError:  # help has to come whatever the environment says
        return None


def _check_updates_written_well(arguments: Sequence[str]) -> None:
    if "with" not in arguments:
        stray = [a for a in hidden_words(arguments) if "=" in a and not a.startswith("-")]
        if stray:
            raise ConfigError(f"{stray[0]} stands before the word `with`; write `with {' '.join(stray)}`.")
        return
    for update in hidden_words(_after_with(arguments)):
        if not update.startswith("-") and "=" not in update:
            raise ConfigError(f"{update} after `with` sets nothing; write KEY=VALUE without spaces around the sign.")


def _parse(command: str, arguments: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sacred's own reading of its part of the command line: updates and options."""
    changes = parse_updates(arguments)
    from docopt import docopt

    try:
        options = docopt(_sacred_usage(command), list(arguments), default_help=False)
    except SystemExit as error:
        shown = shlex.join(hidden_words(arguments))
        raise ConfigError(f"{shown} is not understood; see --help for the form.") from error
    if options["COMMAND"] not in (None, *SACRED_COMMANDS):
        raise ConfigError(
            f"{options['COMMAND']} is neither an option nor KEY=VALUE after `with`, nor one of Sacred's commands "
            f"{', '.join(SACRED_COMMANDS)}; see --help for the form."
        )
    _check_options(options)
    return changes, options


@functools.cache
def _sacred_usage(command: str) -> str:
    """Return Sacred's usage text, which docopt parses options by."""
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    from sacred import Experiment

    _, _, internal_usage = Experiment("pymarl", save_git_info=False).get_usage(command)
    return internal_usage


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise ConfigError for what Sacred's own options cannot be here; most values it looks at much later."""
    if options["--queue"]:
        raise ConfigError("-q (--queue) cannot be used, as nothing starts queued runs; leave it out to start the run.")
    if options["--enforce_clean"]:
        raise ConfigError(
            "-e (--enforce_clean) cannot be used, as a run is not bound to a repository; leave it out: info.json names "
            "the commit, with -dirty where files differ from it."
        )
    if options["--mongo_db"] is not None and not re.fullmatch(r"[\w.:!-]+", options["--mongo_db"]):
        raise ConfigError("-m (--mongo_db) is Sacred's, which takes HOST:PORT:NAME alone; set --mongo to an address.")
    number, level, capture = options["--id"], options["--loglevel"], options["--capture"]
    if number is not None and not (number.isdecimal() and number.isascii()):
        raise ConfigError(f"--id={number} is not a number, as those of records are; set it to one such as 7.")
    if level is not None and not level.isdecimal() and level not in logging.getLevelNamesMapping():
        raise ConfigError(f"--loglevel={level} is not a level; set it to DEBUG, INFO, WARNING, ERROR or CRITICAL.")
    if capture not in (None, "no", "sys", "fd"):
        raise ConfigError(f"--capture={capture} is not a way to capture; set it to no, sys or fd.")
    for name in ("--beat-interval", "--priority"):
        if (value := options[name]) is not None and not _is_number(value):
            raise ConfigError(f"{name}={value} is not a number; set it to one such as 10.")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _notes(layers: Sequence[config_files.Layer], config: Mapping[str, Any]) -> list[str]:
    """Lines that say what map and presets set, as far as nothing stronger undid it, and what became of the KL."""
    flat = config_files.flatten(config)
    unused = "" if flat.get("kl.enabled") else "kl."
    notes = []
    for layer in layers:
        if not (layer.section or layer.preset):
            continue
        settings = config_files.flatten(layer.settings)
        kept = [
            f"{key}={value}"
            for key, value in settings.items()
            if flat[key] == value and not (unused and key.startswith(unused))
        ]
        if kept:
            notes.append(f"From {layer.source}: {', '.join(kept)}; what stands after `with` wins.")
    if flat.get("kl.enabled") and flat["kl.anneal_steps"] > flat["t_max"]:
        notes.append(
            f"The KL's weight does not come down to 0: kl.anneal_steps={flat['kl.anneal_steps']} is beyond "
            f"t_max={flat['t_max']}."
        )
    return notes
