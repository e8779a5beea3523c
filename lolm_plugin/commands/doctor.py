"""``lolm doctor``: what this machine can run, or what one run takes, measured."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import humanize

from lolm_plugin import tuning
from lolm_plugin.commands import train
from lolm_plugin.configuration import command_line
from lolm_plugin.doctor import machine, preflight
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import hidden_words
from lolm_plugin.paths import cache_dir, is_checkout

EPYMARL = "https://github.com/uoe-agents/epymarl"
EPYMARL_COMMIT = "cbc38c09588064eab978501d0f12c2cf58fa7fc2"  # the one that the contract tests were written against
CLONE_TIMEOUT = 900  # seconds; the repository is a few megabytes

DESCRIPTION = """\
Without options: which host, environments, StarCraft, language models, GPU and trackers are usable here, and how to get
the others. Nothing slow is loaded, nothing is changed.

With --config and --env-config, written as for `lolm train`: plays one batch and makes one update of that very run in a
child process, and says what follows for its time, memory, disk and tokens. Nothing is downloaded, no file is left.

  lolm doctor --config=lolm_mappo_smol --env-config=smax with env_args.map_name=8m llm.num_layers=12
"""
USAGE = "lolm doctor [options] [--config=NAME --env-config=NAME [with KEY=VALUE ...]]"


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
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
    parser.epilog = "Limits of the child process: 300 seconds, and 90 % of the memory that is free."
    parser.add_run("the algorithm of the run to measure", "its environment")
    free = preflight.MEMORY_SHARE * preflight.available_memory() / 1e9
    tune = "measure again what is fastest on this machine, and remember it; do so while nothing else runs"
    parser.add_argument("--fetch-epymarl", action="store_true", help="clone EPyMARL into the per-user cache")
    parser.add_argument("--tune", action="store_true", help=tune)
    parser.add_argument(
        "--time-limit", type=float, metavar="SECONDS", default=preflight.TIME_LIMIT, help="of the child"
    )
    parser.add_argument("--memory-limit", type=float, metavar="GB", default=free, help="of the child")
    return parser


def _measure(line: command_line.CommandLine, seconds: float, memory: float) -> None:
    """Measure the run that the command line asks for, and print what follows."""
    config, _ = line.new_run()
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
    """Clone the pinned commit into the cache unless it is there; returns the folder.

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
    """Measure again what is fastest here. Raises ConfigError while other work takes the cores."""
    from lolm_plugin.llm import matmul

    if tuning.busy():
        raise ConfigError(
            f"--tune would find what is fastest while other work takes the cores (load {os.getloadavg()[0]:.1f} on "
            f"{tuning.cores()}), which is wrong once that is over; end it, or set torch_threads and llm.product."
        )
    tuning.forget()
    matmul.fastest_backend.cache_clear()
    matmul.fastest_backend()
    for policy in tuning.TYPICAL:
        tuning.threads(policy)
