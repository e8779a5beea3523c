"""Small runs through the real command line, and everything they leave."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from safetensors.torch import load_file

from lolm_plugin.checkpoints import facts_alone
from lolm_plugin.commands import train as training

ROOT = Path(__file__).parents[2]
PATIENCE = 600.0  # seconds, for the case that something never happens; a busy machine needs minutes

# What is not a result.
TIMES = {"agent_steps_per_second", "llm_time_share"}

SMALL = (
    *("seed=1", "use_cuda=False", "torch_threads=1", "test_nepisode=16", "keep_checkpoints=None"),
    *("test_interval=150", "log_interval=100", "runner_log_interval=90", "learner_log_interval=70"),
    *("save_model=True", "save_model_interval=100", "batch_size_run=16"),
)


def line(algorithm, env, map_name, *updates, host="none"):
    """The arguments of a small run."""
    options = [f"--config={algorithm}", f"--env-config={env}", f"--epymarl={host}"]
    return [*options, "with", f"env_args.map_name={map_name}", *SMALL, *updates]


def train(folder, *arguments):
    """Run the command line in this process, in ``folder``; returns the exit code."""
    folder.mkdir(exist_ok=True)
    here = os.getcwd()
    os.chdir(folder)
    try:
        return training.main(["main.py", *arguments])
    finally:
        os.chdir(here)


def start(folder, *arguments):
    """The same as a process of its own."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, ROOT / "main.py", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_checkpoints(folder, process, count):
    """Wait until a run has written so many."""
    deadline = time.monotonic() + PATIENCE
    while len(steps(folder)) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def models(folder):
    """The one run's folder of checkpoints."""
    (found,) = (folder / "results/models").iterdir()
    return found


def steps(folder):
    """The steps of its checkpoints."""
    runs = list((folder / "results/models").glob("*"))
    return sorted(int(path.name) for run in runs for path in run.iterdir() if path.name.isdigit())


def record(folder, number):
    """The folder of the Sacred run with this number."""
    (found,) = (path for path in folder.glob("results/sacred/*/*/*") if path.name == str(number))
    return found


def series(folder, number):
    """{name: (steps, values)} of what does not measure time."""
    metrics = json.loads((record(folder, number) / "metrics.json").read_text())
    return {name: (m["steps"], m["values"]) for name, m in metrics.items() if name not in TIMES}


def last_checkpoint(folder):
    """Every tensor of the last checkpoint, and its facts about learner and loop."""
    path = models(folder) / str(steps(folder)[-1])
    tensors = {f"{file.name} {name}": t for file in path.rglob("*.safetensors") for name, t in load_file(file).items()}
    facts = facts_alone(path)
    # The global generators, which importing some libraries draws from: a fresh process and this one differ.
    loop = {name: value for name, value in facts["loop"].items() if name not in ("python", "numpy")}
    facts = {"learner": facts["learner"], "loop": loop}
    return int(path.name), {name: t for name, t in tensors.items() if not name.startswith("random.")}, facts
