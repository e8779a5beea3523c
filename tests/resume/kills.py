"""Kill trainings at random moments, resume them, and compare them bitwise with uninterrupted ones. Run by hand:

python -m tests.resume.kills --kills 30 --seed 1
"""

import argparse
import itertools
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.resume.runs import line, models, start, steps
from tests.resume.test_resume import RUNS, check_equal


def finish(folder: Path, process: subprocess.Popen, patience: float) -> bool:
    """Return True if the run ends by itself within ``patience`` seconds; kill it otherwise."""
    try:
        output, _ = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    assert process.returncode == 0, f"{folder}: exit code {process.returncode}\n{output}"
    return True


def last_record(folder: Path) -> int:
    """Return the number of the newest Sacred record."""
    return max(int(path.name) for path in folder.glob("results/sacred/*/*/*") if path.name.isdigit())


def kill_and_resume(algorithm: str, folder: Path, kills: int, draw: random.Random) -> int:
    """Train once without and once with up to ``kills`` kills; raise AssertionError if the results differ.

    Returns the number of kills that interrupted a run. A run that was killed before its first checkpoint starts anew.
    """
    env, map_name, *updates = RUNS[algorithm]
    arguments = line(algorithm, env, map_name, *updates)
    straight, killed = folder / "straight", folder / "killed"
    began = time.monotonic()
    assert finish(straight, start(straight, *arguments), 600)
    length = time.monotonic() - began
    done = 0
    while True:
        resumable = killed.exists() and steps(killed)
        if not resumable:
            shutil.rmtree(killed, ignore_errors=True)
        process = start(killed, *(["--resume", str(models(killed)), "--epymarl=none"] if resumable else arguments))
        # Most of such a small run is its start, and a kill before the first checkpoint tests little.
        if finish(killed, process, 600 if done == kills else draw.uniform(0.4, 1.0) * length):
            break
        done += 1
    check_equal((killed, last_record(killed)), (straight, 1))
    print(f"{algorithm} on {map_name}: {done} kills, equal at step {steps(killed)[-1]}", flush=True)
    return done


def main() -> None:
    """Repeat over the algorithms of tests/resume/test_resume.py until enough runs were killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="number of kills; default 30")
    parser.add_argument("--seed", type=int, default=1, help="seed of the kills' moments, not of the trainings")
    options = parser.parse_args()
    draw, total = random.Random(options.seed), 0
    for algorithm in itertools.cycle(RUNS):
        if total >= options.kills:
            break
        with tempfile.TemporaryDirectory() as folder:
            total += kill_and_resume(algorithm, Path(folder), min(4, options.kills - total), draw)
    print(f"{total} kills, every resumed run bitwise equal to the uninterrupted one")


if __name__ == "__main__":
    main()
