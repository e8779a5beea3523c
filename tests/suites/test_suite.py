"""The runs that a suite file defines, and the errors of invalid files."""

import pytest

from lolm_plugin.configuration import updates
from lolm_plugin.errors import ConfigError
from lolm_plugin.suites import plan, suite
from tests.slow import all_slow_but
from tests.suites.runs_for_suites import suite_file


def runs(tmp_path, **changes):
    return suite.load(str(suite_file(tmp_path, **changes))).runs()


def keys(tmp_path, **changes):
    return [run.key for run in runs(tmp_path, **changes)]


def test_a_transfer_adds_its_source_and_its_target_from_scratch(tmp_path):
    assert keys(tmp_path, maps=None) == [
        "scratch/updet_mappo/duel/1",
        "zero_shot/updet_mappo/duel-to-target/1",
        "scratch/updet_mappo/target/1",
        "few_shot/updet_mappo/duel-to-target/1",
    ]


def test_without_few_shot_the_target_is_not_trained(tmp_path):
    assert keys(tmp_path, few_shot=None) == ["scratch/updet_mappo/duel/1", "zero_shot/updet_mappo/duel-to-target/1"]


def test_a_source_is_trained_once_and_before_its_transfers(tmp_path):
    further = [{"source": "duel", "target": "retreat"}, {"source": "duel", "target": "target"}]
    result = runs(tmp_path, transfers=further, maps=["duel", "target"], seeds=[1, 2])
    names = [run.key for run in result]
    assert len(names) == len(set(names)) == 2 * (3 + 2 + 2)
    for index, run in enumerate(result):
        if run.source is not None:
            assert names.index(run.source.key) < index


def test_algorithms_can_have_their_own_seeds_and_maps_and_no_transfer(tmp_path):
    algorithms = {"updet_mappo": {}, "rnn_mappo": {"seeds": [3], "maps": ["retreat"], "transfer": False}}
    result = keys(tmp_path, algorithms=algorithms, seeds=[1, 3])
    assert [key for key in result if "rnn" in key] == ["scratch/rnn_mappo/retreat/3"]


def test_an_algorithms_seeds_replace_the_suites(tmp_path):
    algorithms = {"updet_mappo": {}, "rnn_mappo": {"seeds": [1, 2, 3], "transfer": False}}
    result = keys(tmp_path, algorithms=algorithms, seeds=[2, 3], transfers=None)
    assert [key for key in result if "updet" in key] == [f"scratch/updet_mappo/duel/{seed}" for seed in (2, 3)]
    assert sorted(key for key in result if "rnn" in key) == [f"scratch/rnn_mappo/duel/{seed}" for seed in (1, 2, 3)]


def test_an_algorithms_maps_replace_the_suites(tmp_path):
    result = runs(
        tmp_path, algorithms={"updet_mappo": {"maps": ["target"]}}, transfers=None, maps={"duel": {"lr": 0.2}}
    )
    assert [(run.key, "lr" in run.settings) for run in result] == [("scratch/updet_mappo/target/1", False)]


def test_maps_joined_by_plus_are_trained_together(tmp_path):
    of_map = {"test_maps": ["approach"], "map_weights": [2, 1]}
    transfers = [{"source": "duel+target", "target": "retreat"}]
    training, zero, *_ = runs(tmp_path, maps={"duel+target": of_map}, transfers=transfers)
    assert (training.key, zero.key) == (
        "scratch/updet_mappo/duel+target/1",
        "zero_shot/updet_mappo/duel+target-to-retreat/1",
    )
    given = updates.parse(training.arguments()[3:])
    assert {key: given[key] for key in of_map} == of_map
    assert given["env_args"]["map_name"] == ["duel", "target"]
    assert zero.settings["env_args.map_name"] == "retreat"
    with pytest.raises(ConfigError, match=r"duel\+duel seed 1: env_args.map_name .*has duel twice"):
        plan.check(runs(tmp_path, maps=["duel+duel"], transfers=None), "none", tmp_path)


def test_empty_options_have_no_effect(tmp_path):
    empty = {"description": "", "algorithms": {"updet_mappo": {"with": None}}, "maps": {"duel": None}}
    assert keys(tmp_path, **empty) == keys(tmp_path)


@pytest.mark.parametrize("value", ["1e6", " x", "[1]", "None", "it's"])
def test_a_text_in_a_suite_stays_a_text_in_the_run(tmp_path, value):
    first, *_ = runs(tmp_path, **{"with": {"label": value}})
    assert updates.parse(first.arguments()[3:])["label"] == value


def test_the_most_specific_setting_wins(tmp_path):
    result = runs(
        tmp_path,
        maps={"duel": {"lr": 0.2, "gamma": 0.2}},
        algorithms={"fast": {"config": "updet_mappo", "with": {"gamma": 0.3, "critic": {"width": 8}}}},
        transfers=[{"source": "duel", "target": "target", "with": {"t_max": 77}}],
        **{"with": {"lr": 0.1, "gamma": 0.1, "t_max": 55, "critic.width": 4, "critic.layers": 2}},
    )
    by_key = {run.key: run for run in result}
    settings = by_key["scratch/fast/duel/1"].settings
    wanted = {"lr": 0.2, "gamma": 0.3, "t_max": 55, "critic.width": 8, "critic.layers": 2, "name": "fast", "seed": 1}
    assert {key: settings[key] for key in wanted} == wanted
    assert by_key["few_shot/fast/duel-to-target/1"].settings["t_max"] == 77
    assert by_key["scratch/fast/target/1"].settings["t_max"] == 55


def test_settings_of_an_algorithm_override_those_of_the_kind(tmp_path):
    algorithms = {"updet_mappo": {}, "slow": {"config": "updet_mappo", "with": {"t_max": 33}}}
    transfers = [{"source": "duel", "target": "target", "with": {"t_max": 77}}]
    by_key = {run.key: run for run in runs(tmp_path, algorithms=algorithms, transfers=transfers)}
    assert by_key["few_shot/slow/duel-to-target/1"].settings["t_max"] == 33
    assert by_key["few_shot/updet_mappo/duel-to-target/1"].settings["t_max"] == 77


def test_arguments_of_a_run(tmp_path):
    first, zero, *_ = runs(tmp_path, **{"with": {"lr": 0.1, "entity": {"further_fields": ["x"]}, "lr_decay": False}})
    options, settings = first.arguments()[:3], first.arguments()[3:]
    assert options == ["--config=updet_mappo", "--env-config=probe", "with"]
    assert sorted(settings) == [
        *("entity.further_fields=['x']", "env_args.map_name=duel", "lr=0.1", "lr_decay=False", "save_model=True"),
        "seed=1",
    ]
    assert "evaluate=True" in zero.arguments()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"algoritms": []}, "algoritms is unknown (did you mean algorithms?)"),
        ({"algorithms": None}, "has no algorithms, which is a list of names"),
        (
            {"algorithms": {"updet_mappo": {"seed": [1]}}},
            "algorithms.updet_mappo.seed is unknown (did you mean seeds?)",
        ),
        ({"env": None}, "has no env"),
        ({"maps": None, "transfers": None}, "names neither maps nor transfers"),
        ({"seeds": 3}, "seeds=3 cannot be used, as seeds is a list of whole numbers"),
        ({"seeds": []}, "seeds=[] cannot be used, as seeds is a list"),
        (
            {"algorithms": {"updet_mappo": {"seeds": ["a"]}}},
            "algorithms.updet_mappo.seeds.0=a cannot be used, as seeds is a list of whole",
        ),
        (
            {"transfers": [{"source": "duel"}]},
            "has no transfers.0.target, which is a map; write {source: 3m, target: 8m}",
        ),
        ({"transfers": [{"source": "duel", "target": "duel"}]}, "the transfer from duel has the same target"),
        ({"with": {"seed": 3}}, "seed is set by the suite itself"),
        ({"few_shot": {"transfer_from": "x"}}, "transfer_from is set by the suite itself"),
        ({"algorithms": {"updet_mappo": {"with": {"name": "x"}}}}, "name is set by the suite itself"),
        ({"with": 3}, "with=3 cannot be used, as with is a section; write key: value pairs"),
        ({"maps": 3}, "maps=3 cannot be used, as maps is a list of names"),
        ({"maps": "duel"}, "maps=duel cannot be used, as maps is a list of names"),
        ({"transfers": 3}, "transfers=3 cannot be used, as transfers is a list"),
        (
            {"transfers": [{"source": "duel", "target": "target", "with": 3}]},
            "transfers.0.with=3 cannot be used, as with is a section",
        ),
        ({"seeds": [1, 1]}, "seeds=[1, 1] cannot be used, as seeds is a list of whole numbers, each once"),
        ({"env": ["probe"]}, "env=['probe'] cannot be used, as env is a name for --env-config"),
        ({"with": {"kl": 1, "kl.enabled": False}}, "is a value and a section at once"),
        *(
            (
                {"algorithms": {"updet_mappo": {"maps": maps}}},
                f"algorithms.updet_mappo.maps{shown} cannot be used, as maps is a list of names",
            )
            for maps, shown in ((None, "=None"), ("duel", "=duel"), (3, "=3"), ([], "=[]"), ([3], ".0=3"))
        ),
        (
            {"algorithms": {"updet_mappo": {"with": 3}}},
            "algorithms.updet_mappo.with=3 cannot be used, as with is a section",
        ),
        (
            {"algorithms": {"updet_mappo": {"seeds": None}}},
            "algorithms.updet_mappo.seeds=None cannot be used, as seeds is a list",
        ),
        (
            {"algorithms": {"mine": {"config": None}}},
            "algorithms.mine.config=None cannot be used, as config is the name",
        ),
        (
            {"algorithms": {"updet_mappo": {"transfer": "no"}}},
            "algorithms.updet_mappo.transfer=no cannot be used, as transfer is True or False",
        ),
    ],
)
def test_an_invalid_suite_is_refused(tmp_path, change, said):
    with pytest.raises(ConfigError) as error:
        suite.load(str(suite_file(tmp_path, **change)))
    assert said in str(error.value)


def test_a_duplicate_section_is_refused_with_both_line_numbers(tmp_path):
    file = suite_file(tmp_path)
    lines = len(file.read_text().splitlines())
    file.write_text(file.read_text() + "with: {lr: 0.1}\n")
    with pytest.raises(
        ConfigError, match=rf"with appears twice, in line \d+ and in line {lines + 1}, and only the last"
    ):
        suite.load(str(file))


def test_the_error_of_an_unknown_suite_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"smax_quik is neither a suite \(did you mean smax_quick\?\)"):
        suite.load("smax_quik")


@pytest.mark.parametrize("name", all_slow_but(["smax_quick", "paper", "ablations"], suite.available()))
def test_every_run_of_a_shipped_suite_is_valid(name, tmp_path):
    shipped = suite.load(name)
    result = shipped.runs()
    assert shipped.description
    if shipped.env == "smax":  # configurations of StarCraft are only in a checkout of EPyMARL
        assert [item.run for item in plan.check(result, "none", tmp_path)] == result


def test_paths_in_a_suite_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    algorithms = {"a": {"config": "./mine.yaml"}, "b": {"config": "updet_mappo", "with": {"llm.model": "model"}}}
    first, second = runs(tmp_path, algorithms=algorithms, transfers=None, env="task.yaml")
    assert first.arguments()[:2] == [f"--config={tmp_path}/mine.yaml", f"--env-config={tmp_path}/task.yaml"]
    assert second.arguments()[0] == "--config=updet_mappo"
    assert second.settings["llm.model"] == f"{tmp_path}/model"


@pytest.mark.parametrize("model", ["tiny-llama", "smollm2-135m", "Qwen/Qwen3-0.6B"])
def test_the_name_of_a_model_is_not_a_path(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    if "/" not in model:
        (tmp_path / model).mkdir()
    assert runs(tmp_path, **{"with": {"llm.model": model}})[0].settings["llm.model"] == model
