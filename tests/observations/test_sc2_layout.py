"""SMAC's layouts against offsets, sizes and vectors computed by hand; needs neither the game nor ``smac``."""

import pytest
import torch

from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.layout import KINDS
from lolm_plugin.observations.sc2 import MAPS
from lolm_plugin.observations.units import NAMES, UNKNOWN
from lolm_plugin.prompts.compact import CompactStyle
from lolm_plugin.prompts.paper import PaperStyle
from lolm_plugin.prompts.scene import fullest
from tests.prompts.plain_scene import describe, scenes

# With EPyMARL's flags: obs size, state size, and state size with state_last_action, from the environments themselves.
SIZES = {
    "3m": (30, 21, 48),
    "8m": (80, 56, 168),
    "25m": (250, 175, 950),
    "5m_vs_6m": (55, 38, 98),
    "8m_vs_9m": (85, 59, 179),
    "10m_vs_11m": (105, 73, 243),
    "27m_vs_30m": (285, 198, 1170),
    "MMM": (160, 130, 290),
    "MMM2": (176, 142, 322),
    "2s3z": (80, 65, 120),
    "3s5z": (128, 104, 216),
    "3s5z_vs_3s6z": (136, 110, 230),
    "3s_vs_3z": (36, 27, 54),
    "3s_vs_4z": (42, 31, 61),
    "3s_vs_5z": (48, 35, 68),
    "1c3s5z": (162, 135, 270),
    "2m_vs_1z": (16, 12, 26),
    "corridor": (156, 102, 282),
    "6h_vs_8z": (78, 56, 140),
    "2s_vs_1sc": (17, 13, 27),
    "so_many_baneling": (202, 131, 397),
    "bane_vs_bane": (336, 264, 984),
    "2c_vs_64zg": (332, 202, 342),
}
# Start of enemies, allies and own, and end of own.
OFFSETS = {
    "3s_vs_4z": (4, 28, 40, 42),
    "8m_vs_9m": (4, 49, 84, 85),
    "2s3z": (4, 44, 76, 80),
    "MMM2": (4, 100, 172, 176),
    "6h_vs_8z": (4, 52, 77, 78),
    "corridor": (4, 124, 154, 156),
}


def build(map_name, **flags):
    battle = MAPS[map_name]
    env_args = {"map_name": map_name, "state_last_action": False, **flags}
    return build_layouts("sc2", env_args, battle.n_agents, 6 + battle.n_enemies)


@pytest.mark.parametrize("map_name", MAPS)
def test_sizes_are_smacs(map_name):
    layouts = build(map_name)
    with_actions = build(map_name, state_last_action=True)
    assert (layouts.observation.size, layouts.state.size, with_actions.state.size) == SIZES[map_name]


@pytest.mark.parametrize("map_name", OFFSETS)
def test_blocks_begin_where_smac_puts_them(map_name):
    layout = build(map_name).observation
    assert (layout.enemies.start, layout.allies.start, layout.own.start, layout.own.end) == OFFSETS[map_name]


def test_state_parts_of_2s3z():
    state = build("2s3z", state_last_action=True).state
    assert (state.allies.start, state.allies.end, state.enemies.end, state.size) == (0, 35, 65, 120)


@pytest.mark.parametrize(
    ("flags", "size"),
    [
        ({"obs_pathing_grid": True}, 80 + 8),
        ({"obs_terrain_height": True}, 80 + 9),
        ({"obs_last_action": True}, 80 + 4 * 11),
        ({"obs_all_health": False}, 80 - 5 * 2 - 4 * 2),
        ({"obs_all_health": False, "obs_own_health": False}, 80 - 5 * 2 - 4 * 2 - 2),
        ({"obs_timestep_number": True}, 80 + 1),
    ],
)
def test_flags_change_the_size_of_2s3z(flags, size):
    assert build("2s3z", **flags).observation.size == size


# A stalker at (10, 10) and five enemies, as SMAC encodes them on 2s3z.
ENEMIES_OF_2S3Z = [
    [1, 0.3333, 0.3333, 0, 0.5, 0.5, 1, 0],  # zealot at (14, 10), 50 of 100 health, 25 of 50 shield
    [1, 0.4714, 0.3333, 0.3333, 1, 1, 0, 1],  # stalker at (14, 13), unhurt
    [0] * 8,  # zealot out of sight
    [0] * 8,  # zealot dead
    [1, 0.3514, 0.3333, -0.1111, 0.5, 0.5, 0, 1],  # stalker at (14, 9)
]
MASK_OF_2S3Z = [0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1]


@pytest.fixture
def stalker_of_2s3z():
    obs = [1, 1, 1, 1, *[x for row in ENEMIES_OF_2S3Z for x in row], *[0] * 32, 1, 1, 1, 0]
    return torch.tensor([obs], dtype=torch.float32), torch.tensor([MASK_OF_2S3Z])


def test_enemy_stalkers_and_zealots_of_2s3z_are_distinguished(stalker_of_2s3z):
    observed = build("2s3z").observation.decode(stalker_of_2s3z[0])
    assert [NAMES[k] if k != UNKNOWN else None for k in observed.enemies.kind[0]] == [
        *("zealot", "stalker", None, None, "stalker")
    ]
    assert NAMES[observed.own.kind[0, 0]] == "stalker"
    assert observed.enemies.present[0].tolist() == [True, True, False, False, True]


def test_a_fork_with_aligned_types_reads_the_same_bits_the_other_way(stalker_of_2s3z):
    layouts = build_layouts("sc2", {"map_name": "2s3z"}, 5, 11, {"aligned_enemy_types": True})
    kinds = layouts.observation.decode(stalker_of_2s3z[0]).enemies.kind[0]
    assert [NAMES[k] for k in kinds[[0, 1, 4]]] == ["stalker", "zealot", "zealot"]


def test_the_prompt_of_2s3z_names_an_enemy_zealot_at_its_position(stalker_of_2s3z):
    layout = build("2s3z").observation
    (scene,) = scenes(layout, *stalker_of_2s3z, torch.tensor([0]))
    assert describe(PaperStyle(), scene).enemies.splitlines()[0] == (
        "Enemy 0 is a zealot at distance 3.00, 3.00 east and 0.00 north of you, health 0.50, shield 0.50, "
        "in attack range."
    )


def test_visible_is_not_the_same_as_within_range():
    """On 3m, enemies are 6, 9 and 6.01 cells east. The second is out of sight, the third only out of range."""
    obs = [1] * 4 + [1, 0.6667, 0.6667, 0, 1] + [0] * 5 + [0, 0.6678, 0.6678, 0, 1] + [0] * 10 + [1]
    enemies = build("3m").observation.decode(torch.tensor(obs, dtype=torch.float32)).enemies
    assert enemies.present.tolist() == [True, False, True]
    assert enemies.fields["can_target"].tolist() == [1, 0, 0]


def medivac_of_mmm2():
    """Return a view of agent 9 of MMM2. It can heal allies 0 and 3; enemy 0 is near, enemy 1 is in sight."""
    obs = torch.zeros(1, 176)
    mask = torch.zeros(1, 18, dtype=torch.int32)
    obs[0, :4] = 1
    mask[0, [1, 2, 3, 4, 5, 6, 9]] = 1
    obs[0, 4:12] = torch.tensor([1, 0.5, 0.5, 0, 1, 0, 1, 0])  # number 0: ally 0 can be healed
    obs[0, 12:20] = torch.tensor([0, 0.8, 0.0, 0.8, 0.5, 1, 0, 0])
    obs[0, 100:108] = torch.tensor([1, 0.4, -0.4, 0, 0.2, 1, 0, 0])
    obs[0, 124:132] = torch.tensor([1, 0.1, 0, -0.1, 0.9, 0, 1, 0])
    obs[0, 172:176] = torch.tensor([1, 0, 0, 1])
    return obs, mask


def test_a_medivac_heals_allies_and_its_enemy_flag_is_ignored():
    layout = build("MMM2").observation
    obs, mask = medivac_of_mmm2()
    observed = layout.decode(obs)
    assert observed.heals.tolist() == [True]
    assert not observed.enemies.fields["can_target"].any()
    assert observed.enemies.present[0, :3].tolist() == [True, True, False]
    (scene,) = scenes(layout, obs, mask, torch.tensor([9]))
    assert scene.actions[-2:] == ("heal ally 0", "heal ally 3")
    assert (scene.me.kind, scene.me.number) == ("medivac", 9)
    assert [ally.kind for ally in scene.allies] == ["marauder", "marine"]
    assert describe(PaperStyle(), scene).actions.endswith("move west, heal ally 0, heal ally 3.\n")
    assert describe(CompactStyle(), scene).actions.endswith("west heal 0 heal 3\n")


def test_the_longest_prompts_of_mmm2_are_a_healers_and_an_attackers():
    scene = fullest(build("MMM2").observation, dynamic=True)
    longest = {
        KINDS[kind]: scene.actions.names[meaning][-1]
        for kind, meaning in zip(scene.me.kind, scene.actions.meaning, strict=True)
    }
    assert scene.actions.available[:, 1:].all()
    assert longest == {"marine": "attack enemy 11", "marauder": "attack enemy 11", "medivac": "heal ally 11"}


def test_the_same_actions_of_a_marine_are_attacks():
    obs, mask = medivac_of_mmm2()
    obs[0, 172:176] = torch.tensor([1.0, 0, 1, 0])
    (scene,) = scenes(build("MMM2").observation, obs, mask, torch.tensor([5]))
    assert scene.actions[-2:] == ("attack enemy 0", "attack enemy 3")


def test_the_state_keeps_a_medivacs_energy_apart_from_cooldowns():
    state = torch.zeros(142)
    state[0:7] = torch.tensor([1, 0.4, 0.1, -0.1, 1, 0, 0])
    state[63:70] = torch.tensor([0.5, 0.25, 0.1, -0.1, 0, 0, 1])
    allies, enemies = build("MMM2").state.decode(state)
    assert [NAMES[k] for k in allies.kind[[0, 9]]] == ["marauder", "medivac"]
    assert allies.fields["cooldown"][[0, 9]].tolist() == pytest.approx([0.4, 0])
    assert allies.fields["energy"][[0, 9]].tolist() == pytest.approx([0, 0.25])
    assert not enemies.present.any()
