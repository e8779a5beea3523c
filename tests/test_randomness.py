"""Keyed draws depend only on their key."""

import numpy as np
import pytest

from lolm_plugin.randomness import environment_seed, keyed_generator, keyed_seeds


def draws(*key):
    return keyed_generator(*key).random(1000)


def test_the_same_key_gives_the_same_numbers_after_other_draws():
    first = draws(1, "action", 7)
    keyed_generator(1, "action", 7).random(13)
    np.random.seed(5)
    assert np.array_equal(draws(1, "action", 7), first)


@pytest.mark.parametrize(
    "other",
    [(2, "action", 7), (1, "minibatch", 7), (1, "action", 8), (1, "action"), (1, "action", 7, 0), (1, 7, "action")],
)
def test_another_seed_purpose_or_counter_gives_unrelated_numbers(other):
    correlation = np.corrcoef(draws(1, "action", 7), draws(*other))[0, 1]
    assert abs(correlation) < 0.15


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process_draws_the_same_numbers(fresh_python, hash_seed):
    program = "from lolm_plugin.randomness import *; print(keyed_seeds(1, 'env', 7, count=3).tolist())"
    assert fresh_python(program, PYTHONHASHSEED=hash_seed) == f"{keyed_seeds(1, 'env', 7, count=3).tolist()}\n"


def test_seeds_have_32_bits_and_the_requested_count():
    seeds = keyed_seeds(3, "env", 128, count=500)
    assert seeds.dtype == np.uint32
    assert seeds.shape == (500,)
    assert len(set(seeds.tolist())) == 500


def test_fewer_seeds_are_a_prefix_of_more():
    assert keyed_seeds(3, "env", count=5).tolist() == keyed_seeds(3, "env", count=9)[:5].tolist()


def test_numpy_integers_are_valid_keys():
    assert np.array_equal(draws(np.int64(1), "action", np.uint32(7)), draws(1, "action", 7))


def test_environments_of_different_runs_processes_and_restarts_share_no_seed():
    keys = [(seed, index, restart) for seed in range(8) for index in range(32) for restart in range(4)]
    seeds = {environment_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**31 for seed in seeds), "StarCraft and NumPy accept no larger ones"
    assert environment_seed(1, 2, 3) == environment_seed(1, 2, 3)
