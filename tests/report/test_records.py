"""Read Sacred records of lolm_plugin and of EPyMARL."""

import json

import pytest

from lolm_plugin.report import records
from lolm_plugin.tracking.provenance import provenance


def write(folder, run=None, config=None, metrics=None, info=None):
    """Write a Sacred record to ``folder``. The arguments change its usual content."""
    folder.mkdir(parents=True)
    usual = {"name": "mappo", "env": "sc2", "env_args": {"map_name": "3m"}, "seed": 3, "t_max": 50}
    times = {"start_time": "2026-01-01T10:00:00.0", "stop_time": "2026-01-01T10:01:30.0"}
    (folder / "run.json").write_text(
        json.dumps({"status": "COMPLETED", "host": {"hostname": "h"}, **times, **(run or {})})
    )
    (folder / "config.json").write_text(json.dumps({**usual, **(config or {})}))
    (folder / "metrics.json").write_text(json.dumps(metrics or {"entropy": {"steps": [1, 2], "values": [0.5, 0.25]}}))
    if info is not None:
        (folder / "info.json").write_text(json.dumps(info))
    return folder


def test_read_a_record_of_epymarl(tmp_path):
    write(tmp_path / "mappo/3m/1", metrics={"loss": {"steps": [5], "values": [{"dtype": "float64", "value": 2.5}]}})
    (run,) = records.read_all(tmp_path)
    assert (run.algorithm, run.env, run.map_name, run.seed, run.kind) == ("mappo", "sc2", "3m", 3, "scratch")
    assert run.series == {"loss": records.Series((5,), (2.5,))}
    assert (run.command, run.commit, run.source_map, run.peak_memory_mb) == (None, None, None, None)
    assert (run.hostname, run.wall_seconds, run.status) == ("h", 90.0, "COMPLETED")


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"evaluate": True, "checkpoint_path": "x"}, "evaluation"),
        ({"evaluate": True, "transfer_from": "x"}, "zero_shot"),
        ({"evaluate": False, "transfer_from": "x"}, "few_shot"),
        ({"evaluate": False, "transfer_from": ""}, "scratch"),
    ],
)
def test_kinds(tmp_path, config, kind):
    run = records.read(write(tmp_path / "1", config=config, info={"transfer": {"source_map": "8m"}}))
    assert (run.kind, run.source_map) == (kind, "8m")


def test_a_resumed_run_counts_once_with_the_time_of_all_its_parts(tmp_path):
    def launch(memory):
        return {"launch": {"command": "c", "commit": "d", "version": "1", "peak_memory_mb": memory}}

    elsewhere = "/another/machine/results/sacred/mappo/3m"
    write(
        tmp_path / "1",
        run={"status": "RUNNING", "stop_time": None, "heartbeat": "2026-01-01T10:00:30"},
        info=launch(70),
    )
    write(tmp_path / "2", info={**launch(50), "resumed_from": {"sacred_run": f"{elsewhere}/1"}})
    write(tmp_path / "3", info={**launch(60), "resumed_from": {"sacred_run": f"{elsewhere}/2"}})
    (run,) = records.read_all(tmp_path)
    assert run.folder == tmp_path / "3"
    assert [path.name for path in run.resumed] == ["1", "2"]
    assert (run.wall_seconds, run.peak_memory_mb) == (30 + 90 + 90, 70)


def test_unusable_records_are_reported_and_skipped(tmp_path):
    write(tmp_path / "1")
    write(tmp_path / "2", config={"env_args": None})
    (write(tmp_path / "3") / "config.json").write_text("{")
    (write(tmp_path / "4") / "metrics.json").write_text("{")
    (write(tmp_path / "5") / "config.json").unlink()
    unusable = []
    assert [run.folder.name for run in records.read_all(tmp_path, unusable)] == ["1"]
    assert unusable == [
        f"{tmp_path / '2'}: config.json has no name or no env_args, so it is not a run of EPyMARL.",
        f"{tmp_path / '3'}: config.json is cut or damaged (not JSON).",
        f"{tmp_path / '4'}: metrics.json is cut or damaged (not JSON).",
        f"{tmp_path / '5'}: config.json is missing.",
    ]


ENDS_EARLY = {"metrics": {"loss": {"steps": [9], "values": [1]}}, "config": {"test_interval": 9, "log_interval": 2}}


@pytest.mark.parametrize(
    ("parts", "defect"),
    [
        ({"metrics": {"loss": {"steps": [], "values": []}}}, "its metrics.json has no measurements"),
        (ENDS_EARLY, "its measurements end at step 9 of 50"),
        ({"run": {"complete": False}}, "the end of its record is missing"),
        ({"run": {"whole": False}}, "the end of its record is missing"),  # the key's name before 0.2.0
        ({"run": {"complete": True}}, ""),
        ({**ENDS_EARLY, "config": {**ENDS_EARLY["config"], "test_interval": 50}}, ""),
        ({**ENDS_EARLY, "config": {**ENDS_EARLY["config"], "imitate": {"teacher": "heuristic"}}}, ""),
        ({**ENDS_EARLY, "config": {**ENDS_EARLY["config"], "transfer_from": "x", "evaluate": True}}, ""),
    ],
)
def test_a_completed_run_with_an_incomplete_record_is_not_whole(tmp_path, parts, defect):
    run = records.read(write(tmp_path / "1", **parts))
    assert (run.defect, run.is_complete) == (defect, not defect)


def test_a_whole_run_counts_until_the_one_that_resumed_it_is_whole(tmp_path):
    write(tmp_path / "1")
    child = write(tmp_path / "2", info={"resumed_from": {"sacred_run": "x/1"}}, run={"status": "INTERRUPTED"})
    assert [run.folder.name for run in records.read_all(tmp_path)] == ["1", "2"]
    (child / "run.json").write_text((tmp_path / "1/run.json").read_text())
    assert [run.folder.name for run in records.read_all(tmp_path)] == ["2"]


@pytest.mark.parametrize("name", ["x/2", "..", ".", "/", "x/9"])
def test_a_record_that_names_no_usable_earlier_run_is_read_alone(tmp_path, name):
    write(tmp_path / "2", info={"resumed_from": {"sacred_run": name}})
    assert [run.folder.name for run in records.read_all(tmp_path)] == ["2"]


def test_a_reused_record_number_is_not_the_resumed_run(tmp_path):
    write(tmp_path / "1", run={"start_time": "2026-01-02T10:00:00"})
    write(tmp_path / "2", info={"resumed_from": {"sacred_run": "x/1"}})
    assert [run.folder.name for run in records.read_all(tmp_path)] == ["1", "2"]


OLD, NEW = {"bootstrap_time_limit": True}, {"bootstrap_time_limit": None}


@pytest.mark.parametrize(("launch", "expected"), [({}, None), ({"time_limits": "truncated"}, True)])
def test_bootstrap_time_limit_of_older_records_is_converted(tmp_path, launch, expected):
    info = {"launch": launch, "transfer": {"source_map": "8m", "source_settings": OLD}}
    run = records.read(write(tmp_path / "1", config=OLD, info=info))
    assert run.config["bootstrap_time_limit"] is run.source_settings["bootstrap_time_limit"] is expected


def test_renamed_keys_of_older_records_have_their_new_names(tmp_path):
    run = records.read(write(tmp_path / "1", config={"llm": {"product": "torch", "trunk_cache_gb": 1.0, "layers": 4}}))
    assert run.config["llm"] == {"frozen_cache_gb": 1.0, "layers": 4}


def test_a_resumed_run_of_an_older_version_is_whole(tmp_path):
    write(tmp_path / "1", config=OLD, run={"status": "INTERRUPTED"}, info={"launch": {"command": "c"}})
    child = {"launch": provenance("c", "bundled"), "resumed_from": {"sacred_run": "x/1"}}
    write(tmp_path / "2", config=NEW, info=child)
    (run,) = records.read_all(tmp_path)
    assert run.is_complete, run.defect
