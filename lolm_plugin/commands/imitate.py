"""``lolm imitate``: a policy learns from a teacher's decisions, to be continued by PPO. Beyond the paper."""

from collections.abc import Mapping, Sequence
from typing import Any

from lolm_plugin import host as hosts
from lolm_plugin import registry
from lolm_plugin.commands.train import add_mongo, check_game_and_prompts, interpreter, take_mongo
from lolm_plugin.configuration import command_line, config_check
from lolm_plugin.errors import ConfigError
from lolm_plugin.paths import expand_home
from lolm_plugin.run.launch import Launch, console_logger, launch

COMMAND = "-m lolm_plugin imitate"
USAGE = "lolm imitate --config=NAME --env-config=NAME --teacher=RUN|heuristic [with KEY=VALUE ...]"
DESCRIPTION = """\
A teacher plays cheaply, a language-model policy learns from its decisions, and PPO continues from there.
This is beyond the paper: results go to results/sacred/ALGORITHM-imitated, apart from those of trainings.

Three steps from nothing to a policy that wins on SMAX 3m
  lolm train --config=updet_mappo --env-config=smax with env_args.map_name=3m learner_preset=large_batch t_max=600000
  lolm imitate --config=lolm_mappo_smol --env-config=smax --teacher=results/models/UPDET_RUN \\
      with env_args.map_name=3m imitate.battles=1000 test_nepisode=128
  lolm train --config=lolm_mappo_smol --env-config=smax \\
      with env_args.map_name=3m transfer_from=results/models/IMITATED_RUN

Try, in seconds
  lolm imitate --config=lolm_mappo_tiny --env-config=probe --teacher=heuristic

Keys after `with`, beside those of `lolm train`
  imitate.battles=1000   battles to learn from; imitate.held_out=64 more to measure the agreement on
  imitate.rounds=2       DAgger: in the second round the student plays and the teacher says what it would have done
  imitate.epochs=3       passes over all battles so far in each round; imitate.minibatch=256 decisions an optimiser step
  imitate.loss=kl|ce     the teacher's whole distribution, or the action played
  imitate.lr, imitate.head_lr, imitate.critic_lr
  head.attack_keys=entity   lets the student learn whom the teacher attacks; shared keys give all attacks one logit
  test_nepisode=128      greedy battles of each test: teacher, student before, student after each round
  llm.trunk_cache_gb     memory for the frozen layers' states of all decisions; the rest is computed again each epoch

The teacher samples its actions, so that it visits more states; it is tested greedily, as the student is.
An imitation is not resumed: run it again. Its checkpoint plays with evaluate=True checkpoint_path=RUN.
"""
TEACHER = """a run of any algorithm of lolm_plugin, its folder under results/models or results/sacred; or heuristic, the
scripted policy of the environment: of smax its scripted enemy's rules, of probe the optimum"""


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = command_line.Parser("lolm imitate", DESCRIPTION, USAGE)
    parser.add_run("the student: the algorithm that learns", "the environment that teacher and student play")
    parser.add_argument("--teacher", metavar="RUN|heuristic", help=TEACHER)
    add_mongo(parser)
    given, words = parser.parse_known_args(list(arguments))
    if any(word.split("=")[0] == "--resume" for word in words):
        raise ConfigError("--resume cannot be used with lolm imitate, which starts anew; leave out --resume.")
    line = command_line.parse(given, words)
    options = command_line.sacred_options(line, COMMAND)
    config, notes = line.new_run()
    if not given.teacher:
        raise ConfigError("--teacher is missing; set it to a run under results/models, or to heuristic.")
    _check_student(config, line.algorithm)
    config["name"] = f"{config['name']}{registry.IMITATED}"
    config["imitate"] = {**config["imitate"], "teacher": expand_home(given.teacher, "--teacher")}
    notes += line.check(config)
    find_teacher = registry.load("lolm_plugin.run.teachers:find")  # it imports torch, which takes seconds
    teacher = find_teacher(config, line.host_dir, console_logger())
    notes += [*check_game_and_prompts(config, options), *_notes(config)]
    mongo = take_mongo(config, given.mongo)
    asked = Launch([*interpreter(), *COMMAND.split()], list(arguments), options, notes, None, mongo, teacher)
    return launch(config, hosts.open_host(line.checkout), asked)


def _check_student(config: Mapping[str, Any], algorithm: str | None) -> None:
    """Raise ConfigError for what cannot be taught, and for keys that start from somewhere else."""
    if config.get("mac") not in registry.ENTRIES["mac"]:
        raise ConfigError(
            f"--config={algorithm} is not an algorithm of lolm_plugin, so it cannot be taught; set --config to one in "
            "config/algs, such as lolm_mappo_smol."
        )
    if config["imitate"]["teacher"]:
        raise ConfigError("imitate.teacher is set by --teacher; remove it after `with`.")
    for key in ("checkpoint_path", "evaluate", "save_replay"):
        if config[key]:
            raise ConfigError(f"{key}={config[key]} cannot be used with lolm imitate; use it with lolm train.")


def _notes(config: Mapping[str, Any]) -> list[str]:
    shared = config["mac"] == config_check.LLM_MAC and config["head"]["attack_keys"] == "shared"
    if not shared or not registry.ENVS[config["env"]].battles:
        return []
    return [
        "The teacher's choice of targets cannot be learned with head.attack_keys=shared, which gives all attacks one "
        "logit; head.attack_keys=entity can learn it."
    ]
