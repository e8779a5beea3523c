"""``python -m tests.fuzz --cases 5000 --seed 7 [--train]``: a longer fuzz test than CI's, by hand."""

import argparse
import os
import random
import resource
import sys
import tempfile
from pathlib import Path

from lolm_plugin.commands import train
from tests.fuzz import cases, commands
from tests.fuzz.outcomes import problem

MEMORY = 12 * 2**30  # bytes of address space; more ends in an error instead of a swapping machine
TRAINING_PATIENCE = 300


def main() -> int:
    """Run the cases. Return 1 if one of them failed."""
    parser = argparse.ArgumentParser("python -m tests.fuzz")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", action="store_true", help="train for 4 steps where the checks allow it")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    os.environ |= {"HF_HUB_OFFLINE": "1"}
    os.environ.pop("EPYMARL_HOME", None)
    launch, check = train.launch, train.check_game_and_prompts
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for number in range(options.cases):
            rng = random.Random(f"{options.seed} {number}")
            line, started = cases.command_line(rng), []
            train.launch = lambda *given, started=started: started.append(given) or 0
            train.check_game_and_prompts = lambda config, options: []
            wrong = problem(lambda line=line: commands.train(line))
            if started and options.train and not wrong and cases.is_short(line):
                train.launch, train.check_game_and_prompts = launch, check
                wrong = problem(lambda line=line: commands.train(line), TRAINING_PATIENCE)
            failures += _say(number, line, wrong)
            content = cases.damaged_yaml(rng)
            file = cases.write(Path(folder), content)
            train.launch = lambda *given: 0
            train.check_game_and_prompts = lambda config, options: []
            for name, command in commands.OF_YAML.items():
                failures += _say(
                    number, [name, repr(content)], problem(lambda command=command, file=file: command(file))
                )
    print(f"{options.cases} cases, {failures} failures")
    return int(failures > 0)


def _say(number: int, case: list[str], wrong: str) -> int:
    if wrong:
        print(f"--- case {number}: {' '.join(case)[-1500:]!r}\n{wrong[-2500:]}\n", flush=True)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
