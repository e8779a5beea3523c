"""Small runs through the real command line, and readers of their results."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from safetensors.torch import load_file

from lolm_plugin.checkpoints import read_facts_unchecked
from lolm_plugin.commands import train as training

ROOT = Path(__file__).parents[2]
PATIENCE = 600.0  # seconds until a wait fails; a busy machine needs minutes

# Metrics of speed, which differ between equal runs.
TIMES = {"agent_steps_per_second", "llm_time_share"}

SMALL = (
    *("seed=1", "use_cuda=False", "torch_threads=1", "test_nepisode=16", "keep_checkpoints=None"),
    *("test_interval=150", "log_interval=100", "runner_log_interval=90", "learner_log_interval=70"),
    *("save_model=True", "save_model_interval=100", "batch_size_run=16"),
)


def line(algorithm, env, map_name, *updates, host="none"):
    """Return the arguments of a small run."""
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
    """Start the command line as a separate process in ``folder``; return the process."""
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
    """Wait until a run has written ``count`` checkpoints."""
    deadline = time.monotonic() + PATIENCE
    while len(steps(folder)) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


def models(folder):
    """Return the checkpoint folder of the only run."""
    (found,) = (folder / "results/models").iterdir()
    return found


def steps(folder):
    """Return the sorted steps of its checkpoints."""
    runs = list((folder / "results/models").glob("*"))
    return sorted(int(path.name) for run in runs for path in run.iterdir() if path.name.isdigit())


def record(folder, number):
    """Return the folder of the Sacred record with this number."""
    (found,) = (path for path in folder.glob("results/sacred/*/*/*") if path.name == str(number))
    return found


def series(folder, number):
    """Return {name: (steps, values)} of all metrics that do not measure time."""
    metrics = json.loads((record(folder, number) / "metrics.json").read_text())
    return {name: (m["steps"], m["values"]) for name, m in metrics.items() if name not in TIMES}


def last_checkpoint(folder):
    """Return step, tensors, and facts about learner and loop of the last checkpoint."""
    path = models(folder) / str(steps(folder)[-1])
    tensors = {f"{file.name} {name}": t for file in path.rglob("*.safetensors") for name, t in load_file(file).items()}
    facts = read_facts_unchecked(path)
    # Without the global generators: importing some libraries draws from them, so a fresh process differs from this.
    loop = {name: value for name, value in facts["loop"].items() if name not in ("python", "numpy")}
    facts = {"learner": facts["learner"], "loop": loop}
    return int(path.name), {name: t for name, t in tensors.items() if not name.startswith("random.")}, facts
