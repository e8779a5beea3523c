"""Measure how much of the hidden state depends on the observation."""

import math

import pytest
import torch

from benchmarks import features


def test_spread_by_hand():
    assert features.spread(torch.tensor([[4.0, 0.0], [2.0, 0.0]])) == (3.0, 1.0, pytest.approx(1 / 3))
    assert features.spread(torch.tensor([[4.0, 0.0], [-4.0, 0.0]])) == (0.0, 4.0, math.inf)


def test_observations_of_a_probe_are_situations_with_a_choice():
    policy = features.agent("probe", "duel", {"model": "tiny-llama", "num_layers": None}, "terse")
    obs, available, agents = features.views(policy, "probe", "duel")
    assert len(obs) == len(available) == len(agents) > 8
    assert (available.sum(-1) > 1).all()


@pytest.mark.parametrize(("env", "map_name"), [("probe", "retreat"), ("smax", "3m")])
def test_features_scaled_by_the_observations_themselves_have_mean_0(env, map_name, capsys):
    assert features.main(["--model=tiny-llama", f"--env={env}", f"--map={map_name}"]) == 0
    lines = capsys.readouterr().out.splitlines()[4:]
    raw, made_up, own = (
        [float(cell.strip(" %").split()[-1].rstrip("%")) for cell in line.split("|")[2:5]] for line in lines
    )
    assert raw[2] < made_up[2]
    assert own[0] == 0
    assert own[1] > 5  # 64 dimensions with deviation 1 each have a norm of about 8
