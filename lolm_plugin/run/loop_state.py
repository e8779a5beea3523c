"""Training-loop state for checkpoints (counters, episode statistics, series, RNG states): a resumed run is exact."""

import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lolm_plugin import strict_json
from lolm_plugin.checkpoints import MANIFEST, Checkpoint, add_facts
from lolm_plugin.errors import ConfigError
from lolm_plugin.run.components import RunComponents
from lolm_plugin.tensor_files import load_tensors, save_tensors
from lolm_plugin.tracking.series import GREEDY, HELD_OUT
from lolm_plugin.untrusted import Unreadable, first_of_another_type, is_integer, is_list, is_table, read_json

NEVER = -1  # step of an event that has not happened
LARGEST_RNG_FILE = 2**20  # bytes of the torch generators' states; one state has about 5,000
LARGEST_SERIES = 128 * 2**20  # bytes of metrics.json; 25 series of 60,000 points have 40 million


@dataclass
class LoopState:
    """Counters of the training loop; each ``_t`` is the environment step of the last such event."""

    episode: int = 0
    last_test_t: int = NEVER  # last test caused by test_interval
    end_test_t: int = NEVER  # test at the end of the run, unless test_interval caused one there
    last_log_t: int = 0
    last_save_t: int = NEVER
    score: list[float] | None = None  # of the last test, most important value first: win rate, return


def _is_float(value: Any) -> bool:
    """Return True for a number or None. An environment may report NaN, and files store NaN as null."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_return(value: Any) -> bool:
    return _is_float(value) or is_list(value, _is_float)


def _is_counters(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    score = value.get("score")
    steps = (number for name, number in value.items() if name != "score")
    return all(map(is_integer, steps)) and (score is None or (is_list(score, _is_float) and bool(score)))


def _is_runner_state(value: Any, nested: bool = True) -> bool:
    return (
        isinstance(value, dict)
        and is_integer(value.get("logged_t"))
        and is_list(value.get("returns"), _is_return)
        and is_table(value.get("sums"), _is_float)
        and (not nested or is_table(value.get("maps", {}), partial(_is_runner_state, nested=False)))
    )


def _is_series(points: Any) -> bool:
    return is_list(points, lambda point: isinstance(point, list) and len(point) == 2) and all(
        is_integer(t_env) and _is_float(value) for t_env, value in points
    )


TYPES = {
    "counters": _is_counters,
    "runner": _is_runner_state,
    "learner_last_log": lambda value: value is None or is_integer(value),
    **dict.fromkeys(("python", "numpy"), lambda value: isinstance(value, list)),
}


def save(components: RunComponents, state: LoopState, folder: Path) -> None:
    """Write the loop state into a checkpoint: ``random.safetensors``, ``metrics.json`` and facts of its manifest."""
    python = random.getstate()
    numpy: Any = np.random.get_state()
    facts = {
        "counters": asdict(state),
        "runner": _runner_state(components.runner),
        "learner_last_log": getattr(components.learner, "last_log", None),
        "python": [python[0], list(python[1]), python[2]],
        "numpy": [numpy[0], numpy[1].tolist(), *numpy[2:]],
    }
    add_facts(folder, loop=facts)
    # Both hosts' loggers keep every point.
    stats = components.logger.stats
    series = {name: [[int(t), float(value)] for t, value in points] for name, points in stats.items()}
    (folder / "metrics.json").write_text(strict_json.dumps(series))
    generators = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        generators |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    save_tensors(folder / "random.safetensors", generators)


def load(components: RunComponents, checkpoint: Checkpoint) -> LoopState:
    """Restore what ``save`` wrote and log the series again.

    If ``t_max`` was raised, the test at the former end is dropped, so that the run equals one that had the new
    ``t_max`` from its start.

    Raises:
        ConfigError: a file or a fact cannot be used.
    """
    step, facts = checkpoint.step, checkpoint.facts.get("loop", [])
    if (key := first_of_another_type(facts, TYPES)) is not None:
        raise _damaged(checkpoint.path / MANIFEST, f"{key or 'loop'} has an invalid value")
    series = _read_series(checkpoint.path / "metrics.json")
    components.runner.t_env = step
    try:
        state = _restore(components, facts, checkpoint.path)
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError, AttributeError) as error:
        # Python, NumPy, torch and the host's runners each refuse a state in their own way.
        raise _damaged(checkpoint.path / MANIFEST, f"{type(error).__name__}: {error}") from error
    if state.end_test_t != NEVER and step <= components.args.t_max:
        for name in series:
            if name.startswith((GREEDY, HELD_OUT)):
                series[name] = [point for point in series[name] if point[0] != state.end_test_t]
        state.end_test_t, state.score = NEVER, None
    points = [(t_env, name, value) for name, points in series.items() for t_env, value in points]
    for t_env, name, value in sorted(points, key=lambda point: point[:2]):
        components.logger.log_stat(name, value, t_env)
    return state


def _read_series(file: Path) -> dict[str, list[list[Any]]]:
    """Read the series, name -> [[t_env, value], ...]."""
    try:
        series = read_json(file, LARGEST_SERIES)
    except Unreadable as reason:
        raise _damaged(file, str(reason)) from reason
    if not is_table(series, _is_series):
        raise _damaged(file, "a series is not a list of steps and numbers")
    return _null_to_nan(series)


def _null_to_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _null_to_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_null_to_nan(value) for value in content]
    return math.nan if content is None else content


def _damaged(file: Path, reason: str) -> ConfigError:
    return ConfigError(f"{file} is damaged ({reason}); set load_step to another checkpoint, or start a new run.")


def _restore(components: RunComponents, facts: Mapping[str, Any], folder: Path) -> LoopState:
    """Restore runner, learner and RNGs. Raises any error that one of them raises for an invalid state."""
    runner = facts["runner"]
    numbers = {key: _null_to_nan(runner[key]) for key in ("returns", "sums", "maps") if key in runner}
    _load_runner_state(components.runner, {**runner, **numbers})
    if facts["learner_last_log"] is not None:  # None: a learner without such a counter
        components.learner.last_log = facts["learner_last_log"]
    version, words, gauss = facts["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = facts["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    for device, state in load_tensors(folder / "random.safetensors", most=LARGEST_RNG_FILE).items():
        if device == "cpu":
            torch.set_rng_state(state)
        elif torch.cuda.is_available() and int(device.removeprefix("cuda")) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, int(device.removeprefix("cuda")))
    return LoopState(**facts["counters"])


def _runner_state(runner: Any) -> dict[str, Any]:
    if hasattr(runner, "state"):
        return runner.state()
    # One of EPyMARL's own runners.
    sums = {name: np.asarray(value).item() for name, value in runner.train_stats.items()}
    returns = [np.asarray(value).tolist() for value in runner.train_returns]
    return {"logged_t": runner.log_train_stats_t, "returns": returns, "sums": sums}


def _load_runner_state(runner: Any, state: dict[str, Any]) -> None:
    if hasattr(runner, "load_state"):
        runner.load_state(state)
        return
    runner.log_train_stats_t = state["logged_t"]
    runner.train_returns[:] = [np.array(value) if isinstance(value, list) else value for value in state["returns"]]
    runner.train_stats.update(state["sums"])
