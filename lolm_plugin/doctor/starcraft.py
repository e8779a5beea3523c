"""Whether this machine can play StarCraft II: the game, its maps, and the packages that talk to it.

Only looks, in the places where pysc2 3.0.0, SMAC and SMACv2 look; the game is not started. Every check is a function
of what it is given, so that each sentence has a test.
"""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lolm_plugin.doctor.finding import Finding
from lolm_plugin.doctor.packages import Packages
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations import sc2

GET_LINUX_GAME = "https://github.com/Blizzard/s2client-proto#downloads"
GET_GAME = "https://battle.net"
GET_MAPS = "https://github.com/oxwhirl/smac/releases/download/v0.1-beta1/SMAC_Maps.zip"
GET_MAPS_V2 = "https://github.com/oxwhirl/smacv2/releases/tag/maps"

# The names pysc2 starts below Versions/BaseNNNNN.
EXECUTABLES = {"Windows": "SC2_x64.exe", "Darwin": "SC2.app/Contents/MacOS/SC2"}
LINUX_EXECUTABLE = "SC2_x64"
OLDEST_BUILD = 55958  # 3.16.1, the first with the interface pysc2 needs
KNOWN_BUILDS = {
    69232: "4.6.2 (Base69232), the version of the SMAC paper; win rates on 4.10 and others are not comparable",
    75689: "4.10 (Base75689), what most later papers use; the SMAC paper's own win rates are on 4.6.2, not comparable",
}

MAPS = tuple(sc2.MAPS)
MAPS_V2 = ("32x32_flat",)  # every scenario of SMACv2 plays on it

# The lines of the section that an environment can do without.
NOT_NEEDED = {"sc2": ("SMACv2's map", "smacv2"), "sc2v2": ("SMAC's maps", "smac")}

PYSC2 = "3.0.0"  # what EPyMARL asks for
_OLD_PROTOBUF = '"protobuf<3.21"'


class Machine(NamedTuple):
    """Where the checks look."""

    environ: Mapping[str, str]
    cwd: Path
    home: Path
    system: str
    packages: Packages


def this_machine() -> Machine:
    """The one we run on."""
    return Machine(os.environ, Path.cwd(), Path.home(), platform.system(), Packages())


def findings(machine: Machine) -> list[Finding]:
    """The section "StarCraft II" of ``lolm doctor``."""
    game, found = game_folder(machine)
    return [
        found,
        *([game_version(game, machine.system)] if game.is_dir() else []),
        maps(game, "SMAC's maps", MAPS, f"unzip {GET_MAPS}"),
        maps(game, "SMACv2's map", MAPS_V2, f"unzip SMAC_Maps.zip of {GET_MAPS_V2}"),
        s2clientprotocol(machine.packages),
        pysc2(machine.packages),
        smac(machine.packages),
        smacv2(machine.packages),
    ]


def require(env: str, map_name: str, machine: Machine | None = None) -> None:
    """Raise ConfigError with what keeps ``env`` (``sc2`` or ``sc2v2``) from playing a map, before a game is started.

    A map that only the user's SMAC knows is left to that.
    """
    machine = machine or this_machine()
    game, found = game_folder(machine)
    names, title = (MAPS_V2, "SMACv2's map") if env == "sc2v2" else ([map_name], "SMAC's map")
    checks = [lambda: found, lambda: game_version(game, machine.system)]
    if env == "sc2v2" or map_name in MAPS:
        checks.append(lambda: maps(game, title, names, f"unzip {GET_MAPS_V2 if env == 'sc2v2' else GET_MAPS}"))
    checks += [lambda: s2clientprotocol(machine.packages), lambda: pysc2(machine.packages)]
    checks.append(lambda: (smacv2 if env == "sc2v2" else smac)(machine.packages))
    for check in checks:
        finding = check()
        if not finding.usable:
            raise ConfigError(
                f"env={env} cannot be played on this machine: {finding.what}: {finding.detail}; `lolm doctor` lists "
                "everything, or set --env-config=smaclite or smax."
            )


def lacking(env: str, found: Sequence[Finding]) -> list[str]:
    """The names of the findings that keep ``env`` (``sc2`` or ``sc2v2``) from running."""
    return [finding.what for finding in found if not finding.usable and finding.what not in NOT_NEEDED[env]]


def game_folder(machine: Machine) -> tuple[Path, Finding]:
    """The folder a run would take the game from, or else the one to put it in."""
    what = "game folder"
    default = _default_folder(machine)
    get = f"install StarCraft II ({_get_game(machine.system)})"
    name = machine.environ.get("SC2PATH")
    if name:
        path = machine.home / name[2:] if name.startswith("~/") else machine.cwd / name
        if path.is_dir():
            return path, Finding(True, what, f"{path}, from SC2PATH")
        return path, Finding(False, what, f"SC2PATH={name} is not a folder; {get} there, or correct SC2PATH")
    if machine.system == "Linux":
        return _without_sc2path(machine.cwd / "3rdparty/StarCraftII", default, get, empty=name == "")
    if default.is_dir():
        return default, Finding(True, what, f"{default}, where pysc2 finds it without SC2PATH")
    return default, Finding(False, what, f"SC2PATH is not set and {default} is not there; {get}, or set SC2PATH")


def _without_sc2path(inside: Path, default: Path, get: str, empty: bool) -> tuple[Path, Finding]:
    """On Linux EPyMARL sets SC2PATH to ``inside`` when it is not set, so that pysc2 never falls back on ``default``."""
    what = "game folder"
    if empty:
        how = f"set it to the game's folder, such as {default}"
        return default, Finding(False, what, f"SC2PATH is set to nothing, which stands for the current folder; {how}")
    if inside.is_dir():
        why = "where EPyMARL looks from here as SC2PATH is not set"
        return inside, Finding(True, what, f"{inside}, {why}; outside EPyMARL it is {default}")
    if default.is_dir():
        why = f"SC2PATH is not set, so EPyMARL looks in {inside}, not in {default}, where the game is"
        return default, Finding(False, what, f"{why}; export SC2PATH={default}")
    why = f"SC2PATH is not set, and neither {inside} (where EPyMARL looks) nor {default} (pysc2 alone) is there"
    return default, Finding(False, what, f"{why}; {get} and set SC2PATH to its folder")


def game_version(game: Path, system: str) -> Finding:
    """Which build would be started, and whether it can be."""
    what = "game version"
    names = [path.name for path in (game / "Versions").glob("Base*")]
    builds = sorted(int(match[1]) for name in names if (match := re.fullmatch(r"Base(\d+)", name)))
    if not builds:
        return Finding(
            False, what, f"{game} has no Versions/BaseNNNNN; set SC2PATH to the folder that has it, or install again"
        )
    build = builds[-1]  # pysc2 starts the newest unless env_args.game_version names one
    executable = game / f"Versions/Base{build:05d}" / EXECUTABLES.get(system, LINUX_EXECUTABLE)
    if not executable.is_file():
        return Finding(False, what, f"{executable} is missing; install StarCraft II for {system} ({_get_game(system)})")
    if not os.access(executable, os.X_OK):
        return Finding(False, what, f"{executable} is not executable; chmod +x {executable}")
    if build < OLDEST_BUILD:
        return Finding(False, what, f"Base{build:05d} is too old for pysc2; install 3.16.1 or newer, such as 4.10")
    other = f"Base{build:05d}; works, but its win rates are not comparable with those on 4.6.2 (SMAC's paper) or 4.10"
    more = f"; the newest of {len(builds)} here, sc2's env_args.game_version takes another" if len(builds) > 1 else ""
    return Finding(True, what, KNOWN_BUILDS.get(build, other) + more)


def maps(game: Path, what: str, names: Sequence[str], how: str) -> Finding:
    """Which map files are where SMAC and SMACv2 both look: ``Maps/SMAC_Maps``."""
    right = game / "Maps/SMAC_Maps"
    missing = [name for name in names if not (right / f"{name}.SC2Map").is_file()]
    if not missing:
        return Finding(True, what, f"all {len(names)} in {right}" if len(names) > 1 else f"{names[0]} in {right}")
    if (game / "maps").is_dir() and not (game / "Maps").is_dir():
        return Finding(
            False, what, f"pysc2 looks in {game / 'Maps'}, which is called maps; mv {game / 'maps'} {game / 'Maps'}"
        )
    strays = [path for path in (game / "Maps").rglob("*.SC2Map") if path.stem in missing]
    listed = f"all {len(names)}" if len(missing) == len(names) > 1 else ", ".join(missing)
    if strays:
        return Finding(False, what, f"{listed} missing in {right}; move the maps in {strays[0].parent} there")
    return Finding(False, what, f"{listed} missing in {right}; {how} into {game / 'Maps'}")


def s2clientprotocol(packages: Packages) -> Finding:
    """The game's messages; their old generated code does not load with a newer protobuf."""
    what = "s2clientprotocol"
    version, protobuf = packages.version(what), packages.version("protobuf")
    if not version:
        return Finding(False, what, f"not installed; pip install {what} {_OLD_PROTOBUF}")
    error = packages.import_error("s2clientprotocol.sc2api_pb2")
    if not error:
        return Finding(True, what, f"{version}, with protobuf {protobuf}")
    if "Descriptors cannot" in error:
        slower = "or, slower, export PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python"
        return Finding(
            False, what, f"{version} does not load with protobuf {protobuf}; pip install {_OLD_PROTOBUF} ({slower})"
        )
    return Finding(
        False, what, f"{version} does not load ({error}); pip install --force-reinstall {what} {_OLD_PROTOBUF}"
    )


def pysc2(packages: Packages) -> Finding:
    """What starts the game and talks to it; ``run_configs`` draws in its protocol and its websocket too."""
    what = "pysc2"
    version = packages.version(what)
    if not version:
        return Finding(False, what, f"not installed; pip install pysc2=={PYSC2} {_OLD_PROTOBUF}")
    if packages.import_error("s2clientprotocol.sc2api_pb2"):
        return Finding(False, what, f"{version} needs s2clientprotocol; mend that first")
    if error := packages.import_error("pysc2.run_configs"):
        again = f"pip install --force-reinstall pysc2=={PYSC2} {_OLD_PROTOBUF}"
        return Finding(False, what, f"{version} does not load ({error}); {again}")
    return Finding(True, what, version if version == PYSC2 else f"{version}, where EPyMARL asks for {PYSC2}")


def smac(packages: Packages) -> Finding:
    """SMAC itself; PyPI has another project of that name, which pip installs if asked for ``smac``."""
    other = "another package of that name, PyPI's optimiser of hyper-parameters"
    return _benchmark(packages, "smac", "env/starcraft2/starcraft2.py", "", other)


def smacv2(packages: Packages) -> Finding:
    """SMACv2, a package of its own that does not use SMAC."""
    use = ", and needed for --env-config=sc2v2 only"
    return _benchmark(packages, "smacv2", "env/starcraft2/wrapper.py", use, "another package of that name")


def _benchmark(packages: Packages, name: str, file: str, use: str, other: str) -> Finding:
    """Whether module ``name`` is the one with ``file`` in it; it is not imported, as that would import pysc2."""
    path = packages.folder(name)
    install = f"pip install git+https://github.com/oxwhirl/{name}.git"
    if path is None:
        return Finding(False, name, f"not installed{use}; {install}")
    if (path / file).is_file():
        return Finding(True, name, f"the StarCraft one, in {path}")
    if path.is_dir() and not (path / "__init__.py").is_file():
        return Finding(False, name, f"{path} is a mere folder, which may hide the package; rename it, or {install}")
    return Finding(False, name, f"{path} is {other}; pip uninstall {name} && {install}")


def _get_game(system: str) -> str:
    return GET_LINUX_GAME if system == "Linux" else GET_GAME


def _default_folder(machine: Machine) -> Path:
    """Where pysc2 looks when SC2PATH is not set."""
    if machine.system == "Linux":
        return machine.home / "StarCraftII"
    windows = machine.system == "Windows"
    notes = machine.home / ("Documents" if windows else "Library/Application Support/Blizzard")
    if game := _noted_folder(notes / "StarCraft II/ExecuteInfo.txt"):
        return game
    return Path("C:/Program Files (x86)/StarCraft II" if windows else "/Applications/StarCraft II")


def _noted_folder(path: Path) -> Path | None:
    """The game's folder from the note that the game leaves when it was run: ``executable = .../Versions/...``."""
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace").replace("\\", "/")
    match = re.search(r"^\s*executable\s*=\s*(.+?)/Versions/", text, re.MULTILINE)
    return Path(match[1]) if match else None
