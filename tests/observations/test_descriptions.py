"""Descriptions of real tasks agree with the internal state of the tasks."""

import re

import numpy as np
import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.checks import FirstEpisodes, check_observations
from lolm_plugin.observations.gymma_tasks import TASKS
from lolm_plugin.observations.state import DescribedState
from lolm_plugin.prompts.automatic import AutomaticWriter
from tests.observations.described_tasks import KEYS, description, episode, layouts, seen

EVERY = pytest.mark.parametrize("key", KEYS)


def test_every_description_is_tested():
    assert all(any(re.fullmatch(pattern, key) for key in KEYS) for pattern in TASKS)


def lines(key, env):
    """Return every agent's prompt, line by line."""
    return [
        "".join(parts.values()).split("\n")
        for parts in AutomaticWriter(description(key), True, True).describe(*seen(env))
    ]


def offset(x, y, right, left, down, up, decimals=0):
    """Return an offset in the words of the short form."""
    words = [
        f"{abs(number):.{decimals}f} {positive if number > 0 else negative}"
        for number, positive, negative in ((x, right, left), (y, down, up))
        if abs(number) >= 0.5 / 10**decimals
    ]
    return " ".join(words) or "here"


@pytest.mark.parametrize("key", [key for key in KEYS if "Foraging" in key])
def test_foraging_agrees_with_the_game(key):
    sight = 2 if "-2s-" in key else 99
    for env in episode(key):
        game = env._task._env.unwrapped
        foods = [(int(row), int(column), int(game.field[row, column])) for row, column in np.argwhere(game.field)]
        for player, said in zip(game.players, lines(key, env), strict=True):
            row, column = map(int, player.position)
            expected = []
            for y, x, level in foods:
                if max(abs(y - row), abs(x - column)) <= sight:
                    beside = " next to you" if abs(y - row) + abs(x - column) == 1 else ""
                    expected.append(
                        f"{offset(x - column, y - row, 'east', 'west', 'south', 'north')}{beside} level {level}"
                    )
            found = [line.split(": ")[1] for line in said if line.startswith("food")]
            assert sorted(found) == sorted(expected)
            assert said[0] == f"You: level {int(player.level)}"
            others = [line for line in said if line.startswith("player")]
            if sight == 99:
                assert len(others) == len(game.players) - 1
            for other in (other for other in game.players if other is not player):
                y, x = int(other.position[0]) - row, int(other.position[1]) - column
                if max(abs(y), abs(x)) <= sight:
                    where = offset(x, y, "east", "west", "south", "north")
                    assert any(f": {where} " in line and line.endswith(f"level {int(other.level)}") for line in others)


@pytest.mark.parametrize("key", [key for key in KEYS if "rware" in key])
def test_the_warehouse_agrees_with_the_game(key):
    names = {"UP": "up", "DOWN": "down", "LEFT": "left", "RIGHT": "right"}
    for env in episode(key):
        game = env._task._env.unwrapped
        robots = {(robot.x, robot.y): robot for robot in game.agents}
        shelves = {(shelf.x, shelf.y): shelf for shelf in game.shelfs}
        for robot, said in zip(game.agents, lines(key, env), strict=True):
            assert f"facing {names[robot.dir.name]}" in said[0]
            assert ("carrying a shelf" in said[0]) == (robot.carrying_shelf is not None)
            assert ("on a highway" in said[0]) == bool(game._is_highway(robot.x, robot.y))
            cells = {line.split(": ")[0]: line.split(": ")[1] for line in said if line.startswith("cell")}
            for y, vertical in ((-1, "up"), (0, ""), (1, "down")):
                for x, horizontal in ((-1, "left"), (0, ""), (1, "right")):
                    if x == y == 0:
                        continue
                    at = (robot.x + x, robot.y + y)
                    text = cells.get(" ".join(("cell", *filter(None, (vertical, horizontal)))), "")
                    assert ("a shelf" in text) == (at in shelves)
                    assert ("requested" in text) == (at in shelves and shelves[at] in game.request_queue)
                    assert ("a robot" in text) == ("facing" in text) == (at in robots)
                    if at in robots:
                        assert f"facing {names[robots[at].dir.name]}" in text
            goals = [line.split(": ")[1] for line in said if line.startswith("goal")]
            words = ("right", "left", "down", "up")
            assert goals == [offset(x - robot.x, y - robot.y, *words) for x, y in game.goals]


def test_spread_agrees_with_the_game():
    key = "pz-mpe-simple-spread-v3"
    for env in episode(key, steps=10):
        world = env._task._env.unwrapped.world
        for agent, said in zip(world.agents, lines(key, env), strict=True):
            (x, y), (right, up) = agent.state.p_pos, agent.state.p_vel
            assert said[0] == f"You: x {x:.2f} y {y:.2f} speed right {right:.2f} speed up {up:.2f}"
            for i, landmark in enumerate(world.landmarks):
                where = offset(*(landmark.state.p_pos - agent.state.p_pos), "right", "left", "up", "down", decimals=2)
                assert f"landmark {i}: {where}" in said
            for i, other in enumerate(world.agents):
                if other is not agent:
                    where = offset(*(other.state.p_pos - agent.state.p_pos), "right", "left", "up", "down", decimals=2)
                    assert f"agent {i}: {where}" in said


@EVERY
def test_real_episodes_fit_their_description(key):
    for env in episode(key):
        obs, available, _ = seen(env)
        assert obs.shape[1] == description(key).size
        batch = {"obs": obs[None, None], "avail_actions": available[None, None]}
        FirstEpisodes(layouts(key), wanted=True).check(
            {**batch, "state": torch.from_numpy(env.get_state())[None, None]}, 0, [0]
        )


@pytest.mark.parametrize(
    ("key", "at", "value", "words"),
    [
        (KEYS[0], 11, 5.0, r"own: level lies between 0 and 2, but own has 5"),
        (KEYS[0], 1, 40.0, r"food: its position lies between -1 and 8, but food 0 has 40"),
        (KEYS[2], 4, 1.0, r"exactly one of up, down, left, right is 1, but own has 1 1 0 0"),
        (KEYS[2], 2, 0.5, r"'carrying a shelf' is 0 or 1, but own has 0\.5"),
    ],
)
def test_numbers_that_are_not_as_declared_are_refused_by_name(key, at, value, words):
    env = next(episode(key))
    obs, available, _ = seen(env)
    obs[0, at] = value
    if key == KEYS[2] and at == 4:
        obs[0, 3:7] = torch.tensor([1.0, 1, 0, 0])
    with pytest.raises(ConfigError, match=words):
        check_observations(description(key), obs, available)


def test_a_state_that_is_not_all_observations_is_refused():
    env = next(episode(KEYS[0]))
    obs, available, _ = seen(env)
    batch = {"obs": obs[None, None], "avail_actions": available[None, None], "state": obs.flatten().flip(0)[None, None]}
    with pytest.raises(ConfigError, match="the state is not the concatenation of all observations"):
        FirstEpisodes(layouts(KEYS[0]), wanted=True).check(batch, 0, [0])


@EVERY
def test_critic_features_have_the_same_width_for_every_task_size(key):
    other = {"lbforaging:Foraging-8x8-2p-3f-v3": "lbforaging:Foraging-12x12-4p-2f-v3"}.get(key, key)
    assert layouts(key).state.width == layouts(other).state.width
    env = next(episode(key))
    state = DescribedState(description(key))
    tokens, present = state.entities(torch.from_numpy(env.get_state()).unsqueeze(0))
    things = 1 + sum(len(block.starts) for block in description(key).entities)
    assert tokens.shape == (1, env.n_agents * things, state.width)
    assert not tokens[~present].any()
    assert tokens.abs().max() <= 3
    assert present.view(env.n_agents, things)[:, 0].all()


def test_critic_features_by_hand():
    """On an 8x8 board, the agent is at row 4, column 4 with level 2. A food of level 3 is 2 north and 1 east."""
    state = DescribedState(description("lbforaging:Foraging-8x8-2p-1f-v3"))
    obs = torch.tensor([2.0, 5, 3, 4, 4, 2, -1, -1, 0])
    tokens, present = state.entities(torch.cat([obs, torch.tensor([-1.0, -1, 0, 4, 4, 1, -1, -1, 0])]))
    assert present.tolist() == [True, True, False, True, False, False]
    # [you, food, player | own level | food x, y, level | player x, y, level]
    assert tokens[0].tolist() == [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert tokens[1].tolist() == [0, 1, 0, 0, 1 / 8, -2 / 8, 3 / 4, 0, 0, 0]
    assert tokens[3].tolist() == [1, 0, 0, 0.5, 0, 0, 0, 0, 0, 0]
