"""A test plays the same battles however many are played at once, and whatever is evaluated at once."""

import pytest

from tests.resume.runs import line, models, series, train

ALGORITHMS = {"lolm_mappo_tiny": "probe duel", "updet_mappo": "smax 2m_vs_1m", "rnn_mappo": "probe duel"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_or_four_environments_play_the_same_test(algorithm, tmp_path):
    env, map_name = ALGORITHMS[algorithm].split()
    assert train(tmp_path / "trained", *line(algorithm, env, map_name, "t_max=150", "test_interval=10000")) == 0
    played = {}
    for count in (1, 4):
        sizes = [f"{key}={count}" for key in ("batch_size_run", "batch_size", "buffer_size")]
        asked = ["evaluate=True", f"checkpoint_path={models(tmp_path / 'trained')}", "test_nepisode=8", *sizes]
        assert train(tmp_path / str(count), *line(algorithm, env, map_name, *asked)) == 0
        played[count] = series(tmp_path / str(count), 1)
    assert played[1].keys() == played[4].keys() >= {"test_return_mean", "test_ep_length_mean", "test_battle_won_mean"}
    for name, (_, values) in played[1].items():
        assert values == pytest.approx(played[4][name][1], abs=1e-9), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole") / "run")


def trained(folder, *updates):
    """Series of a short training of UPDeT, in small steps: else one day an action would be another one."""
    small = ("t_max=300", "lr=0.0001", "critic_lr=0.0001", "test_interval=100")
    assert train(folder, *line("updet_mappo", "probe", "duel", *small, *updates)) == 0
    return series(folder, 1)


@pytest.mark.parametrize("count", [1, 4, 8])
def test_a_network_that_evaluates_few_steps_at_once_learns_the_same(whole, count, tmp_path):
    found = trained(tmp_path / "run", f"microbatch={count}")
    assert found.keys() == whole.keys()
    for name, (steps, values) in whole.items():
        assert found[name][0] == steps, name
        assert found[name][1] == pytest.approx(values, abs=2e-3, rel=2e-3), name
