"""How far a run has come, beside what its learner knows: what a checkpoint keeps so that another process goes on."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lolm_plugin import strict_json
from lolm_plugin.errors import ConfigError
from lolm_plugin.run.components import Parts
from lolm_plugin.tensor_files import load_tensors, save_tensors
from lolm_plugin.untrusted import Unreadable, first_of_another_type, is_list, is_table, is_whole, read_json

# So far in the past that the first test is always due.
NEVER = -1

LARGEST = 2**20  # bytes of progress.json and of the generators' states; ours have about 15,000
LARGEST_SERIES = 128 * 2**20  # bytes of metrics.json; 25 series of 60,000 points have 40 million


def _is_sum(value: Any) -> bool:
    return _is_float(value) or is_list(value, _is_float)


def _is_float(value: Any) -> bool:
    """A number, or None, which stands for NaN in a file: an environment may have reported such."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and is_whole(point[0]) and _is_float(point[1])


def _is_progress(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    score = value.get("score")
    steps = (number for name, number in value.items() if name != "score")
    return all(map(is_whole, steps)) and (score is None or (is_list(score, _is_float) and bool(score)))


def _is_runner(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and is_whole(value.get("logged_t"))
        and is_list(value.get("returns"), _is_sum)
        and is_table(value.get("sums"), _is_float)
    )


TYPES = {
    "progress": _is_progress,
    "runner": _is_runner,
    "learner_last_log": lambda value: value is None or is_whole(value),
    **dict.fromkeys(("python", "numpy"), lambda value: isinstance(value, list)),
}


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
    content, series = _read(file, TYPES, LARGEST), _read(folder / "metrics.json", {}, LARGEST_SERIES)
    if not is_table(series, lambda points: is_list(points, _is_point)):
        raise _damaged(folder / "metrics.json", "a series is not one of steps and numbers")
    try:
        done = _restore(parts, content, folder)
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError, AttributeError) as error:
        # Python, NumPy, torch and the host's runners each refuse a state in their own way.
        raise _damaged(file, f"{type(error).__name__}: {error}") from error
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


def _read(file: Path, types: Mapping[str, Callable[[Any], bool]], most: int) -> Any:
    """Read a JSON file of a checkpoint. Raises ConfigError unless its values have their ``types``."""
    try:
        content = read_json(file, most)
    except Unreadable as reason:
        raise _damaged(file, str(reason)) from reason
    if (key := first_of_another_type(content, types)) is not None:
        raise _damaged(file, f"{key} is not what it should be" if key else "it is no table")
    return content


def _damaged(file: Path, reason: str) -> ConfigError:
    return ConfigError(f"{file} is damaged ({reason}); set load_step to another checkpoint, or start a new run.")


def _restore(parts: Parts, content: Mapping[str, Any], folder: Path) -> Progress:
    """Restore runner, learner and generators. Raises whatever these raise for a state that they do not take."""
    runner = content["runner"]
    _load_runner_state(parts.runner, {**runner, **{key: _numbers(runner[key]) for key in ("returns", "sums")}})
    if content["learner_last_log"] is not None:  # None: a learner without such a counter
        parts.learner.last_log = content["learner_last_log"]
    version, words, gauss = content["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = content["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    for where, state in load_tensors(folder / "random.safetensors", most=LARGEST).items():
        if where == "cpu":
            torch.set_rng_state(state)
        elif torch.cuda.is_available() and int(where.removeprefix("cuda")) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, int(where.removeprefix("cuda")))
    return Progress(**content["progress"])


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
