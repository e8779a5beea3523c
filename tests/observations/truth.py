"""True battles, and checks that decoded vectors agree with them. Shared by the encoders' tests."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from lolm_plugin.observations import checks
from lolm_plugin.observations.checks import check_teams
from lolm_plugin.observations.units import NAMES, UNIVERSE, UNKNOWN, index
from tests.prompts.plain_scene import scenes

# The game's own type ids of units. Agents' units have other ids, which depend on the map.
STANDARD_IDS = {
    "marine": 48,
    "marauder": 51,
    "medivac": 54,
    "stalker": 74,
    "zealot": 73,
    "colossus": 4,
    "baneling": 9,
    "zergling": 105,
    "hydralisk": 107,
    "spine crawler": 98,
}
# Divisors of weapon cooldowns, and of a healer's energy.
COOLDOWNS = {"marine": 15, "marauder": 25, "stalker": 35, "zealot": 22, "colossus": 24, "hydralisk": 10}
COOLDOWNS |= {"zergling": 11, "baneling": 1, "medivac": 200}

EXACT = 2e-5  # float32 shares and distances, times a sight range of at most 11


@dataclass
class TrueUnit:
    """A unit of the game. Health and shield are shares of the maximum, positions are in map cells."""

    name: str
    x: float
    y: float
    health: float  # 0: dead
    shield: float = 0.0
    cooldown: float = 0.0  # a healer's energy, as a share

    @property
    def heals(self):
        return UNIVERSE[index(self.name)].heals


@dataclass
class Truth:
    """Both teams, and the sight range and target range of each observer type."""

    allies: list
    enemies: list
    sight: dict
    reach: dict
    map_size: float = 32.0

    def seen(self, agent, other):
        return other.health > 0 and self.distance(agent, other) < self.sight[agent.name]

    def targets(self, agent):
        """Return the numbers of the units that an agent can target."""
        team = self.allies if agent.heals else self.enemies
        return [
            i
            for i, unit in enumerate(team)
            if unit.health > 0
            and self.distance(agent, unit) <= self.reach[agent.name]
            and not (agent.heals and unit.heals)
        ]

    @staticmethod
    def distance(one, other):
        return math.hypot(one.x - other.x, one.y - other.y)


def game_unit(unit, unit_type):
    """Return the unit in the game's protocol, with the fields that SMAC and SMACv2 read."""
    whole = UNIVERSE[index(unit.name)]
    return SimpleNamespace(
        unit_type=unit_type,
        pos=SimpleNamespace(x=unit.x, y=unit.y),
        health=unit.health * whole.max_health,
        health_max=whole.max_health,
        shield=unit.shield * whole.max_shield,
        energy=unit.cooldown * COOLDOWNS["medivac"],
        weapon_cooldown=unit.cooldown * COOLDOWNS.get(unit.name, 15),
    )


def check_observations(layouts, truth, obs, mask, types=True, wiped=()):
    """Check that the numbers and words decoded from observations [agents, obs_size] are true.

    ``wiped`` are agents that are shown no enemy.
    """
    layout = layouts.observation
    obs, mask = torch.as_tensor(obs).float(), torch.as_tensor(mask)
    checks.check_observations(layouts.observation, obs, mask)
    observed = layout.decode(obs)
    for a, agent in enumerate(truth.allies):
        if agent.health <= 0:
            assert not observed.own.present[a].any()
            continue
        assert observed.own.present[a].all()
        assert observed.heals[a] == agent.heals
        assert observed.sight[a] == truth.sight[agent.name]
        _same_unit(layout.own, observed.own, (a, 0), agent)
        others = [unit for i, unit in enumerate(truth.allies) if i != a]
        _same_team(layout.allies, observed.allies, a, agent, others, truth)
        if a not in wiped:
            _same_team(layout.enemies, observed.enemies, a, agent, truth.enemies, truth)
            can_target = observed.enemies.fields["can_target"][a].nonzero().flatten().tolist()
            assert can_target == ([] if agent.heals else truth.targets(agent))
    _check_words(layout, truth, obs, mask, wiped)


def _check_words(layout, truth, obs, mask, wiped):
    living = [a for a, agent in enumerate(truth.allies) if agent.health > 0]
    for a, scene in zip(living, scenes(layout, obs[living], mask[living], torch.tensor(living)), strict=True):
        agent = truth.allies[a]
        assert (scene.me.number, scene.me.kind) == (a, agent.name)
        word = "heal ally" if agent.heals else "attack enemy"
        assert [name for name in scene.actions if name.startswith(("heal", "attack"))] == [
            f"{word} {i}" for i in truth.targets(agent)
        ]
        assert [ally.number for ally in scene.allies] == [
            i for i, ally in enumerate(truth.allies) if i != a and truth.seen(agent, ally)
        ]
        seen = [j for j, enemy in enumerate(truth.enemies) if truth.seen(agent, enemy)]
        if a not in wiped:
            assert [enemy.number for enemy in scene.enemies] == seen
            for enemy in scene.enemies:
                unit = truth.enemies[enemy.number]
                assert enemy.kind == unit.name
                assert abs(enemy.east - (unit.x - agent.x)) < EXACT * 11
                assert abs(enemy.north - (unit.y - agent.y)) < EXACT * 11
        elif not agent.heals:
            assert [enemy.number for enemy in scene.enemies] == truth.targets(agent)
            assert all(enemy.in_range and not enemy.seen for enemy in scene.enemies)


def _same_team(block, units, row, agent, team, truth):
    sight = truth.sight[agent.name]
    for i, unit in enumerate(team):
        assert bool(units.present[row, i]) == truth.seen(agent, unit), (agent, unit)
        if not truth.seen(agent, unit):
            assert units.kind[row, i] == UNKNOWN
            continue
        for name, true in (("dx", unit.x - agent.x), ("dy", unit.y - agent.y), ("dist", truth.distance(agent, unit))):
            assert abs(units.fields[name][row, i] * sight - true) < EXACT * sight
        _same_unit(block, units, (row, i), unit)


def _same_unit(block, units, entry, unit):
    assert NAMES[units.kind[entry]] == unit.name
    for name in ("health", "shield"):
        if name in block.fields:
            assert abs(units.fields[name][entry] - getattr(unit, name)) < EXACT


def check_state(layouts, truth, state, playable):
    """Check that the numbers decoded from the state are true; ``playable`` (width, height) divides positions."""
    allies, enemies = layouts.state.decode(torch.as_tensor(state).float())
    for units, team in ((allies, truth.allies), (enemies, truth.enemies)):
        for i, unit in enumerate(team):
            assert bool(units.present[i]) == (unit.health > 0)
            if unit.health <= 0:
                continue
            assert NAMES[units.kind[i]] == unit.name
            found = {name: float(values[i]) for name, values in units.fields.items()}
            assert abs(found["health"] - unit.health) < EXACT
            assert abs(found["x"] * playable[0] + truth.map_size / 2 - unit.x) < EXACT * 32
            assert abs(found["y"] * playable[1] + truth.map_size / 2 - unit.y) < EXACT * 32
            if "shield" in found:
                assert abs(found["shield"] - unit.shield) < EXACT
            if units is allies:
                name = "energy" if unit.heals else "cooldown"
                assert abs(found[name] - unit.cooldown) < EXACT
                assert found["cooldown" if unit.heals else "energy"] == 0
    if all(unit.health > 0 for unit in (*truth.allies, *truth.enemies)):
        check_teams(layouts, torch.as_tensor(state).float()[None])


def check_joint_state(layouts, truth, state):
    """Check the living units of a state of all observations: their types and health."""
    allies, enemies = layouts.state.decode(torch.as_tensor(state).float())
    for i, unit in enumerate(truth.allies):
        assert bool(allies.present[i]) == (unit.health > 0)
        if unit.health > 0:
            assert NAMES[allies.kind[i]] == unit.name
    living = [agent for agent in truth.allies if agent.health > 0]
    for j, unit in enumerate(truth.enemies):
        seen = any(truth.seen(agent, unit) for agent in living)
        assert bool(enemies.present[j]) == seen
        if seen:
            assert NAMES[enemies.kind[j]] == unit.name
            if "health" in enemies.fields:
                assert abs(float(enemies.fields["health"][j]) - unit.health) < EXACT
