"""Runs are seeds of one line only if their settings are equal; a line's name has the settings that differ."""

import pytest

from lolm_plugin import registry
from lolm_plugin.configuration import experiment
from lolm_plugin.report import marl_eval, records, results, tables
from tests.report.test_records import write

EPYMARL = (  # keys of EPyMARL's default.yaml
    *("name", "label", "repeat_id", "hypergroup", "local_results_path", "checkpoint_path", "load_step", "evaluate"),
    *("save_replay", "use_cuda", "buffer_cpu_only", "render", "test_interval", "test_nepisode", "log_interval"),
    *("learner_log_interval", "runner_log_interval", "save_model", "save_model_interval", "use_tensorboard", "seed"),
    *("use_wandb", "wandb_team", "wandb_project", "wandb_mode", "wandb_save_model"),
)
CURVE = {"test_battle_won_mean": {"steps": [0, 10], "values": [0.0, 1.0]}}
OURS = {"mac": "network_mac", "name": "updet_mappo"}


def add(folder, seed=1, info=None, run=None, metrics=None, map_name="3m", **config):
    """Write the record of a finished run with these settings."""
    count = len(list(folder.glob("*")))
    config = {"seed": seed, "env_args": {"map_name": map_name}, **config}
    return write(folder / f"{count}", config=config, metrics=metrics or CURVE, info=info, run=run)


def select(folder):
    return results.select(records.read_all(folder))


def scratch(folder):
    """Return the seeds of each line of runs from scratch."""
    return select(folder).of_kind("scratch").groupby("line")["seed"].apply(list).to_dict()


def test_each_setting_of_a_sweep_is_a_separate_line(tmp_path):
    for lr in (0.001, 0.0005):
        for seed in (1, 2, 3):
            add(tmp_path, seed, name="lolm_mappo", lr=lr)
    selected = select(tmp_path)
    assert scratch(tmp_path) == {"lolm_mappo, lr=0.0005": [1, 2, 3], "lolm_mappo, lr=0.001": [1, 2, 3]}
    assert selected.excluded == {}
    assert [row[:3] for row in tables.results_table(selected).rows] == [
        ["3m", "lolm_mappo, lr=0.0005", "3"],
        ["3m", "lolm_mappo, lr=0.001", "3"],
    ]
    tree = marl_eval.export(selected)["sc2"]["3m"]
    assert {line: sorted(seeds) for line, seeds in tree.items()} == {
        f"lolm_mappo, lr={lr}": ["seed_1", "seed_2", "seed_3"] for lr in ("0.001", "0.0005")
    }


def test_settings_separate_lines_in_records_of_epymarl(tmp_path):
    add(tmp_path, gamma=0.99)
    add(tmp_path, gamma=0.9)
    add(tmp_path, 2, gamma=0.9, env_args={"map_name": "3m", "difficulty": "7"})
    assert sorted(scratch(tmp_path)) == [
        "mappo, env_args.difficulty=7, gamma=0.9",
        "mappo, env_args.difficulty=not recorded, gamma=0.9",
        "mappo, env_args.difficulty=not recorded, gamma=0.99",
    ]


@pytest.mark.parametrize(
    "further",
    [
        {"checkpoint_path": "results/models/x", "local_results_path": "elsewhere", "label": "mine"},
        {"use_cuda": True, "torch_threads": 4, "microbatch": 100, "llm": {"token_budget": 512}},
        {"test_nepisode": 128, "test_interval": 500, "log_interval": 1, "save_model": True, "use_wandb": True},
        {"env_args": {"map_name": "3m", "seed": 77}, "t_max": 99, "lr": 1},
        {"advantage_floor": 0.0, "greedy_rule": "argmax"},  # newer keys, with the value that had the former effect
        {"imitate": {"teacher": "results/models/another"}},
    ],
)
def test_settings_that_do_not_affect_results_do_not_separate_lines(tmp_path, further):
    first = {"imitate": {"teacher": "results/models/one"}} if "imitate" in further else {}
    add(tmp_path, 1, **{**OURS, "lr": 1.0, **first})
    add(tmp_path, 2, **{**OURS, "lr": 1.0, **further})
    assert scratch(tmp_path) == {"updet_mappo": [1, 2]}


def test_runs_with_different_names_are_separate_lines(tmp_path):
    add(tmp_path, name="a")
    add(tmp_path, name="b")
    assert scratch(tmp_path) == {"a": [1], "b": [1]}


def test_a_run_resumed_with_an_allowed_change_is_counted(tmp_path):
    began = {"start_time": "2025-12-31T10:00:00", "status": "INTERRUPTED"}
    add(tmp_path, 1, llm={"dtype": "bfloat16"}, run=began)
    add(tmp_path, 1, llm={"dtype": "float32"}, info={"resumed_from": {"sacred_run": "x/0"}})
    assert select(tmp_path).excluded == {}
    assert scratch(tmp_path) == {"mappo": [1]}


def test_t_max_separates_lines_only_if_a_schedule_depends_on_it(tmp_path):
    add(tmp_path, 1, t_max=50, lr_decay=True)
    add(tmp_path, 2, t_max=99, lr_decay=True)
    began = {"start_time": "2025-12-31T10:00:00", "status": "INTERRUPTED"}
    add(tmp_path, 3, t_max=50, lr_decay=True, run=began)
    add(tmp_path, 3, t_max=99, lr_decay=True, info={"resumed_from": {"sacred_run": "x/2"}})
    assert scratch(tmp_path) == {"mappo, t_max=50": [1, 3], "mappo, t_max=99": [2]}


def test_a_run_resumed_with_another_setting_is_not_counted(tmp_path):
    add(tmp_path, 1, lr=0.1, run={"start_time": "2025-12-31T10:00:00", "status": "INTERRUPTED"})
    add(tmp_path, 99, lr=0.2, info={"resumed_from": {"sacred_run": "x/0"}})
    selected = select(tmp_path)
    assert list(selected.excluded.values()) == ["completed, but was resumed with other values of lr, seed"]


def test_settings_that_differ_only_between_maps_do_not_separate_lines(tmp_path):
    for map_name, steps in (("3m", 100), ("8m", 200)):
        for lr in (0.1, 0.2):
            add(tmp_path, map_name=map_name, kl={"anneal_steps": steps}, lr=lr)
    selected = select(tmp_path)
    assert selected.algorithms == ["mappo, lr=0.1", "mappo, lr=0.2"]
    assert [row[:2] for row in tables.aggregate_table(selected).rows] == [
        ["mappo, lr=0.1", "2"],
        ["mappo, lr=0.2", "2"],
    ]


def test_unfinished_runs_do_not_change_the_name_of_a_line(tmp_path):
    add(tmp_path, lr=0.1)
    add(tmp_path, lr=0.2, run={"status": "RUNNING"})
    assert scratch(tmp_path) == {"mappo": [1]}


def test_many_differences_are_shortened_in_the_name_and_listed_in_a_table(tmp_path):
    add(tmp_path, a=1, b=1, c=1, d=1, e="x" * 100)
    add(tmp_path, a=2, b=1, c=2, d=2, e="y" * 100)
    add(tmp_path, a=2, b=2, c=2, d=2, e="y" * 99 + "z")
    names = list(scratch(tmp_path))
    assert len(names) == 3
    assert names[0].startswith("mappo, a=1, b=1, c=1, 2 further settings ")
    rows = tables.lines_table(select(tmp_path)).rows
    assert f"e={'x' * 100}" in rows[0][2]


def test_a_text_and_a_number_are_different_settings(tmp_path):
    add(tmp_path, lr=1)
    add(tmp_path, lr="1")
    assert len(scratch(tmp_path)) == 2


def transfer(folder, source_lr, **config):
    info = {"transfer": {"source_map": "3m", "source_settings": {"lr": source_lr}}}
    add(folder, map_name="8m", transfer_from=f"x{source_lr}", info=info, **config)


def test_transfers_from_sources_with_different_settings_are_separate_lines(tmp_path):
    transfer(tmp_path, 0.1, evaluate=True)
    transfer(tmp_path, 0.2, evaluate=True)
    assert list(select(tmp_path).of_kind("zero_shot")["line"]) == ["mappo, source.lr=0.1", "mappo, source.lr=0.2"]


def test_few_shot_is_compared_with_the_same_settings_from_scratch(tmp_path):
    for lr in (0.1, 0.2):
        add(tmp_path, map_name="8m", lr=lr)
        transfer(tmp_path, lr, lr=lr)
    selected = select(tmp_path)
    for line, runs in selected.of_kind("few_shot").groupby("line"):
        (alone,) = selected.scratch_for(runs)["run"]
        assert alone.config["lr"] == runs["run"].iloc[0].config["lr"], line
    assert all(row[-1] != tables.NONE for row in tables.transfer_table(selected).rows)


def test_few_shot_without_the_same_settings_is_compared_with_the_only_line(tmp_path):
    add(tmp_path, map_name="8m", lr=0.3)
    for lr in (0.1, 0.2):
        transfer(tmp_path, 0.3, lr=lr)
    selected = select(tmp_path)
    for _, runs in selected.of_kind("few_shot").groupby("line"):
        assert [run.config["lr"] for run in selected.scratch_for(runs)["run"]] == [0.3]


def test_every_incidental_key_exists():
    """A misspelt key would split the seeds of one experiment into several lines."""
    known = set(experiment._defaults()) | set(EPYMARL)
    assert {key for key in experiment.INCIDENTAL if not key.startswith("env")} <= known
    assert "network_mac" in registry.ENTRIES["mac"]
