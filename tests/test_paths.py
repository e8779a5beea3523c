"""Safe folder names from names of users and environments, and paths that begin with a home folder."""

import os

import pytest

from lolm_plugin.commands import lolm
from lolm_plugin.configuration import config_check, config_files
from lolm_plugin.configuration.fields import Mark
from lolm_plugin.configuration.schema import with_mark
from lolm_plugin.errors import ConfigError
from lolm_plugin.paths import LONGEST_NAME, expand_home, path_component
from lolm_plugin.suites import suite

PLAIN = ("3m", "lbforaging:Foraging-8x8-2p-3f-v3", "updet_mappo", "pz-mpe-simple-spread-v3", "größe 3", "战场", "$x_{$")
UNSAFE = (
    *(
        "..",
        ".",
        "",
        "~",
        "~/runs",
        "a/b",
        "/etc",
        "a\\b",
        "pkg:space/Name-v0",
        "-x",
        " x",
        "x ",
        "x.",
        ".hidden",
        "a\nb",
    ),
    *("a\0b", "a*", "a?", "a[1]", "\x1b[2J", "\udcff", "é" * 200, "x" * 300, "../" * 100),
)


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_name_is_not_changed(name):
    assert path_component(name) == name


@pytest.mark.parametrize("name", UNSAFE)
def test_an_unsafe_name_becomes_one_safe_folder_name(name, tmp_path):
    safe = path_component(name)
    folder = tmp_path / safe
    folder.mkdir()
    assert folder.resolve().parent == tmp_path.resolve()
    assert safe[0] not in "~-. "
    assert len(safe.encode()) <= LONGEST_NAME
    assert path_component(safe) == safe


def test_two_names_never_share_a_folder():
    assert (
        len({path_component(name) for name in (*PLAIN, *UNSAFE, "a_b", "a/ b", "x" * 301)}) == len(PLAIN + UNSAFE) + 3
    )


def test_a_leading_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/reader")
    assert expand_home("~/runs", "local_results_path") == "/home/reader/runs"
    assert expand_home("runs/~", "local_results_path") == "runs/~"
    with pytest.raises(
        ConfigError, match=r"local_results_path=~nosuchuser/x begins with the home of a user who does not"
    ):
        expand_home("~nosuchuser/x", "local_results_path")


@pytest.mark.parametrize("key", sorted(with_mark(Mark.PATH)))
def test_a_home_is_expanded_in_every_path_of_the_configuration(key, host_dir, monkeypatch):
    monkeypatch.setenv("HOME", "/home/reader")
    env = "smaclite" if "map_file" in key else "sc2" if "replay" in key else "probe"
    monkeypatch.setattr(config_files, "HOST_ENVS", ())
    resolved = config_files.resolve("updet_mappo", env, host_dir)
    update = {}
    inner = update
    *parents, last = key.split(".")
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = "~/there"
    config = config_check.apply_updates(resolved, update, host_dir)
    assert config_files.flatten(config)[key] == "/home/reader/there"


@pytest.mark.parametrize("name", ["..", "a/b", "~", "", "x" * 100])
def test_a_name_that_is_not_a_folder_name_is_refused(name, host_dir):
    config = config_files.resolve("updet_mappo", "probe", host_dir).config
    with pytest.raises(ConfigError, match="is not a plain name"):
        config_check.check({**config, "seed": 1, "name": name})


@pytest.mark.parametrize("label", ["..", "a/b", "~"])
def test_a_suites_label_that_is_not_a_folder_name_is_refused(label, tmp_path):
    content = {"env": "smax", "algorithms": {label: {"config": "updet_mappo"}}, "maps": ["3m"]}
    with pytest.raises(ConfigError, match=r"algorithms\..* cannot name a folder of results"):
        suite.parse(content, tmp_path / "mine.yaml")


def test_a_run_of_a_suite_has_one_folder_for_any_task_name(tmp_path):
    content = {"env": "gymma", "algorithms": ["rnn_mappo"], "maps": ["pkg:space/Name-v0"]}
    (run,) = suite.parse(content, tmp_path / "mine.yaml").runs()
    assert len(run.key.split("/")) == 4
    assert os.path.normpath(run.key) == run.key


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "~/none"],
        ["report", ".", "--out=~/none/report"],
        ["import-runs", "~/none", "--mongo=mongodb://127.0.0.1:1/x"],
        ["dashboard", "~/none"],
        ["export-run", "1", "--mongo=mongodb://127.0.0.1:1/x", "--out=~/taken"],
    ],
)
def test_every_command_expands_a_leading_home(arguments, tmp_path, monkeypatch, capsys):
    """A shell does not expand ~ in --out=~/x, so a folder named ~ would be created."""
    (tmp_path / "home/taken").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LOLM_MONGO_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    assert lolm.main(["lolm", *arguments]) == 2
    assert "~" not in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
