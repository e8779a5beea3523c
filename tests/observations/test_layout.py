"""Blocks, sizes, and the properties of every registered layout."""

import re

import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.checks import check_sizes
from lolm_plugin.observations.layout import Block, contiguous
from lolm_plugin.observations.units import NAMES, UNIVERSE, UNKNOWN, index


def scheme(obs, state):
    return {"obs": {"vshape": obs}, "state": {"vshape": state}}


def test_a_block_reads_its_own_rows_fields_and_type_bits():
    block = Block(start=1, rows=2, fields=("health", "x"), kinds=(7, 4))
    units = block.decode(torch.tensor([9.0, 0.5, -0.25, 0, 1, 0.75, 0.0, 1, 0, 9.0]))
    assert units.fields["health"].tolist() == [0.5, 0.75]
    assert units.fields["x"].tolist() == [-0.25, 0.0]
    assert units.kind.tolist() == [4, 7]
    assert units.present.tolist() == [True, True]


def test_a_row_of_zeros_is_absent_and_of_unknown_kind():
    with_bits = Block(0, 2, ("health",), kinds=(3,)).decode(torch.tensor([0.0, 0, 0.5, 1]))
    without = Block(0, 2, ("health",), only_kind=3).decode(torch.tensor([0.0, 0.5]))
    for units in (with_bits, without):
        assert units.present.tolist() == [False, True]
        assert units.kind.tolist() == [UNKNOWN, 3]


def test_a_present_row_without_any_type_bit_is_of_unknown_kind():
    assert Block(0, 1, ("health",), kinds=(3, 4)).decode(torch.tensor([0.5, 0, 0])).kind.tolist() == [UNKNOWN]


def test_contiguous_blocks_touch():
    first, second = contiguous(4, (3, ("a", "b"), (1,), UNKNOWN), (2, ("a",), (), 5))
    assert (first.start, first.end, second.start, second.end) == (4, 13, 13, 15)
    assert (second.fields, second.only_kind) == (("a",), 5)


def test_every_layout_accounts_for_each_number_once(layouts):
    layout, state = layouts.observation, layouts.state
    assert layout.n_actions == 6 + layout.n_targets
    assert layout.n_targets >= layout.n_enemies
    assert layout.enemies.rows == layout.n_enemies
    assert layout.allies.rows == layout.n_agents - 1
    blocks = sorted((layout.enemies, layout.allies, layout.own), key=lambda block: block.start)
    assert [block.start for block in blocks[1:]] == [block.end for block in blocks[:-1]]
    assert blocks[0].start in (4, 12)
    assert blocks[-1].end <= layout.size
    assert (state.allies.rows, state.enemies.rows) == (layout.n_agents, layout.n_enemies)
    assert max(state.allies.end, state.enemies.end) <= state.size


def test_zeros_decode_to_absent_units_in_every_layout(layouts):
    observed = layouts.observation.decode(torch.zeros(2, 3, layouts.observation.size))
    for units in (observed.own, observed.allies, observed.enemies):
        assert units.present.shape[:2] == (2, 3)
        assert not units.present.any()
        assert (units.kind == UNKNOWN).all()
    assert observed.sight.shape == (2, 3)
    assert not any(units.present.any() for units in layouts.state.decode(torch.zeros(2, layouts.state.size)))


def test_every_layout_decodes_the_written_fields(layouts, random_views):
    obs, mask = random_views(layouts.observation, 50, seed=1)
    observed = layouts.observation.decode(obs)
    fields = observed.enemies.fields
    assert torch.allclose(fields["dist"], torch.hypot(fields["dx"], fields["dy"]), atol=1e-5)
    offered = mask[:, 6 : 6 + layouts.observation.n_enemies] * ~observed.heals[:, None]
    assert torch.equal(fields["can_target"], offered.float())
    assert (observed.enemies.present == (fields["health"] > 0)).all()
    assert (observed.enemies.kind[observed.enemies.present] < UNKNOWN).all()
    assert observed.own.present.all()
    assert (observed.sight >= 6).all()


def test_every_layout_accepts_its_own_sizes(layouts):
    check_sizes(layouts, scheme(layouts.observation.size, layouts.state.size), layouts.observation.n_actions)


@pytest.mark.parametrize("wrong", ["observation", "state", "number of actions"])
def test_a_wrong_size_is_refused_with_both_sizes(wrong):
    layouts = build_layouts("probe", {"map_name": "target"}, 1, 9)
    sizes = {"observation": 20, "state": 12, "number of actions": 9}
    sizes[wrong] += 1
    expected = (
        f"The {wrong} of env=probe map_name=target has size {sizes[wrong]} but its layout says {sizes[wrong] - 1}"
    )
    with pytest.raises(ConfigError, match=re.escape(expected)):
        check_sizes(layouts, scheme(sizes["observation"], sizes["state"]), sizes["number of actions"])


def test_an_unknown_environment_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"env=chess has no observation layout.*probe.*smax"):
        build_layouts("chess", {"map_name": "e4"}, 1, 7)


def test_an_unknown_unit_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'dragoon' is unknown.*marine.*spine crawler"):
        index("dragoon")


def test_a_units_index_is_its_position_in_the_universe():
    assert [UNIVERSE[index(name)].name for name in NAMES] == list(NAMES)
    assert index("hydralisk") == 8
