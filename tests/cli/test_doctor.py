"""``lolm doctor`` as a whole, and its queries about packages."""

import os
import sys

import pytest

from lolm_plugin import tuning
from lolm_plugin.commands import doctor, lolm
from lolm_plugin.doctor import machine, packages
from lolm_plugin.doctor.packages import CheckResult, Packages
from lolm_plugin.errors import ConfigError

HAS_NOTHING = Packages(lambda _: None, lambda _: None, lambda _: None)
FOUND = [CheckResult(True, "game folder", ""), CheckResult(True, "smac", ""), CheckResult(True, "smacv2", "")]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a fake module, and with a version a distribution, first on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.fspath(site))

    def put(file, text="", version=None):
        path = site / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if version:
            name = path.relative_to(site).parts[0]
            notes = site / f"{name}-{version}.dist-info"
            notes.mkdir()
            (notes / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        return path

    return put


def environment(name, found=FOUND, checkout=True, probes=HAS_NOTHING):
    (line,) = [line for line in machine.environments(found, checkout, probes) if line.what == name]
    return line


# Environments


@pytest.mark.parametrize("name", ["sc2", "sc2v2"])
def test_starcraft_is_played_inside_epymarl(name):
    assert environment(name).usable
    assert "inside EPyMARL" in environment(name).detail
    without = environment(name, checkout=False)
    assert not without.usable
    assert without.detail.endswith("needs an EPyMARL checkout (see Host)")


@pytest.mark.parametrize(("name", "other"), [("sc2", "smacv2"), ("sc2v2", "smac")])
def test_starcraft_refers_to_its_section(name, other):
    lacks_other = [CheckResult(line.what != other, *line[1:]) for line in FOUND]
    assert environment(name, lacks_other).usable
    lacks_all = [CheckResult(False, *line[1:]) for line in FOUND]
    own = "smac" if other == "smacv2" else "smacv2"
    line = environment(name, lacks_all, checkout=False)
    assert line.detail.endswith(f"needs an EPyMARL checkout (see Host) and game folder, {own} (see StarCraft II)")


def test_smaclite(tmp_path):
    assert "pip install git+https://github.com/uoe-agents/smaclite.git" in environment("smaclite").detail
    (tmp_path / "env").mkdir()
    has_it = HAS_NOTHING._replace(folder={"smaclite": tmp_path}.get)
    assert not environment("smaclite", probes=has_it).usable
    (tmp_path / "env/smaclite.py").touch()
    assert environment("smaclite", probes=has_it).usable
    assert environment("smaclite", probes=has_it, checkout=False).detail.endswith("EPyMARL checkout (see Host)")
    broken = has_it._replace(
        import_error=lambda module: f"OSError: Could not load libspatialindex_c library ({module})"
    )
    line = environment("smaclite", probes=broken)
    assert not line.usable
    assert "libspatialindex_c library (smaclite)): apt-get install libspatialindex-dev, or pip install" in line.detail
    line = environment("smaclite", probes=has_it._replace(import_error=lambda module: "TypeError: no reason given"))
    assert "TypeError: no reason given): pip install --force-reinstall git+" in line.detail


# Packages


def test_the_folder_and_version_of_a_package_are_found_without_importing_it(install):
    path = install("smac/__init__.py", "raise SystemExit('imported')", version="2.4.1")
    assert packages.folder("smac") == path.parent
    assert packages.version("smac") == "2.4.1"
    assert "smac" not in sys.modules


def test_the_folder_of_other_modules(install):
    assert packages.folder("lolm_no_such_module") is None
    assert packages.version("lolm-no-such-module") is None
    module, clone = install("lolm_file.py"), install("lolm_clone/setup.txt")
    assert packages.folder("lolm_file") == module
    assert packages.folder("lolm_clone") == clone.parent


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("print('banner')", None),
        ("print('banner'); raise TypeError('Descriptors cannot\\nmore')", "TypeError: Descriptors cannot"),
        ("raise ValueError", "ValueError: no reason given"),
        ("import os; os._exit(7)", "the process ended with code 7"),
    ],
)
def test_an_import_is_tried_in_another_process(text, error, install):
    install("lolm_broken/api.py", text)
    assert packages.import_error("lolm_broken.api") == error


def test_a_hanging_import_times_out(install, monkeypatch):
    monkeypatch.setattr(packages, "IMPORT_TIMEOUT", 0.5)
    install("lolm_slow.py", "import time; time.sleep(30)")
    assert packages.import_error("lolm_slow") == "no answer in 0.5 s"


# The command


def test_doctor_reports_problems_and_changes_nothing(install, tmp_path, monkeypatch, capsys):
    descriptors = "raise TypeError('Descriptors cannot be created directly.')"
    install("s2clientprotocol/__init__.py", version="4.10.1")
    install("s2clientprotocol/sc2api_pb2.py", descriptors)
    install("pysc2/__init__.py", "raise SystemExit('imported')", version="3.0.0")
    install("smac/__init__.py", "raise SystemExit('imported')", version="2.4.1")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", os.fspath(home))
    monkeypatch.setenv("SC2PATH", os.fspath(home))
    monkeypatch.setenv("EPYMARL_HOME", "none")
    before = dict(os.environ)
    assert lolm.main(["lolm", "doctor"]) == 0
    text = capsys.readouterr().out
    section = text[text.index("\nStarCraft II\n") :].split("\n\n")[0]
    lines = [line for line in section.splitlines() if line.startswith("  [")]
    assert len(lines) == 8
    for what, word in {
        "[ok] game folder": "from SC2PATH",
        "[--] game version": "no Versions/BaseNNNNN",
        "[--] SMAC's maps": "all 23 missing",
        "[--] SMACv2's map": "32x32_flat missing",
        "[--] s2clientprotocol": '"protobuf<3.21"',
        "[--] pysc2": "needs s2clientprotocol",
        "[--] smac:": "pip uninstall smac",
    }.items():
        assert any(what in line and word in line for line in lines), what
    assert "[--] sc2: " in text
    assert list(home.iterdir()) == []
    assert dict(os.environ) == before


def test_doctor_tunes_when_asked_and_shows_it_afterwards(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LOLM_CACHE", str(tmp_path))
    monkeypatch.setattr(tuning, "busy", lambda: False)
    for arguments, shown in ((["doctor"], "nothing measured yet"), (["doctor", "--tune"], ""), (["doctor"], "")):
        assert lolm.main(["lolm", *arguments]) == 0
        section = capsys.readouterr().out.split("\nFastest on this machine, as measured\n")[1].split("\n\n")[0]
        assert shown in section
    for what in ("threads for language models", "threads for small networks"):
        assert f"[ok] {what}: " in section


def test_doctor_does_not_tune_on_a_busy_machine(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LOLM_CACHE", str(tmp_path))
    monkeypatch.setattr(tuning, "busy", lambda: True)
    assert lolm.main(["lolm", "doctor", "--tune"]) == 2
    assert "set torch_threads." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_hanging_clone_times_out(monkeypatch, tmp_path):
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(doctor, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(doctor, "CLONE_TIMEOUT", 0.2)
    with pytest.raises(
        ConfigError, match=r"^--fetch-epymarl gave up on .* after 0\.2 s; remove .*epymarl and try again"
    ):
        doctor.fetch_epymarl()
