"""Automatic prompts: their text, their length, and which number is printed as which words."""

import pytest
import torch
from gymnasium import spaces as gym_spaces

from lolm_plugin.controllers.prompter import build_writer
from lolm_plugin.envs import gymma
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.gymma import NOTE, describe_spaces
from lolm_plugin.prompts.automatic import AutomaticWriter
from lolm_plugin.prompts.explain import SILENT, UNREAD, explain
from lolm_plugin.prompts.prompter import Prompter
from tests.observations.described_tasks import KEYS, description, episode, seen

EVERY = pytest.mark.parametrize("key", KEYS)
FORMS = pytest.mark.parametrize("short", [True, False], ids=["short", "full"])
DYNAMIC = pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
AUTO = {"style": "compact", "source": "auto", "dynamic": True}


def write(writer, obs, available=None, agent=0):
    """Return one agent's prompt."""
    every = torch.ones(1, writer.layout.n_actions) if available is None else available
    (parts,) = writer.describe(torch.tensor(obs)[None], every, torch.tensor([agent]))
    return writer.prefix + "".join(parts.values())


def test_foraging_in_short():
    writer = AutomaticWriter(description("lbforaging:Foraging-8x8-2p-3f-v3"), short=True, dynamic=True)
    obs = [2.0, 4, 3, 4, 5, 1, -1, -1, 0, 4, 4, 2, 7, 0, 1]
    assert write(writer, obs, torch.tensor([[1, 1, 0, 0, 0, 1]])) == (
        "Level-based foraging on 8 by 8 cells. Pick one action for your player.\n"
        "Goal: Eat all food. Players who stand next to a food and load at the same time eat it if the sum of their "
        "levels is at least its level.\n"
        "You: level 2\nfood 0: 2 north level 3\nfood 1: 1 east next to you level 1\nplayer 0: 4 west 3 south level 1\n"
        "Actions: wait, move north, load\nBest:"
    )


def test_the_warehouse_in_full():
    writer = AutomaticWriter(description("rware:rware-tiny-2ag-v2"), short=False, dynamic=True)
    obs = torch.zeros(71)
    obs[:8] = torch.tensor([4.0, 8, 1, 0, 1, 0, 0, 1])
    obs[8 + 1 :: 7] = 1  # everything in a cell faces up
    obs[8 + 7 * 4 : 8 + 7 * 5] = torch.tensor([1.0, 0, 1, 0, 0, 1, 1])
    obs[8 + 7 * 5 : 8 + 7 * 6] = torch.tensor([1.0, 0, 0, 1, 0, 0, 0])
    assert write(writer, obs.tolist()) == (
        "Instruction: You control one of 2 robots in a warehouse of 11 by 10 cells. Read the current state and choose "
        "exactly one of the available actions. Offsets are in cells.\n"
        "Goal: Bring requested shelves to a goal, then put them back where no highway is. A robot under shelves moves "
        "freely; one that carries a shelf does not pass other shelves.\n"
        "Current state:\n"
        "You are a robot, facing down, carrying a shelf, on a highway, a shelf in your cell, which is requested.\n"
        "Cell right, a robot, facing left.\n"
        "Goal 0, 0 right and 2 down of you.\nGoal 1, 1 right and 2 down of you.\n"
        "Available actions: wait, move forward, turn left, turn right, pick up or put down.\nThe best action is:"
    )


def test_static_prompts_name_unseen_entities():
    writer = AutomaticWriter(description("lbforaging:Foraging-8x8-2p-3f-v3"), short=True, dynamic=False)
    text = write(writer, [2.0, 4, 3, -1, -1, 0, -1, -1, 0, 4, 4, 2, -1, -1, 0])
    assert "food 0: 2 north level 3\nfood 1: not seen\nfood 2: not seen\nplayer 0: not seen\n" in text


def test_other_agents_are_named_by_their_ids():
    writer = AutomaticWriter(description("pz-mpe-simple-spread-v3"), short=True, dynamic=True)
    for agent, others in enumerate(((1, 2), (0, 2), (0, 1))):
        text = write(writer, [0.5] * 18, agent=agent)
        assert [f"\nagent {other}:" in text for other in range(3)] == [other in others for other in range(3)]


@EVERY
@FORMS
@DYNAMIC
def test_no_prompt_is_longer_than_max_tokens(key, short, dynamic, tiny_tokenizer):
    prompter = Prompter(AutomaticWriter(description(key), short, dynamic), tiny_tokenizer)
    views = [description(key).sample(200), *(seen(env) for env in episode(key))]
    longest = max(max(map(len, prompter.encode(*view))) for view in views)
    assert len(prompter.prefix) + longest <= prompter.max_tokens


@FORMS
def test_no_prompt_is_longer_than_max_tokens_at_the_largest_offsets(short, tiny_tokenizer):
    found = description("lbforaging:Foraging-15x15-9p-4f-v3")
    prompter = Prompter(AutomaticWriter(found, short, True), tiny_tokenizer)
    obs = torch.tensor([[14.0, 14, 6] * 4 + [0.0, 0, 2] + [14.0, 14, 2] * 8])
    (ids,) = prompter.encode(obs, torch.ones(1, 6), torch.zeros(1, dtype=torch.int64))
    assert len(prompter.prefix) + len(ids) <= prompter.max_tokens


@EVERY
@FORMS
def test_assembled_ids_are_those_of_the_whole_text(key, short, tiny_tokenizer):
    prompter = Prompter(AutomaticWriter(description(key), short, True), tiny_tokenizer)
    assert prompter.assembles
    for env in episode(key):
        texts = [prompter.writer.prefix + "".join(parts.values()) for parts in prompter.writer.describe(*seen(env))]
        assert [prompter.prefix + ids for ids in prompter.encode(*seen(env))] == tiny_tokenizer(texts)["input_ids"]


def test_a_battle_has_automatic_prompts_too(layouts, random_views, tiny_tokenizer):
    layout = layouts.observation
    prompter = Prompter(build_writer(AUTO, layout), tiny_tokenizer)
    obs, mask = random_views(layout, 50, seed=1)
    agents = torch.arange(50) % layout.n_agents
    assert prompter.assembles
    assert len(prompter.prefix) + max(map(len, prompter.encode(obs, mask, agents))) <= prompter.max_tokens
    observed = layout.decode(obs)
    for row, parts in enumerate(prompter.writer.describe(obs, mask, agents)):
        text = "".join(parts.values())
        assert text.count("\nenemy ") == int(observed.enemies.present[row].sum())
        assert text.count("\nally ") == int(observed.allies.present[row].sum())
        assert ("heal ally" in text) <= bool(observed.heals[row])
        names = layout.action_names(int(layout.meaning(obs)[row]))
        offered = [name for name, can in zip(names, mask[row].tolist(), strict=True) if can]
        assert f"Actions: {', '.join(offered)}\n" in text


def test_a_task_without_a_description_is_described_by_its_spaces_and_says_so(monkeypatch):
    space = gym_spaces.Dict(
        {"door": gym_spaces.Discrete(2), "lamps": gym_spaces.MultiBinary(2), "where": gym_spaces.Box(-3, 3, (2,))}
    )
    monkeypatch.setattr(gymma, "observation_space", lambda env_args: space)
    found = describe_spaces({"key": "Mine-v0"}, 2, 3)
    assert found.size == 6
    assert found.note == NOTE
    text = write(AutomaticWriter(found, short=True, dynamic=True), [0, 1, 1, 0, -2.5, 0.25])
    assert text == (
        "The task Mine-v0, which nobody has described: numbers are as the environment gives them. Pick one action for "
        "your agent.\nGoal: Get as much reward as possible.\n"
        "You: door 1 lamps 0 where 0 -2.50 where 1 0.25\nActions: action 0, action 1, action 2\nBest:"
    )


def test_numbers_without_bounds_are_clipped(monkeypatch):
    monkeypatch.setattr(gymma, "observation_space", lambda env_args: gym_spaces.Box(-float("inf"), float("inf"), (2,)))
    writer = AutomaticWriter(describe_spaces({"key": "Mine-v0"}, 1, 2), short=True, dynamic=True)
    assert "You: number 0 9999.99 number 1 -9999.99\n" in write(writer, [1e9, -float("inf")])


def test_written_prompts_for_a_described_task_are_refused():
    with pytest.raises(ConfigError, match=r"prompt\.source=written cannot be used with env=gymma.*prompt\.source=auto"):
        build_writer({**AUTO, "source": "written"}, description(KEYS[0]))


def test_explain_shows_the_words_of_each_number():
    writer = AutomaticWriter(description("lbforaging:Foraging-8x8-2p-3f-v3"), short=True, dynamic=True)
    obs = torch.tensor([2.0, 4, 3, 4, 5, 1, -1, -1, 0, 4, 4, 2, 7, 0, 1])
    origins = explain(writer, obs, torch.ones(6), agent=0)
    assert [origin.index for origin in origins] == list(range(15))
    words = {origin.name: origin.words for origin in origins}
    assert words["food 0: y"] == '"2"'
    assert words["food 0: level"] == '"level 3"'
    assert words["food 1: x"] == '"1 east next to you"'
    assert words["food 2: level"] == SILENT
    assert words["own: level"] == '"level 2"'
    assert words["player 0: level"] == '"level 1"'


@pytest.mark.parametrize("source", ["written", "auto"])
def test_explain_finds_the_words_of_every_health_of_a_battle(source, layouts, random_views):
    layout = layouts.observation
    writer = build_writer({**AUTO, "source": source}, layout)
    obs, mask = random_views(layout, 1, seed=2, unseen=0.0)
    origins = explain(writer, obs[0], mask[0], agent=0)
    assert len(origins) == layout.size
    if "health" in layout.enemies.fields:
        word = "hp" if source == "written" else "health"
        for j in range(layout.n_enemies):
            at = layout.enemies.start + j * layout.enemies.width + layout.enemies.fields.index("health")
            assert origins[at].name == f"enemy {j}: health"
            assert origins[at].words == f'"{word} {obs[0, at]:.2f}"'
    assert {origins[i].words for i in range(4)} == {UNREAD}
