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


def test_an_enemy_shoots_at_the_nearest_agent_in_reach_that_lost_health():
    """States of two marines against one, on SMAX: health, cooldown, x and y from the centre, and type bits."""
    layouts = build_layouts("smax", {"map_name": "2m_vs_1m"}, 2, 7)
    # (health, cooldown, x in cells) of agent 0, agent 1 and the enemy in each step
    steps = [
        [(1.0, 0, 0), (1.0, 0, 1), (1.0, 0.0, 5)],
        [(0.8, 0, 0), (1.0, 0, 1), (1.0, 0.9, 5)],  # it fired, and the farther agent lost health
        [(0.7, 0, 0), (0.8, 0, 1), (1.0, 0.8, 5)],  # again: 0.1 lower is no cooling; of two hit agents the nearer
        [(0.6, 0, 0), (0.8, 0, 1), (1.0, 0.2, 5)],  # it cooled: another unit shot
        [(0.6, 0, 0), (0.0, 0, 1), (1.0, 0.9, 5)],  # it killed agent 1
        [(0.5, 0, 0), (0.0, 0, 1), (1.0, 0.9, 15)],  # out of reach after that
        [(0.4, 0, 0), (0.0, 0, 1), (1.0, 0.9, 15)],
    ]
    state = torch.zeros(len(steps), layouts.state.size)
    for t, units in enumerate(steps):
        for i, (health, cooldown, x) in enumerate(units):
            if health:
                state[t, 10 * i : 10 * i + 5] = torch.tensor([health, cooldown, x / 32, 0.0, 1.0])
    obs = torch.zeros(len(steps), 2, layouts.observation.size)
    found = field.build(layouts, state, obs)
    assert found.x[2, 0] == pytest.approx(5)
    assert found.shots == [(0, 2, 0), (1, 2, 1), (3, 2, 1), (4, 2, 0)]
    # The probe's state has no cooldowns.
    layouts = build_layouts("probe", {"map_name": "target"}, 2, 9)
    empty = torch.zeros(2, 2, layouts.observation.size)
    assert field.build(layouts, torch.ones(2, layouts.state.size), empty).shots == []


def test_shelves_are_drawn_where_a_robot_saw_them_last():
    layouts = build_layouts("gymma", {"key": "rware:rware-tiny-2ag-v2"}, 2, 5)
    layout = layouts.observation
    shelf, requested = (dict(((dx, dy), at[-1]) for dx, dy, at in ground.cells) for ground in layout.ground)
    obs = torch.zeros(3, 2, layout.size)
    obs[:, 0, :2], obs[:, 1, :2] = torch.tensor([4.0, 4.0]), torch.tensor([8.0, 8.0])
    obs[0, 0, shelf[1, 0]] = obs[0, 0, requested[1, 0]] = obs[0, 1, shelf[0, -1]] = 1  # at (5, 4) and at (8, 7)
    obs[1, 0, :2] = torch.tensor([1.0, 1.0])  # away; then it sees that the shelf is gone
    found = field.build(layouts, obs.flatten(1), obs)
    kinds = [i for i, side in enumerate(found.side) if side == field.GROUND]
    assert [found.kind[i] for i in kinds] == ["shelf", "shelf", "requested shelf"]
    places = [[None if np.isnan(x) else (x, y) for x, y in zip(found.x[i], found.y[i], strict=True)] for i in kinds]
    assert places[0] == places[2] == [(5, -4), (5, -4), None]
    assert places[1] == [(8, -7), None, None]
    assert found.seen[:, :, kinds[0]].tolist() == [[True, False], [False, False], [False, False]]
