"""``lolm doctor``: check what this machine can run, or measure what one run needs."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import humanize

from lolm_plugin import maps, tuning
from lolm_plugin.commands import train
from lolm_plugin.configuration import command_line
from lolm_plugin.doctor import machine, preflight
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import hidden_words
from lolm_plugin.paths import cache_dir, is_checkout

EPYMARL = "https://github.com/uoe-agents/epymarl"
EPYMARL_COMMIT = "cbc38c09588064eab978501d0f12c2cf58fa7fc2"  # the contract tests are written for this commit
CLONE_TIMEOUT = 900  # seconds; the repository is a few megabytes

DESCRIPTION = """\
Without options: lists which host, environments, StarCraft, language models, GPU and trackers are usable here, and how
to get the others. It loads nothing slow and changes nothing.

With --config and --env-config, as for `lolm train`: plays one batch and makes one update of this run in a child
process. Then it prints the expected time, memory, disk space and tokens of the whole run. Nothing is downloaded, and no
file is left behind.

Examples
  lolm doctor
      list what is usable on this machine
  lolm doctor --config=lolm_mappo_smol --env-config=smax with env_args.map_name=8m llm.num_layers=12
      measure this run before you start it
"""
USAGE = "lolm doctor [options] [--config=NAME --env-config=NAME [with KEY=VALUE ...]]"


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    options, words = _parser().parse_known_args(list(arguments))
    run = options.config or options.env_config
    if words and (not run or words[0].startswith("-")):
        raise ConfigError(
            f"lolm doctor does not know {hidden_words(words)[0]}; it takes --fetch-epymarl and --tune, or --config and "
            "--env-config of a run to measure, and then `with KEY=VALUE`."
        )
    if options.tune:
        _tune()
    if options.fetch_epymarl:
        print(f"EPyMARL is in {fetch_epymarl()}")
    if run:
        _measure(command_line.parse(options, words), options.time_limit, options.memory_limit * 1e9)
        return 0
    for title, results in machine.sections().items():
        print(f"\n{title}")
        for result in results:
            print(f"  {result}")
    return 0


def _parser() -> command_line.Parser:
    parser = command_line.Parser("lolm doctor", DESCRIPTION, USAGE)
    parser.epilog = "Default limits of the child process: 300 seconds, and 90 % of the free memory."
    parser.add_run("the algorithm of the run to measure", "the environment of the run to measure")
    free = preflight.MEMORY_SHARE * preflight.available_memory() / 1e9
    tune = "measure the fastest settings of this machine again and store them; run nothing else meanwhile"
    parser.add_argument("--fetch-epymarl", action="store_true", help="clone EPyMARL into the per-user cache")
    parser.add_argument("--tune", action="store_true", help=tune)
    parser.add_argument(
        "--time-limit", type=float, metavar="SECONDS", default=preflight.TIME_LIMIT, help="of the child process"
    )
    parser.add_argument("--memory-limit", type=float, metavar="GB", default=free, help="of the child process")
    return parser


def _measure(line: command_line.CommandLine, seconds: float, memory: float) -> None:
    """Measure the run of the command line, and print the estimate for the whole run."""
    config, _ = line.new_run()
    maps.refuse_several(config, "lolm doctor")
    line.check(config)
    preflight.require(config)
    train.check_game_and_prompts(config, {"COMMAND": None})
    limits = f"at most {seconds:g} s and {humanize.naturalsize(memory)} of memory"
    print(f"{preflight.title(config)}: one batch and one update in a child process, {limits}", flush=True)
    for number in (getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)):
        if signal.getsignal(number) is signal.SIG_DFL:  # not ignored, as under nohup
            signal.signal(number, lambda number, _: sys.exit(128 + number))  # ends the child and removes its folder
    print(preflight.report(config, preflight.measure(config, line.checkout, seconds, memory)))


def fetch_epymarl() -> Path:
    """Clone the pinned commit into the cache if it is not there; return the folder.

    Raises:
        ConfigError: git is not installed, or the clone fails or takes longer than CLONE_TIMEOUT.
    """
    target = cache_dir() / "epymarl"
    if is_checkout(target):
        return target
    if shutil.which("git") is None:
        raise ConfigError("--fetch-epymarl needs git, which is not installed; install git, or set EPYMARL_HOME.")
    target.parent.mkdir(parents=True, exist_ok=True)
    for command in (
        ["git", "clone", "--quiet", EPYMARL, str(target)],
        ["git", "-C", str(target), "checkout", "--quiet", EPYMARL_COMMIT],
    ):
        environ = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=CLONE_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise ConfigError(
                f"--fetch-epymarl gave up on {EPYMARL} after {CLONE_TIMEOUT} s; remove {target} and try again, or set "
                "EPYMARL_HOME to a checkout."
            ) from error
        if done.returncode:
            reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise ConfigError(f"--fetch-epymarl could not clone {EPYMARL} ({reason}); set EPYMARL_HOME to a checkout.")
    return target


def _tune() -> None:
    """Measure the fastest settings again. Raises ConfigError while other work uses the cores."""
    if tuning.busy():
        raise ConfigError(
            f"--tune cannot measure while other work uses the cores (load {os.getloadavg()[0]:.1f} on "
            f"{tuning.cores()}); wait until it ends, or set torch_threads."
        )
    tuning.forget()
    for policy in tuning.TYPICAL:
        tuning.threads(policy)
