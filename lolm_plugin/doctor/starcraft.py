"""Check whether this machine can play StarCraft II: the game, its maps, and the packages that talk to it.

The checks look where pysc2 3.0.0, SMAC and SMACv2 look. They do not start the game. Each check depends only on its
arguments, so that each message has a test.
"""

import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lolm_plugin.doctor.packages import CheckResult, Packages
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations import sc2

GET_LINUX_GAME = "https://github.com/Blizzard/s2client-proto#downloads"
GET_GAME = "https://battle.net"
GET_MAPS = "unzip https://github.com/oxwhirl/smac/releases/download/v0.1-beta1/SMAC_Maps.zip"
GET_MAPS_V2 = "unzip SMAC_Maps.zip of https://github.com/oxwhirl/smacv2/releases/tag/maps"

# Names of the executable that pysc2 starts, below Versions/BaseNNNNN.
EXECUTABLES = {"Windows": "SC2_x64.exe", "Darwin": "SC2.app/Contents/MacOS/SC2"}
LINUX_EXECUTABLE = "SC2_x64"
OLDEST_BUILD = 55958  # 3.16.1, the first with the interface that pysc2 needs
KNOWN_BUILDS = {
    69232: "4.6.2 (Base69232), the version of the SMAC paper; win rates on 4.10 and others are not comparable",
    75689: "4.10 (Base75689), what most later papers use; the SMAC paper's own win rates are on 4.6.2, not comparable",
}

MAPS = tuple(sc2.MAPS)
MAPS_V2 = ("32x32_flat",)  # all scenarios of SMACv2 use it

# The checks that an environment does not need.
NOT_NEEDED = {"sc2": ("SMACv2's map", "smacv2"), "sc2v2": ("SMAC's maps", "smac")}

PYSC2 = "3.0.0"  # the version that EPyMARL requires
_OLD_PROTOBUF = '"protobuf<3.21"'
_MESSAGES = "s2clientprotocol.sc2api_pb2"


class Machine(NamedTuple):
    """Environment variables, folders, system and packages that the checks read."""

    environ: Mapping[str, str]
    cwd: Path
    home: Path
    system: str
    packages: Packages


def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    return Machine(os.environ, Path.cwd(), Path.home(), platform.system(), Packages())


def check_all(machine: Machine) -> list[CheckResult]:
    """Run every check of the section "StarCraft II" of ``lolm doctor``."""
    game, result = game_folder(machine)
    return [
        result,
        *([game_version(game, machine.system)] if game.is_dir() else []),
        maps(game, "SMAC's maps", MAPS, GET_MAPS),
        maps(game, "SMACv2's map", MAPS_V2, GET_MAPS_V2),
        *(check(machine.packages) for check in (s2clientprotocol, pysc2, smac, smacv2)),
    ]


def lacking(env: str, results: Sequence[CheckResult]) -> list[str]:
    """Return the names of the failed checks that keep ``env`` (``sc2`` or ``sc2v2``) from running."""
    return [result.what for result in results if not result.usable and result.what not in NOT_NEEDED[env]]


def first_failure(env: str, map_name: str, machine: Machine | None = None) -> CheckResult | None:
    """Return the first check that keeps ``env`` from playing a map; None if it can play."""
    return next((result for result in _needed(env, map_name, machine or this_machine()) if not result.usable), None)


def require(env: str, map_name: str, machine: Machine | None = None) -> None:
    """Raise ConfigError if ``env`` (``sc2`` or ``sc2v2``) cannot play a map here. No game is started."""
    if failure := first_failure(env, map_name, machine):
        raise ConfigError(
            f"env={env} cannot be played on this machine: {failure.what}: {failure.detail}; `lolm doctor` lists "
            "everything, or set --env-config=smaclite or smax."
        )


def _needed(env: str, map_name: str, machine: Machine) -> Iterator[CheckResult]:
    """Yield the results of the checks that one map needs, in order: game, map file, packages.

    A map that is not one of SMAC's own has no check of its file, because its name is not known here.
    """
    game, result = game_folder(machine)
    yield result
    yield game_version(game, machine.system)
    if env == "sc2v2":
        yield maps(game, "SMACv2's map", MAPS_V2, GET_MAPS_V2)
    elif map_name in MAPS:
        yield maps(game, "SMAC's map", [map_name], GET_MAPS)
    for check in (s2clientprotocol, pysc2, smacv2 if env == "sc2v2" else smac):
        yield check(machine.packages)


def game_folder(machine: Machine) -> tuple[Path, CheckResult]:
    """Return the folder of the game that a run would use, or else the folder to install it in."""
    default, get = _default_folder(machine), f"install StarCraft II ({_get_game(machine.system)})"
    name = machine.environ.get("SC2PATH")
    if name:
        path = machine.home / name[2:] if name.startswith("~/") else machine.cwd / name
        why = f"SC2PATH={name} is not a folder; {get} there, or correct SC2PATH"
        usable, detail = path.is_dir(), f"{path}, from SC2PATH" if path.is_dir() else why
    elif machine.system == "Linux":
        path, usable, detail = _without_sc2path(machine.cwd / "3rdparty/StarCraftII", default, get, name == "")
    else:
        path, usable = default, default.is_dir()
        why = f"SC2PATH is not set and {default} is not there; {get}, or set SC2PATH"
        detail = f"{default}, where pysc2 finds it without SC2PATH" if usable else why
    return path, CheckResult(usable, "game folder", detail)


def _without_sc2path(inside: Path, default: Path, get: str, empty: bool) -> tuple[Path, bool, str]:
    """Return the game folder on Linux without SC2PATH: EPyMARL then uses ``inside``, and pysc2 alone ``default``."""
    if empty:
        how = f"set it to the game's folder, such as {default}"
        return default, False, f"SC2PATH is empty, which means the current folder; {how}"
    if inside.is_dir():
        why = "where EPyMARL looks if SC2PATH is not set"
        return inside, True, f"{inside}, {why}; outside EPyMARL it is {default}"
    if default.is_dir():
        why = f"SC2PATH is not set, so EPyMARL looks in {inside}, not in {default}, where the game is"
        return default, False, f"{why}; export SC2PATH={default}"
    why = f"SC2PATH is not set, and neither {inside} (where EPyMARL looks) nor {default} (pysc2 alone) is there"
    return default, False, f"{why}; {get} and set SC2PATH to its folder"


def game_version(game: Path, system: str) -> CheckResult:
    """Check the build that pysc2 would start."""

    def failed(why: str) -> CheckResult:
        return CheckResult(False, "game version", why)

    names = [path.name for path in (game / "Versions").glob("Base*")]
    builds = sorted(int(match[1]) for name in names if (match := re.fullmatch(r"Base(\d+)", name)))
    if not builds:
        return failed(f"{game} has no Versions/BaseNNNNN; set SC2PATH to the folder that has it, or install again")
    build = builds[-1]  # pysc2 starts the newest unless env_args.game_version names one
    executable = game / f"Versions/Base{build:05d}" / EXECUTABLES.get(system, LINUX_EXECUTABLE)
    if not executable.is_file():
        return failed(f"{executable} is missing; install StarCraft II for {system} ({_get_game(system)})")
    if not os.access(executable, os.X_OK):
        return failed(f"{executable} is not executable; chmod +x {executable}")
    if build < OLDEST_BUILD:
        return failed(f"Base{build:05d} is too old for pysc2; install 3.16.1 or newer, such as 4.10")
    other = f"Base{build:05d}; works, but its win rates are not comparable with those on 4.6.2 (SMAC's paper) or 4.10"
    more = f"; the newest of {len(builds)} here; sc2's env_args.game_version selects another" if len(builds) > 1 else ""
    return CheckResult(True, "game version", KNOWN_BUILDS.get(build, other) + more)


def maps(game: Path, what: str, names: Sequence[str], how: str) -> CheckResult:
    """Check for map files in ``Maps/SMAC_Maps``, where SMAC and SMACv2 both look."""
    right = game / "Maps/SMAC_Maps"
    missing = [name for name in names if not (right / f"{name}.SC2Map").is_file()]
    if not missing:
        return CheckResult(True, what, f"all {len(names)} in {right}" if len(names) > 1 else f"{names[0]} in {right}")
    if (game / "maps").is_dir() and not (game / "Maps").is_dir():
        renamed = f"{game / 'Maps'}, but the folder is called maps; mv {game / 'maps'} {game / 'Maps'}"
        return CheckResult(False, what, f"pysc2 looks in {renamed}")
    strays = [path for path in (game / "Maps").rglob("*.SC2Map") if path.stem in missing]
    listed = f"all {len(names)}" if len(missing) == len(names) > 1 else ", ".join(missing)
    how = f"move the maps in {strays[0].parent} there" if strays else f"{how} into {game / 'Maps'}"
    return CheckResult(False, what, f"{listed} missing in {right}; {how}")


def s2clientprotocol(packages: Packages) -> CheckResult:
    """Check the game's messages. Their old generated code does not load with a newer protobuf."""
    what = "s2clientprotocol"
    version, protobuf = packages.version(what), packages.version("protobuf")
    if not version:
        return CheckResult(False, what, f"not installed; pip install {what} {_OLD_PROTOBUF}")
    error = packages.import_error(_MESSAGES)
    if not error:
        return CheckResult(True, what, f"{version}, with protobuf {protobuf}")
    if "Descriptors cannot" in error:
        slower = "or, slower, export PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python"
        how = f"{version} does not load with protobuf {protobuf}; pip install {_OLD_PROTOBUF} ({slower})"
    else:
        how = f"{version} does not load ({error}); pip install --force-reinstall {what} {_OLD_PROTOBUF}"
    return CheckResult(False, what, how)


def pysc2(packages: Packages) -> CheckResult:
    """Check pysc2, which starts the game. Importing ``run_configs`` also imports its protocol and its websocket."""
    what, version = "pysc2", packages.version("pysc2")
    if not version:
        return CheckResult(False, what, f"not installed; pip install pysc2=={PYSC2} {_OLD_PROTOBUF}")
    if packages.import_error(_MESSAGES):
        return CheckResult(False, what, f"{version} needs s2clientprotocol; fix that first")
    if error := packages.import_error("pysc2.run_configs"):
        again = f"pip install --force-reinstall pysc2=={PYSC2} {_OLD_PROTOBUF}"
        return CheckResult(False, what, f"{version} does not load ({error}); {again}")
    return CheckResult(True, what, version if version == PYSC2 else f"{version}, where EPyMARL asks for {PYSC2}")


def smac(packages: Packages) -> CheckResult:
    """Check SMAC. On PyPI ``smac`` is another project, which ``pip install smac`` would install."""
    other = "another package of that name, PyPI's optimiser of hyper-parameters"
    return _benchmark(packages, "smac", "env/starcraft2/starcraft2.py", "", other)


def smacv2(packages: Packages) -> CheckResult:
    """Check SMACv2, a separate package that does not use SMAC."""
    use = ", and needed for --env-config=sc2v2 only"
    return _benchmark(packages, "smacv2", "env/starcraft2/wrapper.py", use, "another package of that name")


def _benchmark(packages: Packages, name: str, file: str, use: str, other: str) -> CheckResult:
    """Check that module ``name`` contains ``file``. It is not imported, because it would import pysc2."""
    path, install = packages.folder(name), f"pip install git+https://github.com/oxwhirl/{name}.git"
    if path is None:
        return CheckResult(False, name, f"not installed{use}; {install}")
    if (path / file).is_file():
        return CheckResult(True, name, f"the StarCraft one, in {path}")
    if path.is_dir() and not (path / "__init__.py").is_file():
        return CheckResult(False, name, f"{path} is only a folder, which may hide the package; rename it, or {install}")
    return CheckResult(False, name, f"{path} is {other}; pip uninstall {name} && {install}")


def _get_game(system: str) -> str:
    return GET_LINUX_GAME if system == "Linux" else GET_GAME


def _default_folder(machine: Machine) -> Path:
    """Return the folder where pysc2 looks if SC2PATH is not set.

    On Windows and macOS it reads a file that the game writes when it runs: ``executable = .../Versions/...``.
    """
    if machine.system == "Linux":
        return machine.home / "StarCraftII"
    windows = machine.system == "Windows"
    notes = machine.home / ("Documents" if windows else "Library/Application Support/Blizzard")
    note = notes / "StarCraft II/ExecuteInfo.txt"
    if note.is_file():
        text = note.read_text(encoding="utf-8", errors="replace").replace("\\", "/")
        if match := re.search(r"^\s*executable\s*=\s*(.+?)/Versions/", text, re.MULTILINE):
            return Path(match[1])
    return Path("C:/Program Files (x86)/StarCraft II" if windows else "/Applications/StarCraft II")
