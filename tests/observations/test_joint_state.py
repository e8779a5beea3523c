"""A state made of all observations: living units, their types and their condition."""

import pytest
import torch

from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.layout import per_kind
from lolm_plugin.observations.units import NAMES, UNKNOWN, index


@pytest.fixture
def layouts():
    return build_layouts("sc2", {"map_name": "2s3z", "obs_instead_of_state": True}, 5, 11)


def test_enemies_are_read_from_the_first_agent_that_sees_them(layouts):
    """Agents 1 and 2 live. Agent 1 sees enemy 3, agent 2 sees enemies 3 and 4."""
    obs = torch.zeros(5, 80)
    obs[1, 76:80] = torch.tensor([0.5, 0.25, 1, 0])
    obs[2, 76:80] = torch.tensor([1.0, 1.0, 0, 1])
    obs[1, 28:36] = torch.tensor([0, 0.5, 0.5, 0, 0.75, 0.5, 1, 0])
    obs[2, 28:36] = torch.tensor([0, 0.8, 0.8, 0, 0.75, 0.5, 1, 0])
    obs[2, 36:44] = torch.tensor([0, 0.7, 0, 0.7, 0.25, 0, 0, 1])
    allies, enemies = layouts.state.decode(obs.flatten())
    assert allies.present.tolist() == [False, True, True, False, False]
    assert [NAMES[k] for k in allies.kind[1:3]] == ["stalker", "zealot"]
    assert allies.fields["health"][1:3].tolist() == [0.5, 1.0]
    assert allies.fields["shield"][1:3].tolist() == [0.25, 1.0]
    assert enemies.present.tolist() == [False, False, False, True, True]
    assert [NAMES[k] for k in enemies.kind[3:]] == ["zealot", "stalker"]
    assert enemies.fields["health"][3:].tolist() == [0.75, 0.25]
    assert not {"dx", "dy", "dist", "x"} & (allies.fields.keys() | enemies.fields.keys())


def test_the_state_has_the_size_of_all_observations_and_any_leading_dimensions(layouts):
    assert layouts.state.size == 5 * 80
    allies, enemies = layouts.state.decode(torch.zeros(2, 3, 400))
    assert (allies.present.shape, enemies.kind.shape) == ((2, 3, 5), (2, 3, 5))
    assert not enemies.present.any()
    assert (enemies.kind == UNKNOWN).all()


def test_a_unit_of_unknown_kind_gets_the_largest_range():
    ranges = tuple(float(i) for i in range(1, len(NAMES) + 1))
    assert per_kind(ranges, torch.tensor([index("marine"), UNKNOWN])).tolist() == [1.0, len(NAMES)]
    assert per_kind(7.0, torch.tensor([UNKNOWN])).tolist() == [7.0]
