"""Configuration of a resumed run: only numbers and choices are taken from a checkpoint."""

import copy
import datetime
import json
import logging
from types import SimpleNamespace

import pytest

from lolm_plugin.checkpoints import Store
from lolm_plugin.configuration import checkpoint_config, config_check, config_files, updates
from lolm_plugin.configuration.config_files import flatten, merge
from lolm_plugin.configuration.fields import Withheld
from lolm_plugin.configuration.schema import FIELDS
from lolm_plugin.configuration.updates import nested
from lolm_plugin.errors import ConfigError
from lolm_plugin.run import resuming

LOG = logging.getLogger("resuming")
# Paths, addresses and accounts, each with its default, which replaces it in a resumed run.
WITHHELD = {
    key: mark.default for key, field in FIELDS.items() if (mark := field.get(Withheld)) is not None and not mark.needed
}


@pytest.fixture
def config(host_dir):
    """Return the configuration of a run on a Gymnasium task, with a path in it."""
    updates = {"env_args": {"key": "lbforaging:Foraging-8x8-2p-3f-v3"}, "local_results_path": "elsewhere"}
    resolved = config_files.resolve("rnn_mappo", "gymma", host_dir)
    return {**config_check.apply_updates(resolved, updates, host_dir), "seed": 1}


def put(config, changes):
    """Return the configuration with ``changes``, which have flat keys, also unknown ones."""
    return merge(config, nested(changes, "here"))


def resumed(config, host_dir, tmp_path, updates=None, **facts):
    found = SimpleNamespace(facts={"config": config, **facts}, path=tmp_path / "results/models/run/100")
    return resuming.configuration(found, updates or {}, host_dir, LOG)


def test_a_valid_configuration_is_taken_completely(config, host_dir, tmp_path):
    found, how = resumed(config, host_dir, tmp_path)
    differing = {key for key, value in flatten(found).items() if flatten(config)[key] != value}
    assert differing == {"local_results_path"}
    assert found["local_results_path"] == str(tmp_path / "results")
    assert how.folder == tmp_path / "results/models/run"
    assert dict(how.changes) == {}


@pytest.mark.parametrize("bootstrap", [True, False, None])
def test_bootstrap_time_limit_is_kept(bootstrap, config, host_dir, tmp_path):
    found, _ = resumed(put(config, {"bootstrap_time_limit": bootstrap}), host_dir, tmp_path)
    assert found["bootstrap_time_limit"] is bootstrap


def test_keys_missing_in_an_old_checkpoint_have_their_defaults(tmp_path, host_dir, tiny_args):
    config = vars(tiny_args())
    for key in ("device", "n_agents", "n_actions"):
        del config[key]
    older = copy.deepcopy(merge(config, {"llm": {"token_budget": 99}}))
    for key in ("read_positions", "keep_rollout_states"):
        del older["llm"][key]
    del older["target_kl"], older["head"]["features"]
    found, _ = resumed(older, host_dir, tmp_path)
    assert found["llm"]["token_budget"] == 99
    assert found["llm"]["read_positions"] is True
    assert found["head"]["features"] == "raw"
    assert found["target_kl"] is None


def test_a_renamed_key_of_a_checkpoint_keeps_its_value(tiny_args, tmp_path, host_dir):
    config = vars(tiny_args())
    for key in ("device", "n_agents", "n_actions"):
        del config[key]
    older = copy.deepcopy(merge(config, {"llm": {"product": "onednn", "trunk_cache_gb": 0.25}}))
    del older["llm"]["frozen_cache_gb"]
    found, how = resumed(older, host_dir, tmp_path, resolved_settings={"llm": {"product": "onednn"}})
    assert found["llm"]["frozen_cache_gb"] == 0.25
    assert "product" not in found["llm"], "a removed key is dropped"
    assert how.resolved_settings == {}


HOSTILE = {
    "env_args.key": "results.models.RUN.module:X-v0",
    "layout.description": "results.models.RUN.module:describe",
    "env_args.map_file": "/elsewhere/map.json",
    "env_args.pretrained_wrapper": "PretrainedTag",
    "env_args.rom": "/elsewhere/rom",  # an option of an unknown task
    "env_args.map_name": "../../secret",
    "test_maps": ["99999999m"],  # would fill the memory
    "llm.model": "stranger/model",
    "name": "../x",
    "lora.targets": ["a/b"],
    "unheard_of": "text",
}


@pytest.mark.parametrize("key", HOSTILE)
def test_settings_that_import_or_open_something_must_be_repeated(key, config, host_dir, tmp_path):
    config = put(config, {key: HOSTILE[key]})
    with pytest.raises(ConfigError, match=r"The checkpoint says .*not imported, opened or fetched"):
        resumed(config, host_dir, tmp_path)


def test_repeated_settings_are_taken_from_the_command_line(config, host_dir, tmp_path):
    key = "mine.tasks:X-v0"
    config = put(config, {"env_args.key": key})
    found, how = resumed(config, host_dir, tmp_path, {"env_args": {"key": key}})
    assert found["env_args"]["key"] == key
    assert dict(how.changes) == {}
    with pytest.raises(ConfigError, match=r"env_args.key=other:X-v0 cannot be set with --resume"):
        resumed(config, host_dir, tmp_path, {"env_args": {"key": "other:X-v0"}})


@pytest.mark.parametrize(
    "key", ["lbforaging:Foraging-8x8-2p-3f-v3", "rware:rware-tiny-2ag-v2", "pz-mpe-simple-spread-v3", "CartPole-v1"]
)
def test_tasks_of_known_packages_need_not_be_repeated(key, config, host_dir, tmp_path):
    config = put(config, {"env_args.key": key})
    assert resumed(config, host_dir, tmp_path)[0]["env_args"]["key"] == key


@pytest.mark.parametrize("key", WITHHELD)
def test_paths_addresses_and_accounts_get_their_defaults_with_a_warning(key, config, host_dir, tmp_path, caplog):
    config = put(config, {key: "mongodb://reader:s3cret@localhost/db"})
    found, _ = resumed(config, host_dir, tmp_path)
    expected = str(tmp_path / "results") if key == "local_results_path" else WITHHELD[key]
    assert flatten(found)[key] == expected
    if key != "local_results_path":
        assert f"{key}=mongodb://***@localhost/db is not taken from a checkpoint" in caplog.text


def test_every_text_of_the_shipped_configurations_is_known(host_dir):
    """A new key whose value is a text stops every resumed run until it is listed as a choice or as a path."""
    for name in config_files.available("algs", host_dir):
        for env in ("probe", "smax", "gymma"):
            config = config_files.resolve(name, env, host_dir).config
            assert checkpoint_config.split_settings({**config, "seed": 1}).needed == {}, (name, env)


@pytest.mark.parametrize(
    "update", [{"seed": 99}, {"lr": 0.1}, {"batch_size_run": 4}, {"gru": {"width": 8}}, {"transfer_from": "x"}]
)
def test_settings_of_another_experiment_are_refused(update, config, host_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be set with --resume, .*start a new run with transfer_from=.*/run"):
        resumed(config, host_dir, tmp_path, update)


def test_a_longer_run_on_another_machine_is_allowed_and_recorded(config, host_dir, tmp_path):
    updates = {"t_max": 5_000_000, "use_cuda": False, "torch_threads": 3, "seed": 1}
    found, how = resumed(config, host_dir, tmp_path, updates, resolved_settings={"torch_threads": 7})
    assert found["t_max"] == 5_000_000
    assert how.changes == {
        "t_max": (config["t_max"], 5_000_000),
        "use_cuda": (True, False),
        "torch_threads": (None, 3),
    }
    assert how.resolved_settings == {}, "the command line's threads are used"
    assert resumed(config, host_dir, tmp_path, resolved_settings={"torch_threads": 7})[1].resolved_settings == {
        "torch_threads": 7
    }
    assert resumed(config, host_dir, tmp_path, resolved_settings={"torch_threads": 10**9})[1].resolved_settings == {}


def test_the_source_of_a_few_shot_run_is_not_needed(config, host_dir, tmp_path):
    """The source of a few-shot run may have been moved, and its path may have been relative."""
    config = put(config, {"transfer_from": "../gone", "checkpoint_path": ""})
    found, _ = resumed(config, host_dir, tmp_path)
    assert found["transfer_from"] == "../gone", "its record says few-shot as its parent's"
    (tmp_path / "results").mkdir()
    config_check.check({**found, "env": "probe", "env_args": {"map_name": "duel"}}, resumed=True)


@pytest.mark.parametrize("size", [{"critic": {"width": 10**7}}, {"batch_size_run": 10**9}, {"gru": {"width": 10**9}}])
def test_impossible_sizes_are_refused(size, config, host_dir, tmp_path):
    found, _ = resumed(merge(config, size), host_dir, tmp_path)
    with pytest.raises(ConfigError, match="is out of range"):
        config_check.check(found, resumed=True)


def test_a_number_under_an_unknown_key_must_be_repeated(config, host_dir, tmp_path):
    config = put(config, {"env_args.grid": 20_000})
    with pytest.raises(ConfigError, match=r"The checkpoint says env_args\.grid=20000, and"):
        resumed(config, host_dir, tmp_path)
    assert resumed(config, host_dir, tmp_path, {"env_args": {"grid": 20_000}})[0]["env_args"]["grid"] == 20_000


def test_the_resume_command_repeats_settings_that_no_checkpoint_may_set(config):
    config = put(config, {"llm.model": "/models/mine", "decisions_file": "7", "use_wandb": True})
    said = checkpoint_config.to_repeat(config)
    assert said == ["llm.model=/models/mine", "use_wandb=True", "decisions_file='7'"]
    assert updates.parse(said) == {"llm": {"model": "/models/mine"}, "use_wandb": True, "decisions_file": "7"}


def record(tmp_path, began):
    folder = tmp_path / "results/sacred/updet_mappo/duel/1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"start_time": began}))
    return folder


def run(tmp_path, name, began):
    folder = tmp_path / "results/models" / name
    named = "results/sacred/updet_mappo/duel/1"
    facts = {"sacred_runs": [None, named], "sacred_starts": [[named, began]]}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Store(folder, None) as store:
        store.save(5, lambda folder: (folder / "metrics.json").write_text("{}"), facts)
    return folder


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_records_with_the_same_number_are_distinguished_by_start_time(names, tmp_path):
    older, newer = (datetime.datetime(2026, month, 1).isoformat() for month in (1, 2))
    run(tmp_path, names[0], older)
    folder = run(tmp_path, names[1], newer)
    assert resuming.checkpoints_of(record(tmp_path, newer)) == folder


def test_two_indistinguishable_runs_are_refused(tmp_path):
    for name in "ab":
        run(tmp_path, name, "2026-01-01T00:00:00")
    with pytest.raises(ConfigError, match=r"is named by the checkpoints of .*a and .*b; set --resume to one of these"):
        resuming.checkpoints_of(record(tmp_path, "2026-01-01T00:00:00"))


def test_a_record_with_another_start_time_does_not_match(tmp_path):
    run(tmp_path, "a", "2026-01-01T00:00:00")
    with pytest.raises(ConfigError, match="has no checkpoint that names it"):
        resuming.checkpoints_of(record(tmp_path, "2026-03-01T00:00:00"))


def test_a_run_with_a_slash_in_its_name_is_found(tmp_path):
    """Earlier versions kept the slash of env_args.key in the folder's name, which made several folders."""
    folder = run(tmp_path, "rnn_mappo_seed1_pkg:space/Name-v0_2026", "2026-01-01T00:00:00")
    assert resuming.checkpoints_of(record(tmp_path, "2026-01-01T00:00:00")) == folder


def test_a_recorded_change_has_no_secrets(tmp_path, host_dir, config):
    """``lolm compare`` repeats the database of its suite whenever it resumes a run."""
    found, how = resumed(config, host_dir, tmp_path, {"mongo": "mongodb://user:secret@host/runs"})
    assert found["mongo"] == "mongodb://user:secret@host/runs"
    assert how.changes == {"mongo": ("", "mongodb://***@host/runs")}
