"""SMAX vectors written by hand (two allies, two enemies) and decoded by name."""

import pytest
import torch

from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.units import NAMES, UNKNOWN, index

TYPES = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk")


def bits(name):
    return [float(name == other) for other in TYPES]


MOVE = [1.0, 0, 1, 0]
ENEMY = [1, 0.5, 0.3, -0.4, 0.75, 0.25, *bits("zergling")]
ALLY = [1, 0.2, 0, 0.2, 1, 0, *bits("marauder")]
OWN = [0.5, 0.125, 0.25, 0.75, *bits("stalker")]
ABSENT = [0.0] * 12
DEAD = [0.0] * 10


@pytest.fixture
def smax():
    return build_layouts("smax", {"map_name": "2s_vs_2zg"}, n_agents=2, n_actions=8)


def values(units, name):
    return units.fields[name].squeeze(0).tolist()


def test_sizes_are_those_of_the_environment(smax):
    assert (smax.observation.size, smax.state.size) == (4 + 2 * 12 + 12 + 10, 4 * 10)


def test_an_observation_decodes_to_its_units(smax):
    observed = smax.observation.decode(torch.tensor([MOVE + ENEMY + ABSENT + ALLY + OWN]))
    assert observed.enemies.present.tolist() == [[True, False]]
    assert observed.enemies.kind.tolist() == [[index("zergling"), UNKNOWN]]
    shown = ("can_target", "dist", "dx", "dy", "health", "cooldown")
    assert [values(observed.enemies, name)[0] for name in shown] == pytest.approx(ENEMY[:6])
    assert observed.allies.kind.tolist() == [[index("marauder")]]
    shown = ("visible", "dist", "dx", "dy", "health", "cooldown")
    assert [values(observed.allies, name)[0] for name in shown] == pytest.approx(ALLY[:6])
    assert observed.own.kind.tolist() == [[index("stalker")]]
    assert [values(observed.own, name)[0] for name in ("health", "cooldown", "x", "y")] == [0.5, 0.125, 0.25, 0.75]


@pytest.mark.parametrize(
    ("own", "cells"),
    [("marine", 9), ("marauder", 10), ("stalker", 10), ("zealot", 9), ("zergling", 8), ("hydralisk", 9)],
)
def test_distances_are_shares_of_the_sight_of_the_observers_own_type(smax, own, cells):
    vector = [0.0] * 40 + [1.0, 0, 0.5, 0.5, *bits(own)]
    assert smax.observation.decode(torch.tensor(vector)).sight.item() == cells


def test_a_state_decodes_to_both_teams(smax):
    state = [0.5, 0.25, -0.5, 0.5, *bits("stalker"), *DEAD, *DEAD, 1, 0, 0.1, 0.2, *bits("hydralisk")]
    allies, enemies = smax.state.decode(torch.tensor([state]))
    assert allies.present.tolist() == [[True, False]]
    assert enemies.present.tolist() == [[False, True]]
    assert allies.kind.tolist() == [[index("stalker"), UNKNOWN]]
    assert enemies.kind.tolist() == [[UNKNOWN, index("hydralisk")]]
    assert [values(allies, name)[0] for name in ("health", "cooldown", "x", "y")] == [0.5, 0.25, -0.5, 0.5]
    assert [values(enemies, name)[1] for name in ("health", "cooldown", "x", "y")] == pytest.approx([1, 0, 0.1, 0.2])


def test_leading_dimensions_are_kept(smax):
    vector = torch.tensor(MOVE + ENEMY + ABSENT + ALLY + OWN)
    observed = smax.observation.decode(vector.expand(3, 5, 2, -1))
    assert observed.enemies.fields["dist"].shape == (3, 5, 2, 2)
    assert observed.sight.shape == (3, 5, 2)
    assert (observed.enemies.kind[..., 0] == index("zergling")).all()


def test_every_type_bit_of_smax_is_a_unit_of_the_universe(smax):
    assert [NAMES[kind] for kind in smax.observation.own.kinds] == list(TYPES)
