"""The example is followed to the letter on a copy of the repository: three files, and it trains and is tested."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/add_an_env"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A repository with the example's steps done."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("lolm_plugin", "config", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("main.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("lolm_plugin/envs/skirmish.py", "config/envs/skirmish.yaml"):
        assert not (folder / name).exists()
        shutil.copy(EXAMPLE / name, folder / name)
    registry = folder / "lolm_plugin/registry.py"
    beginning = "ENVS: dict[str, Env] = {\n"
    assert registry.read_text().count(beginning) == 1
    registry.write_text(
        registry.read_text().replace(beginning, beginning + (EXAMPLE / "registry_entry.txt").read_text())
    )
    return folder


def run(copy, *command):
    environment = {**os.environ, "PYTHONPATH": str(copy), "EPYMARL_HOME": "none"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_it_touches_three_files(copy):
    touched = [
        str(path.relative_to(copy))
        for folder in ("lolm_plugin", "config")
        for path in (copy / folder).rglob("*")
        if path.suffix in (".py", ".yaml") and path.read_bytes() != _original(path.relative_to(copy))
    ]
    assert sorted(touched) == ["config/envs/skirmish.yaml", "lolm_plugin/envs/skirmish.py", "lolm_plugin/registry.py"]


def _original(path):
    return (ROOT / path).read_bytes() if (ROOT / path).exists() else b""


def test_it_trains_by_the_common_command_line(copy):
    arguments = ("t_max=120", "test_interval=100", "test_nepisode=2")
    sizes = ("batch_size_run=2", "batch_size=2", "buffer_size=2")
    done = run(copy, "main.py", "--config=lolm_mappo_tiny", "--env-config=skirmish", "with", *arguments, *sizes)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "lolm_mappo_tiny on skirmish pair" in done.stdout
    assert "ratio_epoch0       1.0000" in done.stdout


def test_a_wrong_map_is_refused_with_the_right_ones(copy):
    done = run(copy, "main.py", "--config=lolm_mappo_tiny", "--env-config=skirmish", "with", "env_args.map_name=horde")
    assert done.returncode == 2
    assert "env_args.map_name=horde is no map of env=skirmish; set it to one of: pair, squad." in done.stdout


def test_the_tests_over_the_registry_test_it_at_once(copy):
    tests = ("tests/observations/test_layout.py", "tests/observations/test_probes.py", "tests/prompts/test_styles.py")
    done = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-rA", *tests)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("[skirmish-") > 5 or done.stdout.count("-skirmish-") > 5
