"""The example is followed to the letter on a copy of the repository: three files, and it trains and is tested."""

import re

import pytest

from tests.examples.follow import follow, run, touched

FILES = ("config/envs/skirmish.yaml", "lolm_plugin/envs/skirmish.py")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A repository with the example's steps done."""
    return follow("add_an_env", FILES, "ENVS: dict[str, Env] = {\n", tmp_path_factory.mktemp("copy"))


def test_it_touches_three_files(copy):
    assert touched(copy) == [*FILES, "lolm_plugin/registry.py"]


@pytest.mark.slow
def test_it_trains_by_the_common_command_line(copy):
    arguments = ("t_max=120", "test_interval=100", "test_nepisode=2")
    sizes = "batch_size_run=2"
    done = run(copy, "main.py", "--config=lolm_mappo_tiny", "--env-config=skirmish", "with", *arguments, *sizes)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "lolm_mappo_tiny on skirmish pair" in done.stdout
    assert re.search(r"ratio_epoch0 +1\.0000", done.stdout), done.stdout[-3000:]


def test_a_wrong_map_is_refused_with_the_right_ones(copy):
    done = run(copy, "main.py", "--config=lolm_mappo_tiny", "--env-config=skirmish", "with", "env_args.map_name=horde")
    assert done.returncode == 2
    assert "env_args.map_name=horde is no map of env=skirmish; set it to one of: pair, squad." in done.stdout


@pytest.mark.slow
def test_the_tests_over_the_registry_test_it_at_once(copy):
    tests = ("tests/observations/test_layout.py", "tests/observations/test_checks.py", "tests/prompts/test_styles.py")
    done = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-rA", *tests)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("[skirmish-") > 5 or done.stdout.count("-skirmish-") > 5
