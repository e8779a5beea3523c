"""The exact text of each style, and the properties of all registered styles."""

import re
from dataclasses import replace

import pytest
import torch

from lolm_plugin import registry
from lolm_plugin.errors import ConfigError
from lolm_plugin.prompts.compact import CompactStyle
from lolm_plugin.prompts.paper import PaperStyle
from lolm_plugin.prompts.style import build_style
from tests.prompts.plain_scene import Scene, SeenUnit, Self, describe, scenes
from tests.prompts.terse_reader import lines_of

ALLY = SeenUnit("ally", 0, "marine", True, 4.5, 2.7, -3.6, 0.756, None, 0.25)
STALKER = SeenUnit("enemy", 2, "stalker", True, 10.0, -0.02, 9.999, 1.0, 0.5, 0.0, in_range=True)
GONE = SeenUnit("enemy", 3, "unknown unit", False, 0.0, 0.0, 0.0, 0.0, None, 0.0)
SCENE = Scene(
    me=Self(1, "marauder", 0.5, None, 0.125, 0.25, 0.755, attack_range=6.0),
    allies=(ALLY,),
    enemies=(STALKER, GONE),
    actions=("stop", "move east", "attack enemy 2"),
)
ALONE = Scene(Self(0, "zealot", 1.0, 0.25, None, None, None), (), (), ("stop",))


def test_the_paper_style_word_for_word():
    assert describe(PaperStyle(), SCENE).text == (
        "Current state:\n"
        "You are ally 1, a marauder, health 0.50, cooldown 0.12, attack range 6, at 0.25 of the map's width and 0.76 "
        "of its height.\n"
        "Ally 0 is a marine at distance 4.50, 2.70 east and 3.60 south of you, health 0.76, cooldown 0.25.\n"
        "Enemy 2 is a stalker at distance 10.00, 0.02 west and 10.00 north of you, health 1.00, shield 0.50, "
        "cooldown 0.00, in attack range.\n"
        "Enemy 3 is dead or out of sight.\n"
        "Available actions: stop, move east, attack enemy 2.\n"
        "The best action is:"
    )


def test_the_paper_style_word_for_word_without_other_units():
    assert describe(PaperStyle(), ALONE).text == (
        "Current state:\n"
        "You are ally 0, a zealot, health 1.00, shield 0.25.\n"
        "You see no ally.\n"
        "You see no enemy.\n"
        "Available actions: stop.\n"
        "The best action is:"
    )


def test_the_compact_style_word_for_word():
    assert describe(CompactStyle(), SCENE).text == (
        "You: marauder hp 0.50 range 6 wait 0.12\n"
        "ally 0: marine hp 0.76 2.7 east 3.6 south\n"
        "enemy 2: stalker hp 1.00 shield 0.50 10.0 north in range\n"
        "enemy 3: unseen\n"
        "Actions: stop east attack 2\n"
        "Best:"
    )


def test_the_compact_style_word_for_word_without_other_units():
    assert describe(CompactStyle(), ALONE).text == "You: zealot hp 1.00 shield 0.25\nActions: stop\nBest:"


def test_the_compact_style_places_a_unit_on_the_same_spot():
    here = replace(ALLY, distance=0.0, east=0.0, north=0.0)
    assert describe(CompactStyle(), replace(SCENE, allies=(here,))).allies == "ally 0: marine hp 0.76 here\n"


def test_the_words_of_a_healer():
    medic = Self(1, "medivac", 1.0, None, 0.0, None, None, attack_range=4.0)
    scene = Scene(medic, (replace(ALLY, in_range=True),), (), ("stop", "heal ally 0"))
    paper = describe(PaperStyle(), scene)
    assert paper.me == "Current state:\nYou are ally 1, a medivac, health 1.00, cooldown 0.00, healing range 4.\n"
    assert paper.allies.endswith(", health 0.76, cooldown 0.25, in healing range.\n")
    assert describe(CompactStyle(), scene).allies == "ally 0: marine hp 0.76 2.7 east 3.6 south in range\n"


def test_the_goal_is_right_for_a_healer(style):
    assert re.search(r"\bheal\b", style.goal)


@pytest.fixture(params=sorted(registry.PROMPT_STYLES))
def style(request):
    return build_style(request.param)


def test_no_tokenizer_can_merge_text_across_parts(style):
    prefix = style.instruction + style.goal
    parts = describe(style, SCENE)
    assert style.instruction.endswith("\n")
    assert style.goal.endswith("\n")
    assert not re.search(r"^\s|\n\s", prefix + parts.text)
    assert all(part.endswith("\n") for part in parts[:-1])
    assert parts.cue.rstrip() == parts.cue != ""


def test_every_unit_and_action_is_named_in_its_part(style):
    parts = describe(style, SCENE)
    assert "marauder" in parts.me
    assert list(lines_of(parts.allies, "ally")) == [0]
    assert list(lines_of(parts.enemies, "enemy")) == [2, 3]
    assert "marine" in parts.allies
    assert "stalker" in parts.enemies
    if parts.actions.startswith("Blocked:"):  # the style says what is not available
        assert parts.actions == "Blocked: north south west\n"
        assert lines_of(parts.enemies, "enemy")[2].endswith(" in range")
        return
    assert re.search(r"\bstop\b.*\beast\b.*\battack.* 2\b", parts.actions)
    assert not re.search(r"north|south|west|no-op|none| 3", parts.actions)


def test_different_scenes_are_different_texts(style):
    changes = (
        {"me": replace(SCENE.me, health=0.4)},
        {"me": replace(SCENE.me, cooldown=0.3)},
        {"me": replace(SCENE.me, attack_range=5.0)},
        {"allies": ()},
        {"allies": (replace(ALLY, number=2),)},
        {"allies": (replace(ALLY, kind="zealot"),)},
        {"enemies": (replace(STALKER, east=-3.0), GONE)},
        {"enemies": (replace(STALKER, north=-9.999), GONE)},
        {"enemies": (replace(STALKER, health=0.9), GONE)},
        {"enemies": (replace(STALKER, shield=0.4), GONE)},
        {"enemies": (replace(STALKER, in_range=False), GONE)},
        {"enemies": (STALKER, replace(GONE, in_range=True))},
        {"actions": ("stop", "move west", "attack enemy 2")},
    )
    texts = {describe(style, scene).text for scene in (SCENE, *(replace(SCENE, **change) for change in changes))}
    assert len(texts) == 1 + len(changes)


@pytest.mark.parametrize("dynamic", [True, False])
def test_units_are_the_living_visible_ones_or_always_all(style, dynamic, layouts, random_views):
    layout = layouts.observation
    obs, mask = random_views(layout, 40, seed=5)
    agents = torch.arange(40) % layout.n_agents
    parts = [describe(style, scene) for scene in scenes(layout, obs, mask, agents, dynamic)]
    enemies = [len(lines_of(part.enemies, "enemy")) for part in parts]
    allies = [len(lines_of(part.allies, "ally")) for part in parts]
    if dynamic:
        observed = layout.decode(obs)
        assert enemies == observed.enemies.present.sum(1).tolist()
        assert allies == observed.allies.present.sum(1).tolist()
        assert len(set(enemies)) > 1
    else:
        assert len({(part.allies + part.enemies).count("\n") for part in parts}) == 1
        assert set(enemies) == {layout.n_enemies}
        assert set(allies) == {layout.n_agents - 1}


def test_numbers_of_the_paper_style_have_two_decimals(layouts, random_views):
    layout = layouts.observation
    obs, mask = random_views(layout, 20, seed=6)
    for scene in scenes(layout, obs, mask, torch.zeros(20, dtype=torch.long)):
        numbers = re.findall(r"\d+\.\d+", describe(PaperStyle(), scene).text)
        assert numbers
        assert all(re.fullmatch(r"\d+\.\d\d", number) for number in numbers)


def test_a_unit_that_is_not_seen_has_no_numbers(style):
    line = lines_of(describe(style, SCENE).enemies, "enemy")[3]
    assert re.findall(r"\d+", line) == ["3"]


def test_an_unknown_style_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"prompt.style=haiku is not a prompt style.*paper.*compact"):
        build_style("haiku")
