"""Follow the example in a copy of the repository: it changes three files, and an algorithm trains on it."""

import re

import pytest

from tests.examples.follow import follow, run, touched

FILES = ("config/envs/skirmish.yaml", "lolm_plugin/envs/skirmish.py")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Return a copy of the repository with the example added."""
    return follow("add_an_env", FILES, "ENVS: dict[str, Env] = {\n", tmp_path_factory.mktemp("copy"))


def test_the_example_changes_three_files(copy):
    assert touched(copy) == [*FILES, "lolm_plugin/registry.py"]


@pytest.mark.slow
def test_an_algorithm_trains_on_the_environment(copy):
    arguments = ("t_max=120", "test_interval=100", "test_nepisode=2")
    sizes = ("batch_size_run=2",)
    done = run(copy, "main.py", "--config=lolm_mappo_tiny", "--env-config=skirmish", "with", *arguments, *sizes)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "lolm_mappo_tiny on skirmish pair" in done.stdout
    assert re.search(r"ratio_epoch0 +1\.0000", done.stdout), done.stdout[-3000:]


def test_the_error_of_an_unknown_map_lists_the_known_ones(copy):
    done = run(copy, "main.py", "--config=lolm_mappo_tiny", "--env-config=skirmish", "with", "env_args.map_name=horde")
    assert done.returncode == 2
    assert "env_args.map_name=horde is not a map of env=skirmish; set it to one of: pair, squad." in done.stdout


@pytest.mark.slow
def test_the_registry_tests_include_the_environment(copy):
    tests = ("tests/observations/test_layout.py", "tests/observations/test_checks.py", "tests/prompts/test_styles.py")
    done = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-rA", *tests)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("[skirmish-") > 5 or done.stdout.count("-skirmish-") > 5
