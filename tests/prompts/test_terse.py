"""Terse prompts contain the rounded facts and the exact mask, in less than half of compact's tokens."""

from dataclasses import replace

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

from lolm_plugin.observations import build_layouts
from lolm_plugin.prompts.compact import CompactStyle
from lolm_plugin.prompts.style import BattleWriter
from lolm_plugin.prompts.terse import TerseStyle
from tests.prompts.plain_scene import Scene, SeenUnit, Self, describe, scenes
from tests.prompts.terse_reader import read

DYNAMIC = pytest.mark.parametrize("dynamic", [True, False])
ME = Self(1, "marauder", 0.5, None, 0.125, 0.25, 0.755, attack_range=6.0)
ALLY = SeenUnit("ally", 0, "marine", True, 4.5, 2.7, -3.6, 0.756, None, 0.25)
STALKER = SeenUnit("enemy", 2, "stalker", True, 10.0, -0.02, 9.999, 1.0, 0.5, 0.0, in_range=True)
ALL = ("stop", "move north", "move south", "move east", "move west")
SMOLLM2 = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])


def tenths(share):
    return None if share is None else max(round(10 * share), share > 0)


def facts(scene):
    """Return the expected result of ``read``."""
    me = scene.me
    own = (me.kind, tenths(me.health), tenths(me.shield), me.attack_range, tenths(me.cooldown) or 0)
    units = {
        (unit.side, unit.number): (
            (unit.kind, tenths(unit.health), tenths(unit.shield), round(unit.north), round(unit.east))
            if unit.seen
            else "unseen"
        )
        for unit in (*scene.allies, *scene.enemies)
    }
    return own, units, set(scene.actions)


def check(layout, obs, mask, agents, dynamic):
    shields = tuple("shield" in block.fields for block in (layout.allies, layout.enemies))
    texts = BattleWriter(layout, TerseStyle(), dynamic).describe(obs, mask, agents)
    seen = scenes(layout, obs, mask, agents, dynamic)
    for scene, parts in zip(seen, texts, strict=True):
        assert read("".join(parts.values()), shields) == facts(scene), "".join(parts.values())
        assert describe(TerseStyle(), scene).text == "".join(parts.values())
    return seen


@DYNAMIC
@pytest.mark.parametrize("unseen", [0.3, 0.9, 1.0])
def test_every_fact_and_the_mask_can_be_recovered(layouts, random_views, dynamic, unseen):
    layout = layouts.observation
    obs, mask = random_views(layout, 150, 21, unseen)
    check(layout, obs, mask, torch.arange(150) % layout.n_agents, dynamic)


@pytest.mark.parametrize("env", ["sc2", "smaclite"])
def test_healers_and_shields_can_be_recovered(env, random_views):
    found = []
    for map_name, agents, actions in (("MMM2", 10, 18), ("3s5z_vs_3s6z", 8, 15)):
        layout = build_layouts(env, {"map_name": map_name}, agents, actions).observation
        obs, mask = random_views(layout, 200, seed=22)
        found += check(layout, obs, mask, torch.arange(200) % agents, True)
    assert sum(any(unit.in_range for unit in scene.allies) for scene in found) > 10
    assert sum(any(unit.in_range for unit in scene.enemies) for scene in found) > 10
    assert sum(unit.shield is not None for scene in found for unit in scene.enemies) > 10


@DYNAMIC
def test_any_mask_can_be_recovered(layouts, dynamic):
    layout = layouts.observation
    seen = [set(scene.actions) for scene in check(layout, *layout.sample(300), dynamic)]
    assert any("no-op" in actions for actions in seen)
    assert any("stop" not in actions for actions in seen)


def test_units_that_are_full_or_of_one_kind_have_the_fewest_words():
    twin = replace(ALLY, number=2, health=1.0, east=0.4, north=-0.5)
    scene = Scene(ME, (ALLY, twin), (replace(STALKER, shield=1.0),), (*ALL, "attack enemy 2"))
    assert describe(TerseStyle(), scene).text == (
        "You marauder hp5 range6 wait1\n"
        "Ally marine:\n0 hp8 four south three east\n2 here\n"
        "Enemy stalker:\n2 ten north in range\n"
        "Best:"
    )


def test_differences_are_printed_line_by_line():
    gone = replace(STALKER, number=3, seen=False, in_range=False)
    enemies = (STALKER, gone, replace(gone, number=4, in_range=True), replace(STALKER, kind="zealot", number=11))
    text = describe(
        TerseStyle(), Scene(ME, (), enemies, ("stop", "move east", "attack enemy 2", "attack enemy 7"))
    ).text
    assert text == (
        "You marauder hp5 range6 wait1\n"
        "Enemies:\n2 stalker shield5 ten north in range\n3 unseen\n4 unseen in range\n"
        "11 zealot shield5 ten north in range\n"
        "Blocked: north south west\n"
        "Also: attack enemy 7\n"
        "Best:"
    )


@pytest.mark.parametrize(
    ("health", "word"), [(1e-4, "hp1"), (0.049, "hp1"), (0.15, "hp2"), (0.94, "hp9"), (0.96, ""), (None, "hp unknown")]
)
def test_a_living_unit_never_reads_as_dead(health, word):
    text = describe(TerseStyle(), Scene(replace(ME, health=health, cooldown=0.0), (), (), ALL)).me
    assert text.split() == ["You", "marauder", *word.split(), "range6"]


def test_smollm2_reads_less_than_half_of_compacts_tokens(random_views):
    def tokens(style):
        texts = BattleWriter(layout, style, True).describe(obs, mask, torch.arange(100) % layout.n_agents)
        return sum(len(SMOLLM2.pre_tokenize_str("".join(parts.values()))) for parts in texts)

    for env, map_name, agents, actions in (("smax", "3m", 3, 9), ("sc2", "MMM2", 10, 18), ("smax", "25m", 25, 31)):
        layout = build_layouts(env, {"map_name": map_name}, agents, actions).observation
        obs, mask = random_views(layout, 100, 23, 0.5)
        assert tokens(TerseStyle()) < 0.5 * tokens(CompactStyle())
