import copy
import dataclasses
import pickle
from pathlib import Path

import pytest

from lolm_plugin import registry
from lolm_plugin.host import KINDS, open_host, register
from lolm_plugin.paths import host_config_dir, use_host_config_dir

FILES = {"bundled": "__init__.py", "EPyMARL": "src"}

OWN = {"runner": {"episode", "parallel"}}


class Runner:
    def __init__(self, args, logger, host):
        self.given = (args, logger, host)


@pytest.fixture
def spare(host):
    """Return the host with copies of its registries, which a test may change."""
    return dataclasses.replace(host, registries={kind: dict(table) for kind, table in host.registries.items()})


def test_all_our_entries_are_registered(host):
    assert set(host.registries) == set(KINDS)
    for kind, entries in registry.ENTRIES.items():
        assert set(entries) <= set(host.registries[kind]), kind


def test_every_host_has_the_standard_runners(host):
    for kind, names in OWN.items():
        assert names <= set(host.registries[kind]), kind


def test_registering_again_changes_nothing(spare):
    before = copy.deepcopy({kind: list(table) for kind, table in spare.registries.items()})
    register(spare)
    assert {kind: list(table) for kind, table in spare.registries.items()} == before


def test_a_name_of_the_host_is_not_overwritten(spare, monkeypatch):
    monkeypatch.setitem(registry.ENTRIES, "runner", {"parallel": "somewhere:Runner"})
    with pytest.raises(AssertionError, match="its own runner 'parallel'"):
        register(spare)


def test_entries_import_nothing_before_they_are_called_and_can_be_pickled(spare, monkeypatch):
    monkeypatch.setattr(registry, "ENTRIES", {"env": {"nowhere": "no.such.module:make"}})
    register(spare)
    entry = pickle.loads(pickle.dumps(spare.registries["env"]["nowhere"]))
    with pytest.raises(ModuleNotFoundError):
        entry()


def test_runners_get_the_host_as_an_argument(spare, monkeypatch):
    monkeypatch.setattr(registry, "ENTRIES", {"runner": {"mine": f"{__name__}:Runner"}})
    register(spare)
    args, logger, host = spare.registries["runner"]["mine"](args="args", logger="logger").given
    assert (args, logger) == ("args", "logger")
    assert host is spare


def test_the_log_line_names_the_host_and_its_path(host):
    line = host.describe()
    assert line.startswith(f"Host: {host.name}")
    assert "\n" not in line
    if host.name == "EPyMARL":
        assert str(host.path) in line
        assert host.version[:7] in line
    else:
        assert "EPYMARL_HOME" in line
    assert (host.config_dir / "default.yaml").is_file()


def test_opening_a_host_sets_the_configuration_folder_of_observations(host):
    use_host_config_dir(Path("elsewhere"))
    open_host(None if host.name == "bundled" else host.path)
    assert host_config_dir() == host.config_dir
