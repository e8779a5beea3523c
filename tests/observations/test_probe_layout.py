"""Probe vectors written by hand and decoded by name."""

import pytest
import torch

from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.units import UNKNOWN, index

MARINE = index("marine")


@pytest.fixture
def probe():
    return build_layouts("probe", {"map_name": "two_against_two"}, n_agents=2, n_actions=8)


def test_sizes_are_those_of_the_environment(probe):
    assert (probe.observation.size, probe.state.size) == (4 + 2 * 5 + 5 + 1, 4 * 3)


def test_an_observation_decodes_to_its_units(probe):
    enemy, unseen, ally = [0, 0.5, 0.3, 0.4, 0.25], [0] * 5, [1, 0.125, 0, -0.125, 1]
    observed = probe.observation.decode(torch.tensor([[1, 1, 0, 1, *unseen, *enemy, *ally, 0.75]]))
    assert observed.enemies.present.tolist() == [[False, True]]
    assert observed.enemies.kind.tolist() == [[UNKNOWN, MARINE]]
    for name, value in zip(("can_target", "dist", "dx", "dy", "health"), enemy, strict=True):
        assert observed.enemies.fields[name][0, 1].item() == pytest.approx(value)
    for name, value in zip(("visible", "dist", "dx", "dy", "health"), ally, strict=True):
        assert observed.allies.fields[name][0, 0].item() == value
    assert observed.own.fields["health"].tolist() == [[0.75]]
    assert observed.own.kind.tolist() == [[MARINE]]
    assert observed.sight.tolist() == [9]


def test_a_state_decodes_to_both_teams(probe):
    allies, enemies = probe.state.decode(torch.tensor([[0.5, -0.25, 0.125, 0, 0, 0, 1, 0.5, -0.5, 0, 0, 0]]))
    assert allies.present.tolist() == [[True, False]]
    assert enemies.present.tolist() == [[True, False]]
    assert [allies.fields[name][0, 0].item() for name in ("health", "x", "y")] == [0.5, -0.25, 0.125]
    assert [enemies.fields[name][0, 0].item() for name in ("health", "x", "y")] == [1, 0.5, -0.5]


def test_an_agent_alone_has_no_allies():
    layout = build_layouts("probe", {"map_name": "duel"}, n_agents=1, n_actions=7).observation
    assert layout.size == 4 + 5 + 1
    assert layout.decode(torch.ones(2, layout.size)).allies.present.shape == (2, 0)
