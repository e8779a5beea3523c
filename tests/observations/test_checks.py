"""Every rule of battles accepts valid data and detects its own kind of mistake."""

from dataclasses import replace

import pytest
import torch

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.battle import RULES
from lolm_plugin.observations.checks import FirstEpisodes, check_observations, check_teams
from lolm_plugin.observations.units import index


def sc2(map_name="3s5z_vs_3s6z", n_agents=8, n_actions=15, **options):
    return build_layouts("sc2", {"map_name": map_name, "state_last_action": False}, n_agents, n_actions, options)


@pytest.fixture
def view(random_views):
    """Return layouts of 3s5z_vs_3s6z with valid observations [40, obs_size] and masks."""
    layouts = sc2()
    return layouts, *random_views(layouts.observation, 40, seed=2)


def seen_enemy(layouts, obs):
    """Return a row and the index of the first number of a visible enemy in it."""
    present = layouts.observation.enemies.decode(obs).present
    row, enemy = present.nonzero()[0].tolist()
    block = layouts.observation.enemies
    return row, block.start + enemy * block.width


def test_valid_data_of_every_layout_pass(layouts, random_views):
    obs, mask = random_views(layouts.observation, 60, seed=3)
    dead = torch.zeros_like(mask[:1])
    dead[0, 0] = 1
    check_observations(layouts.observation, torch.cat([obs, torch.zeros_like(obs[:1])]), torch.cat([mask, dead]))
    check_observations(layouts.observation, torch.zeros_like(obs[:2]), torch.zeros_like(mask[:2]))  # padding


def break_moves(layouts, obs, mask):
    obs[0, 1] = 1 - obs[0, 1]


def break_distances(layouts, obs, mask):
    row, at = seen_enemy(layouts, obs)
    obs[row, at + 1] += 0.01


def break_offsets(layouts, obs, mask):
    row, at = seen_enemy(layouts, obs)
    obs[row, at : at + 4] = torch.tensor([0, 1.5, -1.5, 0])


def break_shares(layouts, obs, mask):
    row, at = seen_enemy(layouts, obs)
    obs[row, at + 4] = 45


def break_own_health(layouts, obs, mask):
    obs[0, layouts.observation.own.start] = 0


def break_type_bits(layouts, obs, mask):
    row, at = seen_enemy(layouts, obs)
    obs[row, at + 6 : at + 8] = 1


def break_target_flag(layouts, obs, mask):
    row, at = seen_enemy(layouts, obs)
    number = 6 + (at - layouts.observation.enemies.start) // layouts.observation.enemies.width
    mask[row, number] = 1 - mask[row, number]


def break_targets_seen(layouts, obs, mask):
    row, at = seen_enemy(layouts, obs)
    width = layouts.observation.enemies.width
    obs[row, at : at + width] = 0
    mask[row, 6 + (at - layouts.observation.enemies.start) // width] = 1


def break_target_range(layouts, obs, mask):
    row, at = seen_enemy(layouts, obs)
    obs[row, at : at + 4] = torch.tensor([1, 0.8, 0.8, 0])
    mask[row, 6 + (at - layouts.observation.enemies.start) // layouts.observation.enemies.width] = 1


BREAKS = {
    "moves": break_moves,
    "distances": break_distances,
    "offsets": break_offsets,
    "shares": break_shares,
    "own health": break_own_health,
    "one type bit": break_type_bits,
    "target flag": break_target_flag,
    "targets are seen": break_targets_seen,
    "target range": break_target_range,
}


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_is_named_with_the_map_and_a_cause(view, rule):
    layouts, obs, mask = view
    BREAKS[rule](layouts, obs, mask)
    with pytest.raises(ConfigError) as error:
        check_observations(layouts.observation, obs, mask)
    message, (text, cause) = str(error.value), RULES[rule]
    assert f"The vectors of env=sc2 map_name=3s5z_vs_3s6z do not fit their layout ({rule}: {text})" in message
    assert f"most likely {cause}." in message
    assert "layout.probes=False" in message


def test_a_layout_can_exclude_a_rule(view):
    layouts, obs, mask = view
    break_own_health(layouts, obs, mask)
    excepted = replace(layouts.observation, exceptions=frozenset({"own health"}))
    check_observations(excepted, obs, mask)


def test_a_dead_agent_with_an_observation_is_refused(view):
    layouts, obs, mask = view
    mask[3] = 0
    mask[3, 0] = 1
    with pytest.raises(ConfigError, match="dead agents: their observations are 0"):
        check_observations(layouts.observation, obs, mask)


def test_maps_of_equal_size_are_distinguished():
    """8m and 2s3z both have observations of 80 numbers. One of 2s3z is not valid on 8m."""
    obs = torch.zeros(1, 80)
    obs[0, :4] = 1
    obs[0, 4:12] = torch.tensor([1, 0.3333, 0.3333, 0, 0.5, 0.5, 1, 0])
    obs[0, 76:80] = torch.tensor([1, 1, 1, 0])
    mask = torch.zeros(1, 14)
    mask[0, [1, 2, 3, 4, 5, 6]] = 1
    with pytest.raises(ConfigError, match=r"map_name=8m .* most likely"):
        check_observations(sc2("8m", 8, 14).observation, obs, mask)


def first_state(layouts, allies, enemies):
    state = torch.zeros(1, layouts.state.size)
    for block, team in ((layouts.state.allies, allies), (layouts.state.enemies, enemies)):
        rows = state[0, block.start : block.end].view(block.rows, block.width)
        rows[:, 0] = 1
        for row, name in zip(rows, team, strict=True):
            row[len(block.fields) + block.kinds.index(index(name))] = 1
    return state


ALLIES = ["stalker"] * 3 + ["zealot"] * 5


def test_the_right_teams_in_any_order_pass():
    layouts = sc2()
    enemies = ["zealot"] * 4 + ["stalker"] * 3 + ["zealot"] * 2
    check_teams(layouts, first_state(layouts, ALLIES, enemies))


def test_reversed_enemy_types_are_refused_with_the_key_to_set():
    layouts = sc2()
    state = first_state(layouts, ALLIES, ["stalker"] * 6 + ["zealot"] * 3)
    with pytest.raises(ConfigError) as error:
        check_teams(layouts, state)
    assert "enemy team: the map has 3 stalker 6 zealot, the first state shows 6 stalker 3 zealot" in str(error.value)
    assert "layout.aligned_enemy_types=True" in str(error.value)
    check_teams(sc2(aligned_enemy_types=True), state)  # the same bits, read as that fork writes them


def test_another_team_is_refused():
    layouts = sc2()
    with pytest.raises(ConfigError, match="ally team: the map has 3 stalker 5 zealot") as error:
        check_teams(layouts, first_state(layouts, ["stalker"] * 4 + ["zealot"] * 4, ["zealot"] * 6 + ["stalker"] * 3))
    assert "aligned" not in str(error.value)


def test_the_team_of_a_state_with_a_missing_unit_is_not_checked():
    layouts = sc2()
    state = first_state(layouts, ALLIES, ["stalker"] * 6 + ["zealot"] * 3)
    state[0, layouts.state.enemies.start : layouts.state.enemies.start + layouts.state.enemies.width] = 0
    check_teams(layouts, state)


def test_only_the_first_battles_are_checked(view):
    layouts, obs, mask = view
    batch = {
        "obs": obs[:8].view(1, 1, 8, -1).repeat(1, 2, 1, 1),
        "avail_actions": mask[:8].view(1, 1, 8, -1).repeat(1, 2, 1, 1),
        "state": first_state(layouts, ALLIES, ["stalker"] * 3 + ["zealot"] * 6).view(1, 1, -1).repeat(1, 2, 1),
    }
    wrong = {**batch, "obs": batch["obs"].clone()}
    wrong["obs"][0, :, 0, layouts.observation.own.start] = 0

    with pytest.raises(ConfigError):
        FirstEpisodes(layouts, wanted=True).check(wrong, 0, [0])
    FirstEpisodes(layouts, wanted=False).check(wrong, 0, [0])
    first = FirstEpisodes(layouts, wanted=True)
    first.check(batch, 0, [0])
    with pytest.raises(ConfigError):
        first.check(wrong, 1, [0])
    first.check(wrong, 0, [0])  # a second battle begins
    first.check(wrong, 1, [0])


def test_the_hint_is_the_other_value_of_the_option_if_there_is_one():
    aligned = sc2(aligned_enemy_types=True)
    stock = first_state(sc2(), ALLIES, ["stalker"] * 3 + ["zealot"] * 6)
    with pytest.raises(ConfigError, match=r"set layout.aligned_enemy_types=False\)"):
        check_teams(aligned, stock)
    smaclite = build_layouts("smaclite", {"map_name": "3s5z_vs_3s6z"}, 8, 15)
    with pytest.raises(ConfigError, match="enemy team") as error:
        check_teams(smaclite, first_state(smaclite, ALLIES, ["stalker"] * 6 + ["zealot"] * 3))
    assert "fork" not in str(error.value)
