"""Follow the example in a copy of the repository: it changes three files; the algorithm trains and transfers."""

import re
from pathlib import Path

import pytest

from tests.examples.follow import follow, run, touched

FILES = ("config/algs/deepsets_mappo.yaml", "lolm_plugin/modules/trunks/deepsets.py")
EIGHT = ("batch_size_run=8",)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Return a copy of the repository with the example added."""
    return follow("add_an_algorithm", FILES, "TRUNKS: dict[str, str] = {\n", tmp_path_factory.mktemp("copy"))


def play(copy, env, *updates):
    return run(copy, "main.py", "--config=deepsets_mappo", f"--env-config={env}", "with", *EIGHT, *updates)


def test_the_example_changes_three_files(copy):
    assert touched(copy) == sorted([*FILES, "lolm_plugin/registry.py"])


@pytest.mark.slow
def test_the_algorithm_trains(copy):
    done = play(copy, "probe", "env_args.map_name=duel", "t_max=300", "test_nepisode=8", "save_model=False")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "deepsets_mappo on probe duel" in done.stdout
    assert re.search(r"ratio_epoch0 +1\.0000", done.stdout), done.stdout[-3000:]


@pytest.mark.slow
def test_a_checkpoint_plays_a_map_of_another_size(copy):
    few = ("test_nepisode=2", "env_args.time_limit=8", "critic_type=deepsets_critic")
    trained = play(copy, "smax", "env_args.map_name=2m", "t_max=64", "save_model_interval=32", *few)
    assert trained.returncode == 0, trained.stdout[-3000:]
    (folder,) = (copy / "results/models").iterdir()
    settings = ("evaluate=True", f"checkpoint_path={folder}", "env_args.map_name=3m_vs_4m")
    played = play(copy, "smax", *settings, *few)
    assert played.returncode == 0, played.stdout[-3000:]
    assert "no tensor missing, none unexpected" in played.stdout
    assert re.search(r"test win rate +\d", played.stdout), played.stdout[-3000:]


@pytest.mark.parametrize(
    ("update", "sentence"),
    [
        ("deepsets.hidden_width=wide", "deepsets.hidden_width=wide on the command line is not a whole number"),
        ("deepsets.hidden_width=0", "deepsets.hidden_width=0 is out of range; set deepsets.hidden_width to 1 or more."),
        ("deepsets.hiden_width=8", "did you mean deepsets.hidden_width?"),
        ("obs_agent_id=True", "obs_agent_id=True cannot be used with agent=deepsets"),
    ],
)
def test_an_invalid_value_is_refused_in_one_sentence(copy, update, sentence):
    done = play(copy, "probe", update)
    assert done.returncode == 2, done.stdout[-3000:]
    assert sentence in done.stdout


@pytest.mark.slow
def test_the_registry_tests_include_the_algorithm(copy):
    folders = ("tests/modules", "tests/learners/test_all_algorithms.py", "tests/configuration/test_config_check.py")
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-rA")
    done = run(copy, "-m", "pytest", *options, "-k", "deepsets or every_registered_network", *folders)
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.findall(r"^PASSED (\S+)::\S*deepsets", done.stdout, re.M)
    assert {Path(file).stem for file in passed} >= {
        *("test_policies", "test_entity_agents", "test_entity_critics", "test_trunk"),
        *("test_all_algorithms", "test_config_check"),
    }
    assert len(passed) > 40
