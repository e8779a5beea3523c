"""Observations, state and masks of small battles, computed in NumPy."""

import numpy as np
import pytest

from lolm_plugin.envs.smax import N_TYPES, Units, UnitTypes, view

MARINE, MARAUDER, STALKER, ZEALOT, ZERGLING, HYDRALISK = range(6)
BITS = np.eye(N_TYPES)
UNSEEN = [0.0] * 12
TYPES = UnitTypes(
    health=np.array([45.0, 125, 160, 150, 35, 80]),
    cooldown=np.array([0.61, 1.07, 1.87, 0.86, 0.5, 0.59]),
    sight=np.array([9.0, 10, 10, 9, 8, 9]),
    range=np.array([5.0, 6, 6, 2, 2, 5]),
    stride=np.array([3.15, 2.25, 4.13, 3.15, 4.13, 3.15]) / 2,
)


def see(n_agents, *units):
    """Return the view of a battle. Units are (type, x, y, health, cooldown); health 0 means dead."""
    kind, x, y, health, cooldown = (np.array(column) for column in zip(*units, strict=True))
    position = np.stack([x, y], -1).astype(float)
    return view(np, Units(position, health > 0, health, cooldown, kind), TYPES, n_agents, 32)


def battle():
    return see(
        2,
        (STALKER, 10, 10, 80, 0.935),
        (MARINE, 13, 14, 45, -0.3),
        (ZEALOT, 10, 15.5, 75, 0.9),
        (ZERGLING, 20, 10, 35, 0),
        (HYDRALISK, 10, 11, 0, 0),
    )


def test_observations_are_in_smac_order():
    obs, _, mask = battle()
    stalker = [
        *(1, 1, 1, 1),
        *(1, 0.55, 0, 0.55, 0.5, 1, *BITS[ZEALOT]),  # cooldown 0.9 of 0.86: clipped to 1
        *UNSEEN,  # exactly at the stalker's sight range of 10, so not visible
        *UNSEEN,  # dead
        *(1, 0.5, 0.3, 0.4, 1, 0, *BITS[MARINE]),
        *(0.5, 0.5, 10 / 32, 10 / 32, *BITS[STALKER]),
    ]
    marine = [
        *(1, 1, 1, 1),
        *(1, np.hypot(3, 1.5) / 9, -3 / 9, 1.5 / 9, 0.5, 1, *BITS[ZEALOT]),
        *(0, np.hypot(7, 4) / 9, 7 / 9, -4 / 9, 1, 0, *BITS[ZERGLING]),  # visible, out of range
        *UNSEEN,
        *(1, 5 / 9, -3 / 9, -4 / 9, 0.5, 0.5, *BITS[STALKER]),
        *(1, 0, 13 / 32, 14 / 32, *BITS[MARINE]),
    ]
    np.testing.assert_allclose(obs, [stalker, marine], atol=1e-6)
    assert mask.tolist() == [[0, 1, 1, 1, 1, 1, 1, 0, 0]] * 2
    assert (obs.dtype, mask.dtype) == (np.float32, np.int32)


def test_the_state_has_allies_then_enemies_relative_to_the_centre():
    state = battle().state.reshape(5, 10)
    rows = [
        [0.5, 0.5, -6 / 32, -6 / 32, *BITS[STALKER]],
        [1, 0, -3 / 32, -2 / 32, *BITS[MARINE]],
        [0.5, 1, -6 / 32, -0.5 / 32, *BITS[ZEALOT]],
        [1, 0, 4 / 32, -6 / 32, *BITS[ZERGLING]],
        [0] * 10,
    ]
    np.testing.assert_allclose(state, rows, atol=1e-6)


def test_the_range_is_exclusive_and_depends_on_the_attackers_type():
    mask = see(1, (MARINE, 10, 10, 45, 0), (ZEALOT, 15, 10, 150, 0), (ZEALOT, 14.99, 10, 150, 0)).avail_actions
    assert mask[0, 6:].tolist() == [0, 1]
    mask = see(1, (ZEALOT, 10, 10, 150, 0), (MARINE, 12, 10, 45, 0), (MARINE, 11.99, 10, 45, 0)).avail_actions
    assert mask[0, 6:].tolist() == [0, 1]


def test_dead_agents_have_an_empty_observation_and_only_no_op():
    obs, _, mask = see(3, (MARINE, 10, 10, 0, 0), *[(MARINE, 10, 10 + i, 45, 0) for i in (1, 2)], (MARINE, 9, 9, 9, 0))
    assert not obs[0].any()
    assert mask[0].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert obs[1, 16:28].tolist() == UNSEEN  # the dead ally 0
    assert obs[1, 28] == 1  # the living ally 2


def test_other_allies_are_in_the_order_of_their_numbers():
    obs = see(3, (MARINE, 10, 10, 45, 0), (STALKER, 11, 10, 160, 0), (ZEALOT, 12, 10, 150, 0), (MARINE, 1, 1, 0, 0)).obs
    kinds = obs[:, 16:40].reshape(3, 2, 12)[:, :, 6:].argmax(-1)
    assert kinds.tolist() == [[STALKER, ZEALOT], [MARINE, ZEALOT], [MARINE, STALKER]]


def test_a_single_agent_has_no_ally_features():
    obs, state, mask = see(1, (MARINE, 10, 10, 45, 0), (MARINE, 20, 20, 45, 0))
    assert (obs.shape, state.shape, mask.shape) == ((1, 4 + 12 + 10), (20,), (1, 7))


@pytest.mark.parametrize(
    ("position", "moves"),
    [  # north, south, east, west; a marine moves 1.575 and must stay 3 from the wall
        ((16, 27.4), [1, 1, 1, 1]),
        ((16, 27.5), [0, 1, 1, 1]),
        ((16, 4.5), [1, 0, 1, 1]),
        ((27.5, 16), [1, 1, 0, 1]),
        ((4.5, 16), [1, 1, 1, 0]),
        ((4.6, 4.6), [1, 1, 1, 1]),
        ((0.5, 31.5), [0, 1, 1, 0]),
    ],
)
def test_moves_towards_a_near_wall_are_masked(position, moves):
    obs, _, mask = see(1, (MARINE, *position, 45, 0), (MARINE, 16, 16, 45, 0))
    assert mask[0, 2:6].tolist() == moves
    assert obs[0, :4].tolist() == moves
