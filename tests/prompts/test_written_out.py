"""The styles paper and compact against the same sentences as f-strings, unit by unit."""

from dataclasses import replace

import pytest
import torch

from lolm_plugin.prompts.style import build_style
from tests.prompts.fstrings import WORDS
from tests.prompts.plain_scene import Scene, SeenUnit, Self, describe, scenes

HARD = (0.0, 0.125, 0.005, 0.995, 1.005, 0.049, 0.05, 0.25, 9.995, 9.996, 1e-9)
STYLES = pytest.mark.parametrize("style", WORDS)


@STYLES
@pytest.mark.parametrize("dynamic", [True, False])
def test_every_layouts_scenes_have_these_words(style, dynamic, layouts, random_views):
    layout = layouts.observation
    obs, mask = random_views(layout, 150, seed=11)
    seen = scenes(layout, obs, mask, torch.arange(150) % layout.n_agents, dynamic)
    assert [tuple(describe(build_style(style), scene)) for scene in seen] == [WORDS[style](scene) for scene in seen]


@STYLES
@pytest.mark.parametrize("number", [*HARD, *(-number for number in HARD)])
def test_hard_numbers_have_these_words(style, number):
    unit = SeenUnit("ally", 1, "zealot", True, abs(number), number, -number, number, number, number)
    me = Self(0, "medivac", number, number, number, number, number, attack_range=4.0)
    near = replace(unit, number=2, east=1.0, in_range=True)
    units = (unit, near, replace(unit, number=3, shield=None))
    scene = Scene(me, units, tuple(replace(unit, side="enemy") for unit in units), ("stop", "attack enemy 10"))
    assert tuple(describe(build_style(style), scene)) == WORDS[style](scene)


@STYLES
def test_units_that_are_hidden_or_gone_have_these_words(style):
    hidden = SeenUnit("enemy", 1, "unknown unit", False, 0.0, 0.0, 0.0, 0.0, None, None, in_range=True)
    gone = replace(hidden, number=2, in_range=False)
    near = replace(hidden, number=3, seen=True, distance=1.0, health=None)
    seen = replace(near, number=4, in_range=False, kind="colossus", health=0.5)
    for enemies in ((hidden,), (gone,), (near,), (hidden, gone, near, seen), ()):
        scene = Scene(Self(0, "marine", None, 0.5, None, None, None), (), enemies, ())
        assert tuple(describe(build_style(style), scene)) == WORDS[style](scene)
