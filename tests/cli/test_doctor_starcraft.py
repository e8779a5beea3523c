"""The section "StarCraft II" of ``lolm doctor``: each of its messages, on fake machines."""

import pytest

from lolm_plugin.doctor import starcraft
from lolm_plugin.doctor.packages import Packages
from lolm_plugin.doctor.starcraft import Machine
from lolm_plugin.errors import ConfigError

S2 = "s2clientprotocol"
DESCRIPTORS = "TypeError: Descriptors cannot be created directly."
LINUX_EXE = "SC2_x64"


@pytest.fixture
def machine(tmp_path):
    """A machine with a home, a current folder and nothing else."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()

    def make(system="Linux", **environ):
        return Machine(environ, tmp_path / "work", tmp_path / "home", system, packages())

    return make


def packages(versions=None, folders=None, errors=None):
    """Return fake packages: versions by distribution, folders and import errors by module."""
    return Packages((versions or {}).get, (folders or {}).get, (errors or {}).get)


def add_build(game, build, executable=LINUX_EXE, mode=0o755):
    path = game / f"Versions/Base{build:05d}" / executable
    path.parent.mkdir(parents=True)
    path.touch(mode)
    return path


def add_maps(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.SC2Map").touch()


# The game's folder


@pytest.mark.parametrize("value", ["{home}/game", "~/game", "../home/game"])
def test_sc2path_names_the_game(value, machine):
    game = machine().home / "game"
    game.mkdir()
    path, found = starcraft.game_folder(machine(SC2PATH=value.format(home=machine().home)))
    assert path.samefile(game)
    assert found.usable
    assert "from SC2PATH" in found.detail


@pytest.mark.parametrize(
    ("system", "where"), [("Linux", "github.com/Blizzard/s2client-proto"), ("Darwin", "battle.net")]
)
def test_sc2path_that_names_no_folder(system, where, machine):
    _, found = starcraft.game_folder(machine(system, SC2PATH="/nowhere/SC2"))
    assert not found.usable
    assert "SC2PATH=/nowhere/SC2 is not a folder" in found.detail
    assert where in found.detail
    assert "correct SC2PATH" in found.detail


def test_sc2path_set_to_nothing(machine):
    _, found = starcraft.game_folder(machine(SC2PATH=""))
    assert not found.usable
    assert "SC2PATH is empty" in found.detail
    assert f"{machine().home}/StarCraftII" in found.detail


def test_without_sc2path_epymarl_takes_the_folder_below_the_current_one(machine):
    inside = machine().cwd / "3rdparty/StarCraftII"
    inside.mkdir(parents=True)
    path, found = starcraft.game_folder(machine())
    assert path == inside
    assert found.usable
    assert f"{inside}, where EPyMARL looks" in found.detail
    assert f"outside EPyMARL it is {machine().home}/StarCraftII" in found.detail


def test_without_sc2path_epymarl_misses_the_game_at_home(machine):
    game = machine().home / "StarCraftII"
    game.mkdir()
    path, found = starcraft.game_folder(machine())
    assert path == game  # the other checks use it, so that one run reports everything
    assert not found.usable
    assert f"EPyMARL looks in {machine().cwd}/3rdparty/StarCraftII, not in {game}" in found.detail
    assert f"export SC2PATH={game}" in found.detail


def test_no_game_anywhere(machine):
    _, found = starcraft.game_folder(machine())
    assert not found.usable
    for word in (f"{machine().cwd}/3rdparty/StarCraftII", f"{machine().home}/StarCraftII", "install", "set SC2PATH"):
        assert word in found.detail


@pytest.mark.parametrize(
    ("system", "default"),
    [("Darwin", "/Applications/StarCraft II"), ("Windows", "C:/Program Files (x86)/StarCraft II")],
)
def test_no_game_where_epymarl_sets_nothing(system, default, machine):
    path, found = starcraft.game_folder(machine(system))
    assert str(path) == default
    assert not found.usable
    assert f"{default} is not there" in found.detail
    assert "EPyMARL" not in found.detail


@pytest.mark.parametrize(
    ("system", "notes", "executable"),
    [
        ("Windows", "Documents", r"Versions\Base75689\SC2_x64.exe"),
        ("Darwin", "Library/Application Support/Blizzard", "Versions/Base75689/SC2.app/Contents/MacOS/SC2"),
    ],
)
def test_the_file_that_the_game_writes_names_its_folder(system, notes, executable, machine):
    game = machine().home / "My Games"
    game.mkdir()
    note = machine().home / notes / "StarCraft II/ExecuteInfo.txt"
    note.parent.mkdir(parents=True)
    note.write_text(f"executable = {game}/{executable}\0")
    path, found = starcraft.game_folder(machine(system))
    assert path == game
    assert found.usable
    assert "without SC2PATH" in found.detail


# The game's version


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (75689, ("4.10 (Base75689)", "4.6.2, not comparable")),
        (69232, ("4.6.2 (Base69232)", "SMAC paper", "not comparable")),
        (75800, ("Base75800; works", "not comparable", "4.10")),
    ],
)
def test_each_version_and_what_its_win_rates_compare_with(build, words, tmp_path):
    add_build(tmp_path, build)
    found = starcraft.game_version(tmp_path, "Linux")
    assert found.usable
    assert all(word in found.detail for word in words)
    assert "newest" not in found.detail


def test_the_newest_of_several_versions_plays(tmp_path):
    for build in (75689, 69232):
        add_build(tmp_path, build)
    (tmp_path / "Versions/Base").mkdir()  # not a build, because it has no number
    found = starcraft.game_version(tmp_path, "Linux")
    assert found.detail.startswith("4.10")
    assert "the newest of 2 here" in found.detail
    assert "env_args.game_version" in found.detail


@pytest.mark.parametrize(("system", "name"), [("Windows", "SC2_x64.exe"), ("Darwin", "SC2.app/Contents/MacOS/SC2")])
def test_the_executable_of_each_system(system, name, tmp_path):
    add_build(tmp_path, 75689, name)
    assert starcraft.game_version(tmp_path, system).usable
    found = starcraft.game_version(tmp_path, "Linux")
    assert not found.usable
    assert f"{tmp_path}/Versions/Base75689/SC2_x64 is missing" in found.detail
    assert "for Linux (https://github.com/Blizzard" in found.detail


@pytest.mark.parametrize("folder", ["", "Versions", "Versions/BaseLatest"])
def test_a_folder_that_is_not_the_game(folder, tmp_path):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    found = starcraft.game_version(tmp_path, "Linux")
    assert not found.usable
    assert f"{tmp_path} has no Versions/BaseNNNNN; set SC2PATH" in found.detail


def test_an_executable_without_permission(tmp_path):
    path = add_build(tmp_path, 75689, mode=0o644)
    found = starcraft.game_version(tmp_path, "Linux")
    assert not found.usable
    assert found.detail.endswith(f"is not executable; chmod +x {path}")


def test_a_version_without_the_interface(tmp_path):
    add_build(tmp_path, 55505)
    found = starcraft.game_version(tmp_path, "Linux")
    assert not found.usable
    assert "Base55505 is too old" in found.detail
    add_build(tmp_path, 55958)
    assert starcraft.game_version(tmp_path, "Linux").usable


# The maps


def maps(game, names=("3m", "8m", "MMM")):
    return starcraft.maps(game, "SMAC's maps", names, "unzip URL")


def test_all_maps_are_there(tmp_path):
    add_maps(tmp_path / "Maps/SMAC_Maps", ["3m", "8m", "MMM"])
    assert maps(tmp_path)[::2] == (True, f"all 3 in {tmp_path}/Maps/SMAC_Maps")
    assert maps(tmp_path, ["3m"])[::2] == (True, f"3m in {tmp_path}/Maps/SMAC_Maps")


def test_some_maps_are_missing(tmp_path):
    add_maps(tmp_path / "Maps/SMAC_Maps", ["8m"])
    found = maps(tmp_path)
    assert not found.usable
    assert found.detail == f"3m, MMM missing in {tmp_path}/Maps/SMAC_Maps; unzip URL into {tmp_path}/Maps"


def test_all_maps_are_missing(tmp_path):
    assert maps(tmp_path).detail.startswith(f"all 3 missing in {tmp_path}/Maps/SMAC_Maps; unzip URL into")
    assert maps(tmp_path, ["3m"]).detail.startswith("3m missing in")


@pytest.mark.parametrize("folder", ["Maps", "Maps/SMAC_Maps/SMAC_Maps"])
def test_maps_unzipped_into_a_wrong_folder(folder, tmp_path):
    add_maps(tmp_path / folder, ["3m", "8m", "MMM"])
    add_maps(tmp_path / "Maps/Melee", ["Simple64"])  # comes with the game
    found = maps(tmp_path)
    assert not found.usable
    assert found.detail.endswith(f"move the maps in {tmp_path / folder} there")


def test_maps_in_a_folder_that_pysc2_does_not_read(tmp_path):
    add_maps(tmp_path / "maps/SMAC_Maps", ["3m", "8m", "MMM"])
    found = maps(tmp_path)
    assert not found.usable
    assert found.detail.endswith(f"mv {tmp_path}/maps {tmp_path}/Maps")


def test_the_maps_are_smacs_23_and_the_one_of_smacv2(tmp_path):
    assert len(set(starcraft.MAPS)) == 23
    assert {"3m", "MMM2", "so_many_baneling", "2c_vs_64zg"} <= set(starcraft.MAPS)
    assert starcraft.MAPS_V2 == ("32x32_flat",)


# The packages


@pytest.mark.parametrize(
    ("versions", "errors", "usable", "detail"),
    [
        ({}, {}, False, 'not installed; pip install s2clientprotocol "protobuf<3.21"'),
        ({S2: "4.10", "protobuf": "3.20.3"}, {}, True, "4.10, with protobuf 3.20.3"),
        (
            {S2: "4.10", "protobuf": "7.36.2"},
            {f"{S2}.sc2api_pb2": DESCRIPTORS},
            False,
            '4.10 does not load with protobuf 7.36.2; pip install "protobuf<3.21" '
            "(or, slower, export PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python)",
        ),
        (
            {S2: "4.10"},
            {f"{S2}.sc2api_pb2": "ModuleNotFoundError: No module named 'google'"},
            False,
            "4.10 does not load (ModuleNotFoundError: No module named 'google'); "
            'pip install --force-reinstall s2clientprotocol "protobuf<3.21"',
        ),
    ],
)
def test_s2clientprotocol(versions, errors, usable, detail):
    assert starcraft.s2clientprotocol(packages(versions, errors=errors)) == (usable, S2, detail)


@pytest.mark.parametrize(
    ("version", "errors", "usable", "detail"),
    [
        (None, {}, False, 'not installed; pip install pysc2==3.0.0 "protobuf<3.21"'),
        ("3.0.0", {}, True, "3.0.0"),
        ("4.0.0", {}, True, "4.0.0, where EPyMARL asks for 3.0.0"),
        ("3.0.0", {f"{S2}.sc2api_pb2": DESCRIPTORS}, False, "3.0.0 needs s2clientprotocol; fix that first"),
        (
            "3.0.0",
            {"pysc2.run_configs": "ModuleNotFoundError: No module named 'websocket'"},
            False,
            "3.0.0 does not load (ModuleNotFoundError: No module named 'websocket'); "
            'pip install --force-reinstall pysc2==3.0.0 "protobuf<3.21"',
        ),
    ],
)
def test_pysc2(version, errors, usable, detail):
    assert starcraft.pysc2(packages({"pysc2": version}, errors=errors)) == (usable, "pysc2", detail)


BENCHMARKS = [
    (starcraft.smac, "smac", "env/starcraft2/starcraft2.py"),
    (starcraft.smacv2, "smacv2", "env/starcraft2/wrapper.py"),
]


@pytest.mark.parametrize(("check", "name", "file"), BENCHMARKS)
def test_the_right_smac(check, name, file, tmp_path):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    assert check(packages(folders={name: tmp_path})) == (True, name, f"the StarCraft one, in {tmp_path}")


@pytest.mark.parametrize(("check", "name", "file"), BENCHMARKS)
def test_the_wrong_smac(check, name, file, tmp_path):
    (tmp_path / "__init__.py").touch()
    found = check(packages(folders={name: tmp_path}))
    assert not found.usable
    assert f"{tmp_path} is another package of that name" in found.detail
    assert ("PyPI's optimiser" in found.detail) == (name == "smac")
    assert f"pip uninstall {name} && pip install git+https://github.com/oxwhirl/{name}.git" in found.detail


@pytest.mark.parametrize(("check", "name", "file"), BENCHMARKS)
def test_a_clone_that_hides_smac(check, name, file, tmp_path):
    found = check(packages(folders={name: tmp_path}))
    assert not found.usable
    assert f"{tmp_path} is only a folder" in found.detail


@pytest.mark.parametrize(("check", "name", "file"), BENCHMARKS)
def test_no_smac(check, name, file):
    found = check(packages())
    assert not found.usable
    assert found.detail.endswith(f"; pip install git+https://github.com/oxwhirl/{name}.git")
    assert ("sc2v2 only" in found.detail) == (name == "smacv2")


# The section


def test_a_machine_without_the_game_gets_the_full_list_of_what_to_do(machine):
    found = starcraft.check_all(machine())
    names = ["game folder", "SMAC's maps", "SMACv2's map", S2, "pysc2", "smac", "smacv2"]
    assert [result.what for result in found] == names
    assert not any(result.usable for result in found)
    assert starcraft.lacking("sc2", found) == ["game folder", "SMAC's maps", S2, "pysc2", "smac"]
    assert starcraft.lacking("sc2v2", found) == ["game folder", "SMACv2's map", S2, "pysc2", "smacv2"]


def test_a_machine_that_can_play(machine, tmp_path):
    game, site = tmp_path / "game", tmp_path / "site"
    add_build(game, 75689)
    add_maps(game / "Maps/SMAC_Maps", [*starcraft.MAPS, "32x32_flat"])
    for _, name, file in BENCHMARKS:
        (site / name / file).parent.mkdir(parents=True)
        (site / name / file).touch()
    folders = {name: site / name for _, name, _ in BENCHMARKS}
    able = machine(SC2PATH=str(game))._replace(packages=packages({S2: "4.10", "pysc2": "3.0.0"}, folders))
    found = starcraft.check_all(able)
    assert [str(result) for result in found if not result.usable] == []
    assert "game version" in [result.what for result in found]
    (game / "Versions/Base75689" / LINUX_EXE).unlink()
    assert starcraft.lacking("sc2", starcraft.check_all(able)) == ["game version"]


@pytest.fixture
def able(machine, tmp_path):
    """A machine that lacks nothing for 3m and SMACv2."""
    game, site = tmp_path / "game", tmp_path / "site"
    add_build(game, 75689)
    add_maps(game / "Maps/SMAC_Maps", ["3m", "32x32_flat"])
    for _, name, file in BENCHMARKS:
        (site / name / file).parent.mkdir(parents=True)
        (site / name / file).touch()
    folders = {name: site / name for _, name, _ in BENCHMARKS}
    return machine(SC2PATH=str(game))._replace(packages=packages({S2: "4.10", "pysc2": "3.0.0"}, folders))


def test_a_run_needs_only_what_it_plays(able):
    starcraft.require("sc2", "3m", able)
    starcraft.require("sc2", "a_map_of_the_users_own", able)
    starcraft.require("sc2v2", "terran_5_vs_5", able)


@pytest.mark.parametrize(
    ("env", "map_name", "broken", "words"),
    [
        ("sc2", "MMM2", {}, "SMAC's map: MMM2 missing"),
        ("sc2", "3m", {"environ": {"SC2PATH": "/nowhere"}}, "game folder: SC2PATH=/nowhere is not a folder"),
        ("sc2", "3m", {"packages": packages({S2: "4.10"})}, "pysc2: not installed"),
        ("sc2", "3m", {"packages": packages({"pysc2": "3.0.0"})}, "s2clientprotocol: not installed"),
        ("sc2", "3m", {"packages": packages({S2: "4.10", "pysc2": "3.0.0"})}, "smac: not installed"),
        ("sc2v2", "terran_5_vs_5", {"packages": packages({S2: "4.10", "pysc2": "3.0.0"})}, "smacv2: not installed"),
    ],
)
def test_the_first_requirement_that_a_run_lacks_is_reported(able, env, map_name, broken, words):
    with pytest.raises(ConfigError, match=f"^env={env} cannot be played on this machine: {words}.*lolm doctor"):
        starcraft.require(env, map_name, able._replace(**broken))
