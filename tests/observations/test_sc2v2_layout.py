"""SMACv2's layouts: sizes and offsets of EPyMARL's scenarios, sight by type, enemies in range that are not shown."""

import pytest
import torch
import yaml

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.checks import check_observations
from lolm_plugin.observations.sc2v2 import sizes
from lolm_plugin.observations.units import NAMES
from lolm_plugin.paths import use_host_config_dir
from lolm_plugin.prompts.compact import CompactStyle
from lolm_plugin.prompts.paper import PaperStyle
from lolm_plugin.prompts.terse import TerseStyle
from tests.prompts.plain_scene import describe, scenes

# race, agents, enemies: obs size and state size with EPyMARL's scenario flags, from the environments themselves.
SIZES = {
    ("protoss", 5, 5): (92, 130),
    ("protoss", 10, 10): (182, 310),
    ("protoss", 10, 11): (191, 327),
    ("protoss", 20, 20): (362, 820),
    ("protoss", 20, 23): (389, 901),
    ("terran", 5, 5): (82, 120),
    ("terran", 10, 10): (162, 290),
    ("terran", 10, 11): (170, 306),
    ("zerg", 20, 20): (322, 780),
    ("zerg", 20, 23): (346, 858),
}


@pytest.fixture
def scenario(scenarios, tmp_path):
    """Return a function that builds the layouts of an EPyMARL scenario with changed arguments."""

    def build(race, n_agents=5, n_enemies=5, capabilities=None, **changes):
        source = yaml.safe_load((scenarios / f"envs/smacv2_configs/{race}_5_vs_5.yaml").read_text())
        arguments = {**source["env_args"], **changes}
        arguments["capability_config"] |= {"n_units": n_agents, "n_enemies": n_enemies, **(capabilities or {})}
        folder = tmp_path / "envs/smacv2_configs"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mine.yaml").write_text(yaml.safe_dump({"env_args": arguments}))
        use_host_config_dir(tmp_path)
        env_args = {"map_name": "mine", "time_limit": 150}
        return build_layouts("sc2v2", env_args, *sizes(env_args))

    return build


@pytest.mark.parametrize("teams", SIZES)
def test_sizes_are_smacv2s(scenario, teams):
    layouts = scenario(*teams)
    assert (layouts.observation.size, layouts.state.size) == SIZES[teams]
    assert layouts.observation.n_actions == 6 + teams[2]


@pytest.mark.parametrize(("race", "offsets"), [("protoss", (4, 49, 85, 92)), ("terran", (4, 44, 76, 82))])
def test_blocks_begin_where_smacv2_puts_them(scenario, race, offsets):
    layout = scenario(race).observation
    assert (layout.enemies.start, layout.allies.start, layout.own.start, layout.own.end) == offsets


def test_medivacs_have_an_action_per_ally_if_there_are_more_allies_than_enemies(scenario):
    assert scenario("terran", 10, 7).observation.n_actions == 16
    assert scenario("protoss", 10, 7).observation.n_actions == 13


def test_distances_are_measured_in_the_observers_own_sight(scenario):
    """A medivac sees 11 cells and a marine 9, so the same number is another distance."""
    layout = scenario("terran").observation
    obs = torch.zeros(2, 82)
    obs[:, 44:52] = torch.tensor([1, 0.5, 0.5, 0, 1, 1, 0, 0])
    obs[0, 76:82] = torch.tensor([1, 0.5, 0.25, 1, 0, 0])
    obs[1, 76:82] = torch.tensor([1, 0.5, 0.25, 0, 0, 1])
    observed = layout.decode(obs)
    assert observed.sight.tolist() == [9, 11]
    assert [NAMES[k] for k in observed.own.kind[:, 0]] == ["marine", "medivac"]
    assert observed.heals.tolist() == [False, True]
    mask = torch.tensor([[0, 1] + [0] * 9] * 2)
    marine, medivac = scenes(layout, obs, mask, torch.tensor([0, 0]))
    assert (marine.allies[0].east, medivac.allies[0].east) == (4.5, 5.5)
    assert (marine.me.x, marine.me.y) == (0.5, 0.25)


def view_without_enemies():
    """Return the view of a zealot that is shown no enemy but can attack enemies 1 and 4."""
    obs = torch.zeros(1, 92)
    obs[0, :4] = 1
    obs[0, 85:92] = torch.tensor([1, 0.5, 0.5, 0.5, 0, 1, 0])
    return obs, torch.tensor([[0, 1, 1, 1, 1, 1, 0, 1, 0, 0, 1]])


@pytest.mark.parametrize("dynamic", [True, False])
def test_an_enemy_in_range_is_named_although_it_is_not_shown(scenario, dynamic):
    layout = scenario("protoss").observation
    (scene,) = scenes(layout, *view_without_enemies(), torch.tensor([0]), dynamic)
    paper, compact = describe(PaperStyle(), scene), describe(CompactStyle(), scene)
    assert "Enemy 1 is in range, details unknown.\n" in paper.enemies
    assert "Enemy 4 is in range, details unknown.\n" in paper.enemies
    assert "enemy 1: in range, unknown\n" in compact.enemies
    assert "1 unseen in range\n" in describe(TerseStyle(), scene).enemies
    assert "You see no enemy" not in paper.text
    assert len(scene.enemies) == (2 if dynamic else 5)
    assert scene.me.attack_range == 2  # a zealot's range is SMACv2's minimum
    assert "attack enemy 1, attack enemy 4." in paper.actions


def test_a_healers_targets_say_nothing_about_enemies(scenario):
    layout = scenario("terran").observation
    obs = torch.zeros(1, 82)
    obs[0, :4] = 1
    obs[0, 76:82] = torch.tensor([1, 0.5, 0.5, 0, 0, 1])
    (scene,) = scenes(layout, obs, torch.tensor([[0, 1, 1, 1, 1, 1, 0, 1, 0, 0, 1]]), torch.tensor([0]))
    assert scene.enemies == ()
    assert scene.actions[-2:] == ("heal ally 1", "heal ally 4")


def test_without_action_masks_a_target_need_not_be_in_range(scenario):
    layout = scenario("protoss", action_mask=False).observation
    obs, mask = view_without_enemies()
    assert scenes(layout, obs, mask, torch.tensor([0]))[0].enemies == ()
    (first, second), step = (layout.enemies.start + i * layout.enemies.width for i in (1, 4)), 4
    obs[0, first : first + step] = torch.tensor([0, 0.8, 0.8, 0])
    obs[0, second : second + step] = torch.tensor([1, 0.2, 0.2, 0])
    (scene,) = scenes(layout, obs, mask, torch.tensor([0]))
    assert [enemy.in_range for enemy in scene.enemies] == [False, True]
    assert describe(TerseStyle(), scene).actions == "Also: attack enemy 1\n"


def test_a_masked_enemy_has_a_position_but_no_condition(scenario):
    layout = scenario("protoss", capabilities={"enemy_mask": {}}).observation
    obs, mask = view_without_enemies()
    obs[0, 13:17] = torch.tensor([1, 0.2, 0.2, 0])
    (scene,) = scenes(layout, obs, mask, torch.tensor([0]))
    assert (scene.enemies[0].kind, scene.enemies[0].health, scene.enemies[0].shield) == ("unknown unit", None, None)
    assert describe(PaperStyle(), scene).enemies.splitlines()[0] == (
        "Enemy 1 is an unknown unit at distance 1.80, 1.80 east and 0.00 north of you, in attack range."
    )


def test_random_abilities_add_fields(scenario):
    plain = scenario("terran")
    able = scenario("terran", capabilities={"attack": {"observe": True}, "health": {"observe": False}})
    assert able.observation.size == plain.observation.size + 4 * 2 + 2
    assert able.state.size == plain.state.size + 5 * 2
    shielded = scenario("protoss", capabilities={"attack": {"observe": True}})
    assert shielded.state.allies.fields == ("health", "cooldown", "x", "y", "shield", "attack_level")
    assert shielded.observation.own.fields == ("health", "shield", "attack_level", "x", "y")


def test_the_timestep_follows_the_own_block(scenario):
    layout = scenario("zerg", obs_timestep_number=True).observation
    assert layout.size == layout.own.end + 1
    assert not layout.living(torch.tensor([0.0] * layout.own.end + [0.5]))


def test_health_above_a_level_can_be_negative(scenario):
    """SMACv2 shows (share - level) / (1 - level). It is below 0 just before the unit is killed."""
    layouts = scenario("terran", capabilities={"health": {"observe": True}})
    obs = torch.zeros(1, layouts.observation.size)
    start = layouts.observation.own.start
    obs[0, start : start + 4] = torch.tensor([-0.0133, 0.25, 0.5, 0.5])
    obs[0, start + 4] = 1
    check_observations(layouts.observation, obs, torch.tensor([[0, 1] + [0] * 9]))


def test_a_scenario_without_teams_is_refused(scenario, tmp_path):
    scenario("terran")
    path = tmp_path / "envs/smacv2_configs/mine.yaml"
    content = yaml.safe_load(path.read_text())
    del content["env_args"]["capability_config"]["n_units"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"mine.yaml has no env_args.capability_config.n_units"):
        sizes({"map_name": "mine"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"conic_fov": True}, "conic_fov=True"), ({"map_name": "3m"}, "is played on 3m")],
)
def test_an_unsupported_scenario_is_refused(scenario, changes, words):
    with pytest.raises(ConfigError, match=words):
        scenario("terran", **changes)
