"""Commands that read a random input."""

import sys
from pathlib import Path

from lolm_plugin.commands import train as training
from lolm_plugin.errors import ConfigError, one_line
from lolm_plugin.suites import suite


def train(line: list[str]) -> int:
    """Run a command line of ``lolm train``."""
    return training.main(["main.py", *line])


def as_algorithm(file: Path) -> int:
    """Train with the file as ``--config``."""
    return train([f"--config={file}", "--env-config=probe", "--epymarl=none"])


def as_environment(file: Path) -> int:
    """Train with the file as ``--env-config``."""
    return train(["--config=rnn_mappo", f"--env-config={file}", "--epymarl=none"])


def as_suite(file: Path) -> int:
    """Read the file as a suite and check its first run, as ``lolm compare`` does."""
    try:
        runs = suite.load(str(file)).runs()
    except ConfigError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    return train([*runs[0].arguments()[:2], "--epymarl=none", *runs[0].arguments()[2:]])


OF_YAML = {"--config": as_algorithm, "--env-config": as_environment, "suite": as_suite}
