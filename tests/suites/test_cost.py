"""Costs by arithmetic: counted by hand, equal to the tables of the documentation, and shown with the plan."""

import re
from pathlib import Path

import pytest

from lolm_plugin.configuration.config_files import merge, plugin_config_dir, read, resolve
from lolm_plugin.observations import sc2
from lolm_plugin.paths import BUNDLED
from lolm_plugin.suites import cost, plan, suite
from tests.suites.runs_for_suites import suite_file

DOCS = Path(__file__).parents[2] / "docs"
RATES = suite.load("paper").budget.rates
REFERENCE = read(plugin_config_dir() / "presets/lolm_mappo.yaml")["reference"]


@pytest.fixture(scope="module")
def configured():
    """Return a function for the configuration of a run of lolm_mappo with changes."""
    base = resolve("lolm_mappo", "smax", BUNDLED / "config").config
    return lambda **changes: merge(base, changes)


def rows(page, heading):
    """Yield the cells of the rows of a table in the documentation."""
    text = (DOCS / page).read_text()
    for line in text[text.index(heading) :].split("\n\n")[0].splitlines()[2:]:
        yield [cell.strip(" `") for cell in line.strip("|").split("|")]


def test_a_decision_costs_what_the_performance_page_says(configured):
    """Qwen3 with one of 28 layers adapted: 27.13 passes of the rollout, 10 times .13 of the learner with the KL."""
    one = configured(lora={"layers": 1}, t_max=10, kl={"anneal_steps": 10})
    assert cost.passes(one, 28, 0.13) == (pytest.approx(27.13), pytest.approx(10 * 0.13))
    half = merge(one, {"kl": {"anneal_steps": 5}, "minibatches": 1})
    assert cost.passes(half, 28, 0.13)[1] == pytest.approx(8.5 * 0.13)
    every = merge(one, {"lora": {"layers": None}, "llm": {"read_positions": False}})
    assert cost.passes(every, 28, 0.13) == (28, 280)
    assert sum(cost.passes(merge(one, {"lora": {"layers": None}}), 28, 0.13)) == pytest.approx(298.4, abs=0.1)
    units, flop = 6, cost.decision_flop(merge(one, {"prompt": {"style": "terse"}}), 6)
    assert sum(flop) == pytest.approx((27.13 + 1.3) * (14 + 3.9 * units) * 31.5e6)
    for name, sides, *tokens in ([row[0], row[1], *row[2:5]] for row in rows("performance.md", "| map | agents")):
        for style, cell in zip(cost.TOKENS, tokens, strict=True):
            constant, per_unit = cost.TOKENS[style]
            fitted = constant + per_unit * sum(map(int, sides.split(", ")))
            assert fitted == pytest.approx(int(cell.split()[0]), rel=0.25), (name, style)


def test_the_time_of_a_run_is_play_tests_and_learning(configured):
    run = configured(env_args={"map_name": "3m"}, t_max=1000, test_interval=500, test_nepisode=10, test_sampled=True)
    assert cost.steps(run) == (1000, 4 * 20 * 50)
    assert cost.steps(run, evaluates=True) == (0, 20 * 50)
    rollout, learner = cost.decision_flop(run, 6)
    expected = 5000 / 150 + 3 * 0.75 * (5000 * rollout + 1000 * learner) / 60e12
    assert cost.seconds(run, cost.Rates(60, 150)) == pytest.approx(expected)
    held_out = {"test_maps": ["3m"], "test_maps_nepisode": 30, "test_maps_between": 2, "test_sampled": False}
    many = merge(run, {"env_args": {"map_name": ["3m", "8m"]}, **held_out})
    counted = [(env_args["map_name"], *counts) for env_args, *counts in cost.steps_of_maps(many, False)]
    assert counted == [("3m", 500, 2000), ("8m", 500, 2000), ("3m", 0, (3 * 2 + 30) * 50)]
    assert [*cost.steps_of_maps(many, True)][2][1:] == (0, 30 * 50)
    large = cost.seconds({**many, "env_args": {"map_name": "8m"}, "test_maps": []}, RATES)
    assert large > cost.seconds(many, RATES) > cost.seconds({**run, "test_sampled": False}, RATES)
    assert cost.seconds({**run, "mac": "network_mac"}, cost.Rates(60, 150)) == pytest.approx(5000 / 150)
    assert cost.seconds(merge(run, {"llm": {"model": "tiny-llama"}}), RATES) is None
    assert cost.seconds({**run, "env": "gymma"}, RATES) is None


def test_the_table_of_all_maps_is_this_arithmetic(configured):
    tests = {"test_nepisode": 32, "test_interval": 50_000}
    few = suite.load("paper_week").algorithms["lolm_mappo"].settings
    budgets = read(plugin_config_dir() / "maps/lolm_mappo.yaml")
    table = {row[0]: row[1:] for row in rows("experiments.md", "| map | agents, enemies | steps")}
    assert table.keys() == budgets.keys()
    for name, (sides, steps, published, cheap) in table.items():
        run = merge(configured(**tests, env="sc2", env_args={"map_name": name}), budgets[name])
        battle = sc2.find(name)
        assert (sides, steps) == (f"{battle.n_agents}, {battle.n_enemies}", f"{run['t_max']:,}")
        of_map = {"lora": few["lora"], "prompt": few["prompt"]}
        days = [cost.seconds(merge(run, changes), RATES) / 86400 for changes in (REFERENCE, of_map)]
        assert [published, cheap] == [f"{days[0]:.0f}", f"{days[1]:.1f}"], name


def test_the_paper_in_a_week_fits_a_week_of_one_gpu(tmp_path):
    """Its maps have the same units on SMAX, which needs no checkout of EPyMARL."""
    content = {**read(suite.available()["paper_week"]), "env": "smax"}
    week = suite.parse(content, Path("paper_week.yaml"))
    assert (len(week.maps), len(week.transfers), week.seeds) == (3, 2, [1, 2, 3])
    text = plan.describe(plan.check(week.runs(), "none", tmp_path), "here", 1, week.budget)
    assert re.search(r"not measured: \d days .*of one GPU, which fits the budget of 7 days\. Inputs: 60 TFLOP/s", text)
    assert re.search(r"scratch +lolm_mappo +8m_vs_9m +1,2,3 +2,000,000 +\d+ hours.* \(estimate\)", text)
    slower = week.budget.model_copy(update={"tflops": 20.0})
    assert "does not fit the budget of 7 days" in plan.describe(
        plan.check(week.runs()[:12] * 3, "none", tmp_path), "here", 1, slower
    )


def test_a_suite_of_unknown_sizes_names_them_and_a_wrong_budget_is_refused(tmp_path):
    budget = {"days": 1, "tflops": 60, "env_steps_per_second": 150}
    small = suite.load(str(suite_file(tmp_path, algorithms=["lolm_mappo_tiny"], budget=budget)))
    text = plan.describe(plan.check(small.runs(), "none", tmp_path), "here", 1, small.budget)
    assert "of one GPU and 4 runs of unknown length, which does not fit the budget of 1 days" in text
    for wrong, said in (
        ({**budget, "tflops": 0}, "budget.tflops=0 cannot be used, as tflops is a number of"),
        ({**budget, "tflop": 1}, "budget.tflop is unknown (did you mean tflops?); the keys are days, tflops"),
        ({"tflops": 60}, "has no budget.env_steps_per_second, which is a number"),
        (3, "budget=3 cannot be used, as budget is a section"),
    ):
        with pytest.raises(suite.ConfigError) as error:
            suite.load(str(suite_file(tmp_path, budget=wrong)))
        assert said in str(error.value)
