"""How far a run has come, beside what its learner knows: what a checkpoint keeps so that another process goes on."""

import json
import math
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lolm_plugin import strict_json
from lolm_plugin.checkpoints.files import load_tensors, save_tensors
from lolm_plugin.host.parts import Parts

# So far in the past that the first test is always due.
NEVER = -1


@dataclass
class Progress:
    """Counters of the loop; each ``last_`` is the environment step at which it was done last."""

    episode: int = 0
    last_test_t: int = NEVER  # when a test was due
    end_test_t: int = NEVER  # the test at the end of the run, if none was due there
    last_log_t: int = 0
    last_save_t: int = NEVER
    score: list[float] | None = None  # of the last test: win rate, return


def save(parts: Parts, progress: Progress, folder: Path) -> None:
    """Write counters, statistics in the making, the series logged so far and the generators nobody owns."""
    runner = parts.runner
    python, gauss = random.getstate(), np.random.get_state()
    content = {
        "t_env": runner.t_env,
        "progress": asdict(progress),
        "runner": _runner_state(runner),
        "learner_last_log": getattr(parts.learner, "last_log", None),
        "python": [python[0], list(python[1]), python[2]],
        "numpy": [gauss[0], gauss[1].tolist(), *gauss[2:]],
    }
    (folder / "progress.json").write_text(strict_json.dumps(content))
    (folder / "metrics.json").write_text(strict_json.dumps(_series(parts.logger)))
    generators = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        generators |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    save_tensors(folder / "random.safetensors", generators)


def load(parts: Parts, folder: Path) -> Progress:
    """Restore what ``save`` wrote, the series into the logger; version 0.1.0 wrote nothing of it.

    If the run continues beyond its former end, the test at that end is dropped: the run is then the one that was begun
    with the new ``t_max``.
    """
    parts.runner.t_env = int(folder.name)
    file = folder / "progress.json"
    if not file.is_file():
        return Progress(last_save_t=int(folder.name))
    content = json.loads(file.read_text())
    runner = content["runner"]
    _load_runner_state(parts.runner, {**runner, **{key: _numbers(runner[key]) for key in ("returns", "sums")}})
    parts.learner.last_log = content["learner_last_log"]
    version, words, gauss = content["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = content["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    for where, state in load_tensors(folder / "random.safetensors").items():
        if where == "cpu":
            torch.set_rng_state(state)
        elif torch.cuda.is_available() and int(where.removeprefix("cuda")) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, int(where.removeprefix("cuda")))
    done = Progress(**content["progress"])
    series = json.loads((folder / "metrics.json").read_text())
    if done.end_test_t != NEVER and int(folder.name) <= parts.args.t_max:
        for name in [name for name in series if name.startswith("test_")]:
            series[name] = [point for point in series[name] if point[0] != done.end_test_t]
        done.end_test_t, done.score = NEVER, None
    points = [(t, name, _numbers(value)) for name, points in series.items() for t, value in points]
    for t_env, name, value in sorted(points, key=lambda point: point[:2]):
        parts.logger.log_stat(name, value, t_env)
    return done


def _numbers(content: Any) -> Any:
    """NaN again for each null, which stands for it in a file."""
    if isinstance(content, dict):
        return {key: _numbers(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_numbers(value) for value in content]
    return math.nan if content is None else content


def _runner_state(runner: Any) -> dict[str, Any]:
    if hasattr(runner, "state"):
        return runner.state()
    # EPyMARL's own runners.
    stats = {name: np.asarray(value).item() for name, value in runner.train_stats.items()}
    returns = [np.asarray(value).tolist() for value in runner.train_returns]
    return {"logged_t": runner.log_train_stats_t, "returns": returns, "sums": stats}


def _load_runner_state(runner: Any, state: dict[str, Any]) -> None:
    if hasattr(runner, "load_state"):
        runner.load_state(state)
        return
    runner.log_train_stats_t = state["logged_t"]
    runner.train_returns[:] = [np.array(value) if isinstance(value, list) else value for value in state["returns"]]
    runner.train_stats.update(state["sums"])


def _series(logger: Any) -> dict[str, list[list[float]]]:
    """What was logged, name -> [[t_env, value], ...]; both hosts' loggers keep it."""
    return {name: [[int(t), float(value)] for t, value in points] for name, points in logger.stats.items()}
