"""Tests that results do not depend on the number of environments or on the number of steps evaluated at once."""

import pytest
import torch

from tests.resume.runs import last_checkpoint, line, models, series, train
from tests.slow import all_slow_but

# On "target" several enemies can be attacked, so a language model samples among equal actions. DT2GS draws noise.
ALGORITHMS = {
    "lolm_mappo_tiny": "probe target",
    "updet_mappo": "smax 2m_vs_1m",
    "rnn_mappo": "probe duel",
    "dt2gs_mappo": "probe target",
}


@pytest.mark.parametrize("algorithm", all_slow_but(["rnn_mappo", "dt2gs_mappo"], ALGORITHMS))
def test_one_or_three_environments_play_the_same_test_battles(algorithm, tmp_path):
    env, map_name = ALGORITHMS[algorithm].split()
    assert train(tmp_path / "trained", *line(algorithm, env, map_name, "t_max=150", "test_interval=10000")) == 0
    played = {}
    for count in (1, 3):  # the last of three batches is not full
        sizes = [f"batch_size_run={count}"]
        asked = ["evaluate=True", f"checkpoint_path={models(tmp_path / 'trained')}", "test_nepisode=8"]
        asked += ["test_sampled=True", *sizes]
        assert train(tmp_path / str(count), *line(algorithm, env, map_name, *asked)) == 0
        played[count] = series(tmp_path / str(count), 1)
    names = ("return_mean", "ep_length_mean", "battle_won_mean")
    assert played[1].keys() == played[3].keys() >= {f"test_{kind}{name}" for kind in ("", "sampled_") for name in names}
    for name, (_, values) in played[1].items():
        assert values == pytest.approx(played[3][name][1], abs=1e-9), name
    share = 8 * played[3]["test_battle_won_mean"][1][0]
    assert share == pytest.approx(round(share))  # of exactly 8 battles


@pytest.mark.parametrize("algorithm", all_slow_but(["dt2gs_mappo"], ["lolm_mappo_tiny", "dt2gs_mappo"]))
def test_sampled_tests_do_not_change_training(algorithm, tmp_path):
    learned = {}
    for sampled in (True, False):
        asked = ("t_max=400", f"test_sampled={sampled}", "save_model_interval=1")
        assert train(tmp_path / str(sampled), *line(algorithm, "probe", "target", *asked)) == 0
        found, (step, tensors, _) = series(tmp_path / str(sampled), 1), last_checkpoint(tmp_path / str(sampled))
        learned[sampled] = {name: found[name] for name in found if not name.startswith("test_sampled_")}, step, tensors
        assert any(name.startswith("test_sampled_") for name in found) == sampled
    assert learned[True][:2] == learned[False][:2]
    for name, tensor in learned[True][2].items():
        assert torch.equal(tensor, learned[False][2][name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole") / "run")


def trained(folder, *updates):
    """Return the series of a short training of UPDeT. Steps are small, so that rounding changes no action."""
    small = ("t_max=300", "lr=0.0001", "critic_lr=0.0001", "test_interval=100")
    assert train(folder, *line("updet_mappo", "probe", "duel", *small, *updates)) == 0
    return series(folder, 1)


@pytest.mark.parametrize("count", all_slow_but([4], [1, 4, 8]))
def test_the_microbatch_does_not_change_training(whole, count, tmp_path):
    found = trained(tmp_path / "run", f"microbatch={count}")
    assert found.keys() == whole.keys()
    for name, (steps, values) in whole.items():
        assert found[name][0] == steps, name
        assert found[name][1] == pytest.approx(values, abs=2e-3, rel=2e-3), name
