"""Follow the example in a copy of the repository: it changes three files, and the style trains and is tested."""

import re

import pytest

from tests.examples.follow import follow, run, touched

FILES = ("config/algs/lolm_mappo_table.yaml", "lolm_plugin/prompts/table.py")
PROBE = ("--env-config=probe", "with", "env_args.map_name=target")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Return a copy of the repository with the example added."""
    return follow("add_a_prompt_style", FILES, "PROMPT_STYLES: dict[str, str] = {\n", tmp_path_factory.mktemp("copy"))


def test_the_example_changes_three_files(copy):
    assert touched(copy) == [*FILES, "lolm_plugin/registry.py"]


def test_lolm_prompt_shows_and_explains_the_style(copy):
    done = run(copy, "-m", "lolm_plugin", "prompt", "--explain", *PROBE, "prompt.style=table", "llm.model=tiny-llama")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "me | marine | 1.00 | 0 | 0 | range 6\n" in done.stdout
    assert 'enemy 1: health      "| 0.' in done.stdout


def test_an_algorithm_with_the_style_trains(copy):
    small = (
        "t_max=16",
        "batch_size_run=8",
        "test_nepisode=8",
        "llm.model=tiny-llama",
        "llm.num_layers=2",
        "save_model=False",
    )
    done = run(copy, "main.py", "--config=lolm_mappo_table", *PROBE, *small)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"ratio_epoch0 +1\.0000", done.stdout), done.stdout[-3000:]


@pytest.mark.slow
def test_the_registry_tests_include_the_style(copy):
    tests = ("tests/prompts/test_styles.py", "tests/prompts/test_tokens.py", "tests/prompts/test_target_sentences.py")
    done = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-rA", "-k", "table", *tests)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("PASSED") > 20
