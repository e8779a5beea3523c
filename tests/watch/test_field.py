"""Positions of tasks whose state does not have them: grids, offsets that agents see, and tasks without places."""

import numpy as np
import pytest
import torch

from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.battle import JointStateLayout, Layouts
from lolm_plugin.watch import field


def foraging(sight):
    """Return the layouts of two players and one food at (row, column) = (5, 6), level 2."""
    return build_layouts("gymma", {"key": f"lbforaging:Foraging-{sight}8x8-2p-1f-v3"}, 2, 6)


def test_a_grid_has_the_positions_of_its_players_and_food():
    # (row, column, level) of the food, the player, the other player
    obs = torch.tensor([[[5, 6, 2, 1, 2, 1, 4, 4, 1], [5, 6, 2, 4, 4, 1, 1, 2, 1]]] * 2, dtype=torch.float32)
    obs[1, :, 0:3] = torch.tensor([-1.0, -1.0, 0.0])  # eaten
    found = field.build(foraging(""), obs.flatten(1), obs)
    assert found.label == ["player 0", "player 1", "food 0"]
    assert found.x[:, 0].tolist() == [2, 4, 6]
    assert found.y[:, 0].tolist() == [-1, -4, -5]  # rows grow downward
    assert np.isnan(found.x[2, 1])
    assert found.seen[:, 0].tolist() == [[True, False, True], [True, False, False]]
    assert found.won is None


@pytest.mark.parametrize(("sight", "column"), [("2s-", 3), ("", 4)])
def test_positions_that_agents_do_not_share_are_not_drawn(sight, column):
    """With a limited sight each view has its own corner. Otherwise two agents that disagree show another layout."""
    obs = torch.tensor([[[3, 3, 2, 1, 2, 1, 0, 0, 0], [3, column, 2, 2, 3, 1, 0, 0, 0]]], dtype=torch.float32)
    found = field.build(foraging(sight), obs.flatten(1), obs)
    assert found.label == ["player 0", "player 1"]
    assert np.isnan(found.x).all()


@pytest.mark.parametrize("hidden", [0, 1])
def test_offsets_give_the_positions_of_a_battle_whose_state_has_none(hidden):
    layouts = build_layouts("probe", {"map_name": "target"}, 2, 9)
    layout = layouts.battle
    places = torch.tensor([[0.0, 0.0], [2.0, 1.0], [4.0, 0.0], [0.0, 3.0], [3.0, 3.0]])
    obs = torch.zeros(1, 2, layout.size)
    for agent in range(2):
        away = (places - places[agent]) / 9
        for block, units in ((layout.enemies, [2, 3, 4]), (layout.allies, [1 - agent])):
            for i, unit in enumerate(units):
                if (agent, unit) != (0, 2) or not hidden:
                    row = [1.0, float(away[unit].norm()), *away[unit].tolist(), 1.0]
                    obs[0, agent, block.start + i * block.width : block.start + (i + 1) * block.width] = torch.tensor(
                        row
                    )
        obs[0, agent, layout.own.start] = 1.0
    joint = Layouts(layout, JointStateLayout(layout))
    found = field.build(joint, obs.flatten(1), obs)
    assert np.stack([found.x[:, 0], found.y[:, 0]], 1) == pytest.approx(places.numpy(), abs=1e-5)
    assert found.seen[0, 0, 2] != bool(hidden)
