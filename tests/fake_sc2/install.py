"""Installation of the fake game: a folder that pysc2 accepts as StarCraft II."""

import shlex
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from .maps import ALL_MAPS

BUILD = "Base75689"  # version 4.10.0, a build that pysc2 supports
OLDEST_WEBSOCKETS = 15  # earlier ones always ping their clients


def install(folder: Path | str) -> Path:
    """Install the fake game. Set ``SC2PATH`` to the returned folder before an environment is built.

    Args:
        folder: target folder; created if missing.

    Returns:
        The absolute path. The folder is small: it has placeholders and a script that starts this package with the
        current Python.
    """
    root = Path(folder).resolve()
    executable = root / "Versions" / BUILD / "SC2_x64"
    for needed in (executable.parent, root / "Maps" / "SMAC_Maps", root / "Replays"):
        needed.mkdir(parents=True, exist_ok=True)
    command = shlex.join([sys.executable, str(Path(__file__).resolve().parent)])
    # exec: the process that pysc2 starts and ends is the game itself.
    executable.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    executable.chmod(0o755)
    for name in ALL_MAPS:
        (root / "Maps" / "SMAC_Maps" / f"{name}.SC2Map").write_text("a placeholder of the fake game\n")
    return root


def requirements_missing(benchmark: str = "smac") -> str | None:
    """Return why the fake game cannot be played with ``smac`` or ``smacv2``, as a sentence, or None if it can.

    Imports none of the packages: smac and smacv2 cannot both be imported in one process.
    """
    for package in (benchmark, "pysc2", "s2clientprotocol", "websockets"):
        if find_spec(package) is None:
            return f"The fake StarCraft II needs the package {package}, which is not installed."
    if int(metadata.version("websockets").split(".")[0]) < OLDEST_WEBSOCKETS:
        return f"The fake StarCraft II needs websockets {OLDEST_WEBSOCKETS} or newer."
    folders = find_spec(benchmark).submodule_search_locations or []
    if not any((Path(folder) / "env" / "starcraft2" / "starcraft2.py").exists() for folder in folders):
        return f"The package {benchmark} is another one: the fake StarCraft II needs the one of oxwhirl on GitHub."
    return None
