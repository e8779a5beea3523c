"""``lolm imitate``: train a policy on a teacher's decisions, before PPO. This is not part of the paper."""

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
A teacher plays, a language-model policy learns from its decisions, and PPO can continue from there. A small network as
the teacher plays far faster than a language model. This is not part of the paper: results go to a separate folder,
results/sacred/ALGORITHM-imitated.

Three steps to a policy that wins on SMAX 3m: train a teacher, imitate it, continue with PPO
  lolm train --config=updet_mappo --env-config=smax with env_args.map_name=3m learner_preset=large_batch t_max=600000
  lolm imitate --config=lolm_mappo_smol --env-config=smax --teacher=results/models/UPDET_RUN \\
      with env_args.map_name=3m imitate.battles=1000 test_nepisode=128
  lolm train --config=lolm_mappo_smol --env-config=smax \\
      with env_args.map_name=3m transfer_from=results/models/IMITATED_RUN

Try, in seconds
  lolm imitate --config=lolm_mappo_tiny --env-config=probe --teacher=heuristic

Keys after `with`, in addition to those of `lolm train`
  imitate.battles=1000   battles to learn from in each round
  imitate.held_out=64    further battles, to measure how often the student agrees with the teacher
  imitate.rounds=2       DAgger: in the second round the student plays, and the teacher labels its states
  imitate.epochs=3       passes over all battles so far, in each round
  imitate.minibatch=256  decisions per optimiser step
  imitate.loss=kl        learn the teacher's whole distribution; ce: learn the action that it played
  imitate.lr=0.0005      learning rate; also imitate.head_lr and imitate.critic_lr
  head.attack_keys=entity  lets the student learn whom the teacher attacks; with shared, all attacks have one logit
  test_nepisode=128      greedy battles per test: of the teacher, of the student at the start and after each round
  llm.frozen_cache_gb=4   memory for hidden states of the frozen layers; the rest is computed again in each epoch

The teacher samples its actions, so that it visits more states. In tests, teacher and student act greedily.
An imitation cannot be resumed: run it again. Play its checkpoint with evaluate=True checkpoint_path=RUN.
"""
TEACHER = """folder of a run of any algorithm of lolm_plugin, under results/models or results/sacred; or heuristic, the
scripted policy of the environment: in smax the rules of its scripted enemy, in probe the optimum"""


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = command_line.Parser("lolm imitate", DESCRIPTION, USAGE)
    parser.add_run("the student: the algorithm that learns", "the environment that teacher and student play")
    parser.add_argument("--teacher", metavar="RUN|heuristic", help=TEACHER)
    add_mongo(parser)
    given, words = parser.parse_known_args(list(arguments))
    if any(word.split("=")[0] == "--resume" for word in words):
        raise ConfigError("--resume cannot be used with lolm imitate, which always starts anew; leave out --resume.")
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
    """Raise ConfigError for an algorithm that cannot be a student, and for keys that load or play a checkpoint."""
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
