"""The JSON layout that marl-eval reads."""

from lolm_plugin.report import marl_eval, records, results
from tests.report.test_records import write


def test_export_nests_runs_by_env_map_line_and_seed(tmp_path):
    tests = {"steps": [10, 20], "values": [0.25, 0.5]}
    metrics = {"test_battle_won_mean": tests, "test_return_mean": {"steps": [20], "values": [7]}, "entropy": tests}
    for number, seed in enumerate((1, 2)):
        write(tmp_path / str(number), config={"seed": seed}, metrics=metrics)
    write(tmp_path / "3", config={"evaluate": True, "transfer_from": "x"}, metrics=metrics)
    write(tmp_path / "4", metrics={"entropy": tests})
    write(tmp_path / "5", config={"seed": 2}, metrics=metrics)
    run = {
        "step_0": {"step_count": 10, "win_rate": [0.25]},
        "step_1": {"step_count": 20, "win_rate": [0.5], "return": [7.0]},
        "absolute_metrics": {"win_rate": [0.5], "return": [7.0]},
    }
    exported = marl_eval.export(results.select(records.read_all(tmp_path)))
    assert exported == {"sc2": {"3m": {"mappo": {"seed_1": run, "seed_2": run}}}}
