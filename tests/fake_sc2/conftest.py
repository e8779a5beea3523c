"""Fixtures for the fake game with the real smac, if that is installed."""

import os

import pytest

from .install import install, requirements_missing


@pytest.fixture(scope="session")
def needs_smac():
    """Skip a test that needs the real SMAC if that is not installed."""
    reason = requirements_missing()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def game_folder(tmp_path_factory):
    """Return a folder for ``SC2PATH``."""
    return install(tmp_path_factory.mktemp("sc2"))


@pytest.fixture
def new_env(needs_smac, game_folder, monkeypatch):
    """Return a function that builds a StarCraft2Env on the fake game. Environments are closed at the end."""
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
    """Return True if the process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
