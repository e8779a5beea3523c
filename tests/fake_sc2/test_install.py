import os
import shlex
import sys
from importlib import metadata
from importlib.machinery import ModuleSpec

import pytest

from . import install as module
from .install import install, requirements_missing
from .maps import MAPS


def test_the_folder_has_all_that_pysc2_needs(tmp_path):
    root = install(tmp_path / "a folder" / "sc2")
    assert root == tmp_path / "a folder" / "sc2"
    assert {path.stem for path in (root / "Maps" / "SMAC_Maps").glob("*.SC2Map")} == {*MAPS, "32x32_flat"}
    assert (root / "Replays").is_dir()
    executable = root / "Versions" / "Base75689" / "SC2_x64"
    assert os.access(executable, os.X_OK)
    command = shlex.split(executable.read_text().splitlines()[1])
    assert command[:2] == ["exec", sys.executable]


def test_the_interpreters_path_may_have_special_characters(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/it's a/place/python")
    script = (install(tmp_path) / "Versions" / "Base75689" / "SC2_x64").read_text()
    assert shlex.split(script.splitlines()[1])[1] == "/it's a/place/python"


def test_installing_twice_changes_nothing(tmp_path):
    install(tmp_path)
    before = {path: path.stat().st_mode for path in tmp_path.rglob("*")}
    install(str(tmp_path))
    assert {path: path.stat().st_mode for path in tmp_path.rglob("*")} == before


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """Return the installed packages, {name: folder}. smac and smacv2 are the right ones."""
    (tmp_path / "env" / "starcraft2").mkdir(parents=True)
    (tmp_path / "env" / "starcraft2" / "starcraft2.py").touch()
    there = dict.fromkeys(("pysc2", "s2clientprotocol", "websockets", "smac", "smacv2"), str(tmp_path))

    def find(name):
        if name not in there:
            return None
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [there[name]]
        return spec

    monkeypatch.setattr(module, "find_spec", find)
    monkeypatch.setattr(metadata, "version", lambda name: "15.0.1")
    return there


def test_with_all_packages_nothing_is_missing(packages):
    assert requirements_missing() is None
    assert requirements_missing("smacv2") is None


@pytest.mark.parametrize("benchmark", ["smac", "smacv2"])
@pytest.mark.parametrize("name", ["pysc2", "s2clientprotocol", "websockets", "itself"])
def test_a_missing_package_is_named(packages, name, benchmark):
    missing = benchmark if name == "itself" else name
    del packages[missing]
    assert f"package {missing}," in requirements_missing(benchmark)


def test_neither_benchmark_needs_the_other(packages):
    smac = packages.pop("smac")
    assert requirements_missing("smacv2") is None
    packages["smac"] = smac
    del packages["smacv2"]
    assert requirements_missing() is None


@pytest.mark.parametrize("benchmark", ["smac", "smacv2"])
def test_another_package_with_the_same_name_is_refused(packages, tmp_path, benchmark):
    packages[benchmark] = str(tmp_path / "elsewhere")
    assert f"package {benchmark} is another one" in requirements_missing(benchmark)


def test_old_websockets_are_refused(packages, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "14.2")
    assert "websockets 15" in requirements_missing()
