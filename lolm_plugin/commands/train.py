"""``python main.py --config=... --env-config=... with key=value``: EPyMARL's command line, with checks and help."""

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lolm_plugin import checkpoints, maps, registry
from lolm_plugin import host as hosts
from lolm_plugin.configuration import command_line, config_check, config_files
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import Address, parse
from lolm_plugin.paths import config_dir, expand_home, locate
from lolm_plugin.run import resuming
from lolm_plugin.run.launch import Launch, console_logger, launch
from lolm_plugin.streams import exit_code

USAGE = """python main.py --config=ALGORITHM --env-config=ENVIRONMENT [--epymarl=PATH|none] [with KEY=VALUE ...]
       python main.py --resume RUN_DIR [--strict]"""
DESCRIPTION = """\
Trains or plays language-model policies and their baselines on multi-agent battles. It runs inside EPyMARL if it finds
a checkout, else on a bundled host.

Examples
  python main.py --config=lolm_mappo_tiny --env-config=probe
      train a tiny random language model on one-step battles, in seconds
  python main.py --config=lolm_mappo_smol --env-config=smax with env_args.map_name=3m t_max=3000
      train a real pretrained model, SmolLM2-135M, on a CPU
  python main.py --config=lolm_mappo --env-config=sc2 with env_args.map_name=MMM2
      the paper's run on StarCraft II, inside EPyMARL; downloads Qwen3-0.6B from the Hugging Face hub, needs a GPU
  python main.py --config=updet_mappo --env-config=smax with env_args.map_name=3m
      train a baseline, UPDeT, with the same learner; others: asn_attention_mappo, dt2gs_mappo and rnn_mappo
  python main.py ... with evaluate=True checkpoint_path=results/models/RUN env_args.map_name=OTHER
      play a checkpoint on its own map, or zero-shot on another map
  python main.py ... with transfer_from=results/models/RUN env_args.map_name=OTHER
      train on another map from RUN's policy and critic, with new optimisers, from step 0, without the KL
  python main.py --resume "results/models/RUN"
      continue a run that was stopped or killed, exactly as if it had not stopped

Keys after `with`
  seed=1  t_max=20000  env_args.map_name=8m  llm.model=smollm2-135m  prompt.style=compact  kl.enabled=False
  preset=reference           the algorithm as published; all presets: config/presets
  learner_preset=dt2gs_ref   named settings of the learner: dt2gs_ref, epymarl, large_batch or standard; config/learners
  config/default.yaml and the algorithm's yaml explain every key in one line.
  `print_config with KEY=VALUE` prints the resolved configuration. Sacred's flags, such as -n NAME, also work.

Results: the Sacred run and curve.png are in results/sacred/ALGORITHM/MAP/N, the checkpoints in results/models.
`python -m lolm_plugin doctor` shows what this machine can run, `python -m lolm_plugin prompt` what the model reads.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 2 for an error that the user can fix, 1 for a crash."""
    return exit_code(partial(_main, list(sys.argv if argv is None else argv)))


def _parser() -> command_line.Parser:
    parser = command_line.Parser("main.py", DESCRIPTION, USAGE)
    try:
        host_dir = config_dir(locate(None))
    except ConfigError:  # --help must work even with a wrong EPYMARL_HOME
        host_dir = config_dir(None)
    parser.add_run(*(", ".join(sorted(config_files.available(kind, host_dir))) for kind in config_files.OPTIONS))
    parser.add_argument(
        "--resume",
        metavar="RUN_DIR",
        help="continue a run: its folder under results/models or results/sacred. Leave out --config and --env-config; "
        "after `with`, set only t_max, intervals and keys of the machine, such as use_cuda",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop if a checkpoint is damaged; without it, the previous checkpoint is loaded",
    )
    add_mongo(parser)
    return parser


def add_mongo(parser: command_line.Parser) -> None:
    """Add the option --mongo, which also records a run in a database."""
    text = "also record the run in this MongoDB, for Omniboard; or set $LOLM_MONGO_URL, which `ps` does not show"
    parser.add_argument("--mongo", metavar="URL", help=text)


def _main(argv: list[str]) -> int:
    given, words = _parser().parse_known_args(argv[1:])
    line = command_line.parse(given, words)
    options = command_line.sacred_options(line, argv[0])
    resumed: resuming.Resumed | None = None
    notes: list[str] = []
    if given.resume is not None:
        if line.algorithm or line.environment:
            raise ConfigError(
                "--resume continues with the configuration of its checkpoint; leave out --config and --env-config, or "
                "leave out --resume and set checkpoint_path."
            )
        log = console_logger()
        found = resuming.find(expand_home(given.resume, "--resume"), given.strict, log)
        config, resumed = resuming.configuration(found, line.updates, line.host_dir, log)
    else:
        config, notes = line.new_run()
        if teacher := config.get("imitate", {}).get("teacher"):
            raise ConfigError(
                f"imitate.teacher={teacher} has no effect in a training; run lolm imitate --teacher={teacher}, or "
                "remove it."
            )
    if given.strict:
        config["strict"] = True
    notes += line.check(config, resumed=resumed is not None)
    path = config["checkpoint_path"]
    if path and resumed is None and not checkpoints.steps(Path(path)):
        raise ConfigError(
            f"checkpoint_path={path} holds no checkpoint (folders named by timestep); set it to the folder that "
            "contains them."
        )
    notes += check_game_and_prompts(config, options)
    mongo = take_mongo(config, given.mongo)
    asked = Launch([*interpreter(), *argv[0].split()], argv[1:], options, notes, resumed, mongo)
    return launch(config, hosts.open_host(line.checkout), asked)


def check_game_and_prompts(config: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """Raise ConfigError if StarCraft is missing or prompts do not fit; return lines for the log.

    Slow modules are imported here, so that earlier errors come at once: torch alone takes seconds.
    """
    if options["COMMAND"] is not None:
        return []
    notes: list[str] = []
    for of_map in maps.each(config):
        if config["env"] in ("sc2", "sc2v2"):
            registry.load("lolm_plugin.doctor.starcraft:require")(config["env"], of_map["env_args"]["map_name"])
        if config["mac"] == config_check.LLM_MAC:
            notes += registry.load("lolm_plugin.controllers.prompter:check_prompts")(of_map)
    return list(dict.fromkeys(notes))


def take_mongo(config: dict[str, Any], option: str | None) -> Address | None:
    """Remove the database's address from the configuration, so that it is not recorded; return it parsed."""
    in_config = config.pop("mongo", "")
    given = (("--mongo", option), ("mongo", in_config), ("LOLM_MONGO_URL", os.environ.get("LOLM_MONGO_URL")))
    return next((parse(text, name) for name, text in given if text), None)


def interpreter() -> list[str]:
    """Return the interpreter to type before ``main.py``, so that a printed command can be copied and run."""
    python, here = Path(sys.executable), Path.cwd()
    return [str(python.relative_to(here) if python.is_relative_to(here) else python)]
