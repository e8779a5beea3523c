"""Import jaxmarl's SMAX alone: ``import jaxmarl`` itself loads and sets up all of its environments."""

import contextlib
import importlib.util
import io
import sys
import types
from collections.abc import Iterator
from typing import Any

PACKAGES = ("jaxmarl", "jaxmarl.environments")


def load() -> tuple[Any, Any]:
    """Return the classes ``HeuristicEnemySMAX`` and ``Scenario``. Raises ImportError where jaxmarl is not installed.

    The packages' own ``__init__`` is not run: it takes about two thirds of the time to the first step of a battle
    (storm and jaxnav build arrays when imported).
    """
    with _silenced(), _without_init(PACKAGES):
        from jaxmarl.environments.smax.heuristic_enemy_smax_env import HeuristicEnemySMAX
        from jaxmarl.environments.smax.smax_env import Scenario
    return HeuristicEnemySMAX, Scenario


@contextlib.contextmanager
def _without_init(packages: tuple[str, ...]) -> Iterator[None]:
    """Stand in for packages that are not imported yet, so that their modules can be; remove the stand-ins after."""
    stand_ins = []
    try:
        for name in packages:
            if name in sys.modules:
                continue
            spec = importlib.util.find_spec(name)
            if spec is None or spec.submodule_search_locations is None:
                raise ImportError(f"No module named '{name}'")
            module = types.ModuleType(name)
            module.__path__ = list(spec.submodule_search_locations)
            module.__spec__ = spec
            sys.modules[name] = module
            stand_ins.append(name)
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Hide jaxmarl's greeting; it also points both standard streams back at the terminal, past their captors."""
    streams = sys.stdout, sys.stderr, sys.__stdout__
    sys.stdout = sys.__stdout__ = io.StringIO()
    try:
        yield
    finally:
        sys.stdout, sys.stderr, sys.__stdout__ = streams
