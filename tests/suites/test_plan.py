"""All runs of a suite are checked, and their times estimated, before the first one starts."""

import json

import pytest

from lolm_plugin.errors import ConfigError
from lolm_plugin.suites import plan, run_process, suite
from tests.suites.runs_for_suites import suite_file


def planned(tmp_path, **changes):
    return plan.check(suite.load(str(suite_file(tmp_path, **changes))).runs(), "none", tmp_path / "results")


def finish(tmp_path, run, *seconds):
    """Write a finished run with one record for each of its parts, which took ``seconds``."""
    folder = tmp_path / "results/runs" / run.key
    for number, length in enumerate(seconds, 1):
        record = folder / "results/sacred/updet_mappo/map" / str(number)
        record.mkdir(parents=True)
        times = {"start_time": "2026-01-01T00:00:00", "stop_time": f"2026-01-01T00:00:{length:02}"}
        (record / "run.json").write_text(json.dumps(times))
    run_process.write_json(folder / run_process.DONE, {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"algorithms": ["updet_mapo"]}, "updet_mapo duel seed 1: --config=updet_mapo is neither"),
        ({"env": "smex"}, "--env-config=smex is neither"),
        ({"maps": ["dual"]}, "updet_mappo dual seed 1: "),
        ({"few_shot": {"lerning_rate": 1}}, "updet_mappo few-shot duel to target seed 1: The key lerning_rate"),
        ({"with": {"t_max": "long"}}, "t_max=long"),
        (
            {"algorithms": ["rnn_mappo"]},
            "rnn_mappo zero-shot duel to target seed 1: rnn_mappo has input and output layers of fixed width for "
            "observations and actions, so that it cannot transfer from 1 agents and 7 actions to 1 and 9; set "
            "algorithms.rnn_mappo.transfer to False",
        ),
    ],
)
def test_the_error_of_an_invalid_run_names_the_run(tmp_path, change, said):
    with pytest.raises(ConfigError) as error:
        planned(tmp_path, **change)
    assert said in str(error.value)


def test_a_recurrent_policy_can_transfer_to_a_map_of_the_same_sizes(tmp_path):
    transfers = [{"source": "duel", "target": "approach"}]
    assert planned(tmp_path, algorithms=["rnn_mappo"], transfers=transfers)


def test_a_task_without_units_can_be_planned(tmp_path):
    tasks = ["lbforaging:Foraging-8x8-2p-3f-v3"]
    assert planned(tmp_path, env="gymma", algorithms=["rnn_mappo"], maps=tasks, transfers=None)


def test_the_time_is_unknown_before_the_first_run(tmp_path):
    items = planned(tmp_path, seeds=[1, 2])
    assert {item.seconds for item in items} == {None}
    text = plan.describe(items, "here", 2)
    assert "few-shot   updet_mappo  duel to target  1,2    300        unknown until the first run" in text
    assert "8 runs, of unknown length until the first run" in text
    assert text.endswith("; here")


def test_times_are_estimated_from_a_finished_run_of_the_same_algorithm_and_map(tmp_path):
    runs = {item.run.title: item.run for item in planned(tmp_path, seeds=[1, 2])}
    finish(tmp_path, runs["updet_mappo target seed 1"], 40, 20)  # 600 steps, resumed once
    finish(tmp_path, runs["updet_mappo zero-shot duel to target seed 2"], 6)
    items = {item.run.title: item.seconds for item in planned(tmp_path, seeds=[1, 2])}
    for seed in (1, 2):
        assert items[f"updet_mappo duel seed {seed}"] is None
        assert items[f"updet_mappo target seed {seed}"] == pytest.approx(60)
        assert items[f"updet_mappo few-shot duel to target seed {seed}"] == pytest.approx(30)  # 300 steps
        assert items[f"updet_mappo zero-shot duel to target seed {seed}"] == pytest.approx(6)
    text = plan.describe(planned(tmp_path, seeds=[1, 2]), "here", 2)
    assert "8 runs, about 96 s and 2 runs of unknown length" in text
    weights = plan.weights(planned(tmp_path, seeds=[1, 2]))
    assert weights[runs["updet_mappo target seed 2"].key] == pytest.approx(60)
    assert weights[runs["updet_mappo duel seed 1"].key] > 0


@pytest.mark.parametrize("content", ["", "[]", '{"start_time": 3}', '{"start_time": "2026-01-01T00:00:00"}'])
def test_a_damaged_record_gives_no_time(tmp_path, content):
    run = planned(tmp_path)[0].run
    finish(tmp_path, run, 40)
    next((tmp_path / "results").rglob("run.json")).write_text(content)
    assert planned(tmp_path)[0].seconds is None


def test_an_evaluation_has_no_training_steps(tmp_path):
    rows = plan.describe(planned(tmp_path), "here", 1).splitlines()
    (row,) = (row.split() for row in rows if row.startswith("zero-shot"))
    assert row[6] == "0"


def test_external_resources_of_a_suite_are_listed_without_secrets(tmp_path):
    settings = {"mongo": "mongodb://user:secret@host/runs", "decisions_file": "d.jsonl", "t_max": 100}
    assert plan.named(planned(tmp_path, **{"with": settings})) == [
        "mongo=mongodb://***@host/runs",
        "decisions_file=d.jsonl",
    ]
    assert plan.named(planned(tmp_path)) == []


def test_few_shot_runs_can_use_the_kl_to_their_source(tmp_path):
    settings = {"t_max": 100, "kl.reference": "source", "kl.enabled": True}
    assert len(planned(tmp_path, algorithms=["lolm_mappo_tiny"], few_shot=settings)) == 4
