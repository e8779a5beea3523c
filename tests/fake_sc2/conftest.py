"""The fake game behind the real smac, where that is installed."""

import os

import pytest

from .install import install, requirements_missing


@pytest.fixture(scope="session")
def needs_smac():
    """Skips what plays through the real SMAC where that is not installed."""
    reason = requirements_missing()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def game_folder(tmp_path_factory):
    """A folder for ``SC2PATH``."""
    return install(tmp_path_factory.mktemp("sc2"))


@pytest.fixture
def new_env(needs_smac, game_folder, monkeypatch):
    """Builds a StarCraft2Env on the fake game; what was built is closed at the end."""
    monkeypatch.setenv("SC2PATH", str(game_folder))
    from smac.env import StarCraft2Env

    envs = []

    def build(map_name, seed=1, **options):
        envs.append(StarCraft2Env(map_name=map_name, seed=seed, **options))
        return envs[-1]

    yield build
    for env in envs:
        env.close()


def is_running(pid):
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
