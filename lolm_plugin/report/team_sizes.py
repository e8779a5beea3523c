"""Results over team size: the tests of runs that play several maps, at equal environment steps and at equal seconds.

A test has a series for each map: ``test_battle_won_mean/8m`` of a map that the run trains on, and
``held_out_battle_won_mean/10m`` of one of ``test_maps``. A team's size is the map's number of agents.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lolm_plugin import registry
from lolm_plugin.configuration.checkpoint_config import LONG_NUMBER
from lolm_plugin.errors import ConfigError
from lolm_plugin.report.records import TESTS, RunRecord, Series
from lolm_plugin.report.results import Results
from lolm_plugin.tracking.series import GREEDY, HELD_OUT
from lolm_plugin.wording import duration, several

# A test within this share of the wanted step counts as being there. Runs end in the middle of a battle, so their last
# tests have different steps. More would mix tests of different policies.
NEAR = 0.1


class Moment(NamedTuple):
    """Results of one task at the same number of steps, or of seconds, for all runs.

    ``points`` has a row for each run and map: line, seed, map, size, trained (False: held out), value (NaN: not tested
    by then).
    """

    task: str
    when: str  # "50,000 steps" or "2 minutes"
    points: pd.DataFrame


def moments(results: Results) -> Iterator[Moment]:
    """Yield the results at equal steps and, if the records have times and several lines, at equal seconds."""
    counted = results.counted
    for _, runs in counted[counted["kind"] != "zero_shot"].groupby(["kind", "task"], sort=False):
        all_maps = [(row.line, row.run, list(_series_of_maps(row.run, results.metric))) for row in runs.itertuples()]
        tested = [each for each in all_maps if len({size for _, size, _, _ in each[2]}) > 1]
        if not tested:
            continue
        task, curves = str(runs["task"].iloc[0]), [run.series[results.metric] for _, run, _ in tested]
        steps = min(curve.steps[-1] for curve in curves)
        yield Moment(task, several(steps, "step"), _points(tested, steps, in_seconds=False))
        ends = [_elapsed(run, results.metric, curve) for (_, run, _), curve in zip(tested, curves, strict=True)]
        seconds = min((times[-1] if times else 0.0 for times in ends), default=0.0)
        if seconds > 0 and len({line for line, _, _ in tested}) > 1:
            yield Moment(task, duration(seconds), _points(tested, seconds, in_seconds=True, metric=results.metric))


def _series_of_maps(run: RunRecord, metric: str) -> Iterator[tuple[str, int, bool, Series]]:
    """Yield (map, team size, trained, series) for each map with a known size that ``run`` tests."""
    held_out = f"{HELD_OUT}{metric.removeprefix(GREEDY)}/"
    trained = {name: series for name, series in run.series.items() if name.startswith(f"{metric}/")}
    trained = trained or {f"{metric}/{run.map_name}": run.series[metric]}
    for name, series in {
        **trained,
        **{name: run.series[name] for name in run.series if name.startswith(held_out)},
    }.items():
        of_map = name.partition("/")[2]
        if (size := team_size(run.env, of_map)) is not None:
            yield of_map, size, not name.startswith(held_out), series


def team_size(env: str, map_name: str) -> int | None:
    """Return a map's number of agents, None if it is not known. The names may come from a stranger's record."""
    known = registry.ENVS.get(env)
    if known is None or not known.battles or LONG_NUMBER.search(map_name):
        return None
    try:
        return registry.load(known.sizes)({"map_name": map_name})[0]
    except ConfigError:  # not a map of this version, or SMACv2's scenarios are not on this machine
        return None


def _points(
    tested: Sequence[tuple[str, RunRecord, list]], position: float, in_seconds: bool, metric: str = ""
) -> pd.DataFrame:
    rows = []
    for line, run, of_maps in tested:
        for of_map, size, trained, series in of_maps:
            positions = _elapsed(run, metric, series) if in_seconds else series.steps
            value = value_at(position, positions, series.values)
            rows.append(
                {"line": line, "seed": run.seed, "map": of_map, "size": size, "trained": trained, "value": value}
            )
    return pd.DataFrame(rows)


def _elapsed(run: RunRecord, metric: str, series: Series) -> tuple[float, ...]:
    """Return the seconds of each test since the end of the run's first test; empty if they are not known.

    The first test takes time that the algorithm does not need, such as the compilation of environments.
    """
    first = run.series[metric].steps[0]
    tests = [each for name, each in run.series.items() if name.startswith(TESTS)]
    if not series.seconds or not all(each.seconds for each in tests):
        return ()
    begin = max(
        second for each in tests for step, second in zip(each.steps, each.seconds, strict=True) if step == first
    )
    return tuple(max(0.0, second - begin) for second in series.seconds)


def value_at(position: float, positions: Sequence[float], values: Sequence[float]) -> float:
    """Return the value of the nearest test. If it is not near, interpolate between two tests; NaN if there are none."""
    if not len(positions):
        return np.nan
    distances = np.abs(np.subtract(positions, position))
    nearest = int(distances.argmin())
    if distances[nearest] <= NEAR * position:
        return values[nearest]
    return float(np.interp(position, positions, values)) if positions[0] < position < positions[-1] else np.nan


def of_seeds(points: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Average the maps of each run. Returns a row for each seed in every group of ``columns``, with its value.

    The value is NaN if one of the group's maps was not tested.
    """
    return (
        points.groupby([*columns, "seed"], sort=False)["value"]
        .agg(lambda values: values.mean(skipna=False))
        .reset_index()
    )
