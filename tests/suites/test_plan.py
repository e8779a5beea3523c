"""Everything that a run would refuse is refused before the first one starts."""

import pytest

from lolm_plugin.errors import ConfigError
from lolm_plugin.suites import plan, suite
from tests.suites.runs_for_suites import suite_file


def planned(tmp_path, **changes):
    return plan.check(suite.load(str(suite_file(tmp_path, **changes))).runs(), "none")


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
            "rnn_mappo zero-shot duel to target seed 1: rnn_mappo reads the whole observation and writes all actions "
            "through layers of fixed width, so that it cannot go from 1 agents and 7 actions to 1 and 9; set "
            "algorithms.rnn_mappo.transfer to False",
        ),
    ],
)
def test_what_cannot_run_is_said_with_the_run(tmp_path, change, said):
    with pytest.raises(ConfigError) as error:
        planned(tmp_path, **change)
    assert said in str(error.value)


def test_a_recurrent_policy_may_go_to_a_map_of_the_same_sizes(tmp_path):
    transfers = [{"source": "duel", "target": "approach"}]
    assert planned(tmp_path, algorithms=["rnn_mappo"], transfers=transfers)


def test_a_task_without_units_is_planned_too(tmp_path):
    found = planned(
        tmp_path, env="gymma", algorithms=["rnn_mappo"], maps=["lbforaging:Foraging-8x8-2p-3f-v3"], transfers=None
    )
    assert [item.seconds > 0 for item in found] == [True]


def test_more_steps_units_and_seeds_take_longer(tmp_path):
    def seconds(**changes):
        return sum(item.seconds for item in planned(tmp_path, env="smax", transfers=None, **changes))

    one = seconds(maps=["3m"])
    assert seconds(maps=["5m"]) > one
    assert seconds(maps=["3m"], seeds=[1, 2]) == pytest.approx(2 * one)
    assert seconds(maps=["3m"], algorithms={"dt2gs_mappo": {}}) > one
    assert seconds(maps=["3m"], algorithms={"updet_mappo": {"with": {"t_max": 60000}}}) > 20 * one


def test_the_plan_is_a_table(tmp_path):
    text = plan.describe(planned(tmp_path, seeds=[1, 2]), "here", 2)
    assert "few-shot   updet_mappo  duel to target  1,2    300" in text
    assert "8 runs, about" in text
    assert text.endswith("; here")


def test_an_evaluation_alone_takes_no_steps(tmp_path):
    rows = plan.describe(planned(tmp_path), "here", 1).splitlines()
    (row,) = (row.split() for row in rows if row.startswith("zero-shot"))
    assert row[6] == "0"


def test_what_a_suite_names_outside_itself_is_listed_without_secrets(tmp_path):
    settings = {"mongo": "mongodb://user:secret@host/runs", "decisions_file": "d.jsonl", "t_max": 100}
    assert plan.named(planned(tmp_path, **{"with": settings})) == [
        "mongo=mongodb://***@host/runs",
        "decisions_file=d.jsonl",
    ]
    assert plan.named(planned(tmp_path)) == []


def test_few_shot_runs_may_have_the_kl_to_their_source(tmp_path):
    settings = {"t_max": 100, "kl.reference": "source", "kl.enabled": True}
    assert len(planned(tmp_path, algorithms=["lolm_mappo_tiny"], few_shot=settings)) == 4
