"""Results over team size on made-up runs: equal steps, equal seconds, times of a resumed run, names from a stranger."""

from datetime import datetime, timedelta

import pytest

from lolm_plugin.commands import lolm
from lolm_plugin.report import records, results, team_sizes
from tests.report.test_records import write
from tests.report.test_report import painted, table

WON, HELD_OUT, START = "test_battle_won_mean", "held_out_battle_won_mean", datetime(2026, 1, 1, 10)
END = {"start_time": START.isoformat(), "stop_time": "2026-01-01T11:00:00"}


def series(*tests, pace=1.0):
    """Return a metric with a test for each (step, value), ``pace`` seconds after the other for each step."""
    steps, values = zip(*tests, strict=True)
    times = [(START + timedelta(seconds=60 + pace * step)).isoformat() for step in steps]
    return {"steps": list(steps), "values": list(values), "timestamps": times}


def add(folder, algorithm, seed, metrics, maps=("3m", "5m"), info=None, run=END):
    config = {"name": algorithm, "seed": seed, "env": "smax", "env_args": {"map_name": list(maps)}, "t_max": 50}
    write(folder, run=run, config=config, metrics=metrics, info=info)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a report on a fast network with two seeds and a language model, which plays 10m only at its end."""
    folder = tmp_path_factory.mktemp("sizes")
    for seed, end in ((1, 0.8), (2, 0.4)):
        curves = {WON: 0.9, f"{WON}/3m": end, f"{WON}/5m": 1.0, f"{HELD_OUT}/10m": end / 2, f"{HELD_OUT}/4m": 0.5}
        found = {name: series((0, 0.0), (30, 0.1), (52, value)) for name, value in curves.items()}
        further = {f"{HELD_OUT}/99999999m": series((52, 1.0)), f"{HELD_OUT}/../x": series((52, 1.0))}
        add(folder / f"fast{seed}", "updet_mappo", seed, {**found, **further})
    slow = {name: series((0, 0.0), (20, 0.2), (50, 0.4), pace=10) for name in (WON, f"{WON}/3m", f"{WON}/5m")}
    slow |= {f"{HELD_OUT}/4m": series((0, 0.0), (50, 0.3), pace=10), f"{HELD_OUT}/10m": series((50, 0.3), pace=10)}
    add(folder / "slow", "lolm_mappo", 1, slow)
    assert lolm.main(["lolm", "report", str(folder)]) == 0
    return folder


def test_held_out_means_at_equal_steps_and_seconds(folder):
    """After 52 seconds the slow run is between its tests at steps 0 and 20, which were 200 seconds apart."""
    assert table(folder, "held_out") == [
        "3m+5m,lolm_mappo,1,50 steps,0.40,0.30,0.30,0.30",
        "3m+5m,updet_mappo,2,50 steps,0.80 ± 0.14,0.40 ± 0.07,0.50 ± 0.00,0.30 ± 0.14",
        "3m+5m,lolm_mappo,1,52 s,0.05,–,0.03,–",
        "3m+5m,updet_mappo,2,52 s,0.80 ± 0.14,0.40 ± 0.07,0.50 ± 0.00,0.30 ± 0.14",
    ]
    rows = table(folder, "team_sizes")
    assert [row.split(",")[2:5] for row in rows[:4]] == [
        ["3m", "3", "yes"],
        ["4m", "4", "no"],
        ["5m", "5", "yes"],
        ["10m", "10", "no"],
    ]
    assert rows[0].endswith("0.40,0.60 ± 0.28")
    assert rows[4].endswith("0.05,0.60 ± 0.28")


def test_the_figure_marks_the_sizes_of_training(folder):
    axis = painted(folder, "team_sizes")
    bars = [line.get_xdata()[0] for line in axis.lines if line.get_linewidth() == 5]
    assert sorted(bars) == [3, 5]
    marks = [line for line in axis.lines if line.get_marker() != "None"]
    hollow = [list(line.get_xdata()) for line in marks if line.get_markerfacecolor() == "white"]
    assert hollow == [[4, 10]] * 2
    assert [list(tick.get_text() for tick in axis.get_xticklabels())] == [["3", "4", "5", "10"]]
    (band,) = axis.collections  # the line with two seeds
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(1.0)


def test_a_resumed_run_has_the_times_of_its_first_tests(tmp_path):
    """The first part ran 100 seconds. The second logged its tests again at its own start, then its own."""

    def part(name, *times, **further):
        metric = {"steps": [0, 20, 40][: len(times)], "values": [0.0, 0.5, 1.0][: len(times)]}
        stamps = [(START + timedelta(seconds=second)).isoformat() for second in times]
        add(tmp_path / name, "updet_mappo", 1, {WON: {**metric, "timestamps": stamps}}, **further)

    first = {"start_time": START.isoformat(), "stop_time": "2026-01-01T10:01:40", "status": "INTERRUPTED"}
    again = {"start_time": "2026-01-01T12:00:00", "stop_time": "2026-01-01T12:01:00"}
    part("1", 10, 60, run=first)
    part("2", 7200, 7200, 7230, info={"resumed_from": {"checkpoint": "x", "sacred_run": "1"}}, run=again)
    (run,) = records.read_all(tmp_path)
    assert run.series[WON].seconds == (10, 60, 130)


def test_runs_on_one_map_and_unknown_maps(tmp_path):
    """A run on one map counts if it has held-out maps of other sizes. Without times there is no equal time."""
    metric = {"steps": [0, 50], "values": [0.0, 1.0]}
    for seed, algorithm in enumerate(("updet_mappo", "lolm_mappo")):
        add(tmp_path / algorithm, algorithm, seed, {WON: metric, f"{HELD_OUT}/8m": metric}, maps=["3m"])
    add(tmp_path / "alone", "updet_mappo", 1, {WON: metric}, maps=["5m"])
    (moment,) = team_sizes.moments(results.select(records.read_all(tmp_path)))
    assert (moment.task, moment.when) == ("3m", "50 steps")
    assert sorted(set(moment.points["map"])) == ["3m", "8m"]
    assert [team_sizes.team_size("smax", name) for name in ("2s3z", "5m_vs_6m", "9999m", "x")] == [5, 5, None, None]
    assert team_sizes.team_size("os", "path") is team_sizes.team_size("gymma", "x") is None
