"""Closing summary, progress line and curve of a run, in particular its tests."""

import json
from types import SimpleNamespace

import pytest

from lolm_plugin.tracking import console
from lolm_plugin.tracking.console import ProgressObserver, _results, actions_of_tests, draw_curve, summarise
from lolm_plugin.tracking.record_files import Metric

RECORDED = {
    "test_battle_won_mean": {"steps": [0, 5000, 10000], "values": [0.25, 0.75, 0.5]},
    "test_sampled_battle_won_mean": {"steps": [0, 5000, 10000], "values": [0.0, 0.125, 0.25]},
    "battle_won_mean": {"steps": [100, 9900], "values": [0.0, 0.2]},
}
METRICS = {name: Metric(series["steps"], series["values"], []) for name, series in RECORDED.items()}
OURS = {"mac": "prompt_mac", "test_greedy": True, "evaluate": False}


def test_the_summary_names_the_actions_and_steps_of_tests():
    rows = dict(_results(METRICS, OURS))
    said = "50.0% at the end (step 10,000), 75.0% at best (step 5,000), 25.0% before learning (step 0)"
    assert rows["greedy test win rate"] == said
    assert rows["sampled test win rate"].endswith("25.0% at best (step 10,000), 0.0% before learning (step 0)")
    assert rows["training win rate"] == "20.0% at the end (step 9,900), 20.0% at best (step 9,900)"


def test_an_evaluation_has_one_number():
    assert dict(_results(METRICS, {**OURS, "evaluate": True}))["greedy test win rate"] == "50.0%"


@pytest.mark.parametrize(
    ("changes", "actions"), [({}, "greedy"), ({"test_greedy": False}, "sampled"), ({"mac": "basic_mac"}, "")]
)
def test_tests_are_labelled_greedy_or_sampled(changes, actions):
    assert actions_of_tests({**OURS, **changes}) == actions
    label = f"{actions} test win rate".strip()
    assert label in dict(_results(METRICS, {**OURS, **changes}))


def test_the_progress_line_labels_each_win_rate():
    observer = ProgressObserver(100, "greedy")
    observer.latest = {"battle_won_mean": 0.2}
    assert observer.describe() == "training win 20%"
    observer.latest |= {"test_battle_won_mean": 0.5, "test_sampled_battle_won_mean": 0.25}
    assert observer.describe() == "greedy test win 50% | sampled test win 25%"


@pytest.mark.parametrize(("begun", "step", "left"), [(0, 1000, "01:40"), (1000, 1250, "03:20")])
def test_the_time_left_depends_on_the_steps_of_this_process(begun, step, left, monkeypatch):
    """In a resumed run, this process has not played the earlier steps."""
    now = [0.0]
    monkeypatch.setattr("lolm_plugin.tracking.console.time", SimpleNamespace(monotonic=lambda: now[0]))
    observer = ProgressObserver(1500)
    observer.log_metrics({"return_mean": {"steps": [begun], "values": [0.0]}}, {})
    assert observer._left(begun) == "?"
    now[0] = 200.0  # seconds since the start
    observer.log_metrics({"return_mean": {"steps": [step], "values": [0.0]}}, {})
    assert observer._left(step) == left


def test_the_curve_shows_sampled_tests(tmp_path):
    sizes = []
    for number, names in enumerate((METRICS, [name for name in METRICS if "sampled" not in name])):
        draw_curve({name: METRICS[name] for name in names}, "a run", tmp_path / f"{number}.png")
        sizes.append((tmp_path / f"{number}.png").read_bytes())
    assert sizes[0] != sizes[1]


def test_a_curve_that_cannot_be_drawn_is_one_warning(tmp_path, monkeypatch, caplog):
    def full(*given):
        raise OSError("No space left on device")

    monkeypatch.setattr(console, "draw_curve", full)
    (tmp_path / "metrics.json").write_text(json.dumps(RECORDED))
    config = {**OURS, "name": "a", "env": "b", "seed": 1, "env_args": {"map_name": "c"}, "local_results_path": "d"}
    assert "greedy test win rate" in summarise(config, "host", tmp_path, "command", 0.0)
    assert "The curve could not be drawn (No space left on device); the run is finished" in caplog.text


def test_a_name_may_look_like_mathematics(tmp_path):
    draw_curve(METRICS, "$x_{$", tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 0


def test_null_is_shown_as_nan():
    metrics = {"test_return_mean": Metric([0, 5, 10], [1.0, 3.0, None], [])}
    rows = dict(_results(metrics, OURS))
    assert (
        rows["greedy test return"] == "nan at the end (step 10), 3.00 at best (step 5), 1.00 before learning (step 0)"
    )


@pytest.mark.parametrize(
    ("command", "config", "expected"),
    [
        ("main.py --config=a", {}, "main.py --config=a with evaluate=True 'checkpoint_path=a b'"),
        ("main.py --config=a with lr=1", {}, "main.py --config=a with lr=1 evaluate=True 'checkpoint_path=a b'"),
        ("main.py --resume 'a b'", {}, "main.py --resume 'a b' with evaluate=True"),
        ("main.py --resume=r with t_max=9", {}, "main.py --resume=r with t_max=9 evaluate=True"),
        (
            "main.py --config=a with transfer_from=x kl.reference=source",
            {"kl": {"reference": "source"}},
            "main.py --config=a with evaluate=True 'checkpoint_path=a b' kl.reference=pretrained",
        ),
    ],
)
def test_the_play_again_command_is_valid(command, config, expected):
    assert console._play_again(command, "a b", config) == expected
