"""Entity features: one vector per unit, of the same width on every map. Entity networks read them as tokens.

The features are those of the released code of DT2GS (16 for an actor, 20 for a critic) and those that the ``entity``
section of the configuration adds. A unit type is a bit of the unit universe. A marine is thus the same on every map.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lolm_plugin.errors import ConfigError, did_you_mean
from lolm_plugin.observations.battle import BattleLayout, Layouts
from lolm_plugin.observations.layout import N_BASE_ACTIONS, BattleState, Units
from lolm_plugin.observations.units import UNKNOWN

# Fields of at least one environment beyond the published ones.
FURTHER_FIELDS = ("cooldown", "energy", "x", "y", "attack_level", "health_level")
HEAL_MODES = ("ally_tokens", "ignore")
NO_TOKEN = -1


@dataclass(frozen=True)
class EntityFeatures:
    """Input of an entity network, with any leading dimensions ``[...]``; ``n`` is agents + enemies.

    ``features`` float [..., n, width] has the observer first, then its allies by id, then the enemies. An absent unit
    is all zeros. ``present`` is bool [..., n]. ``targets`` int64 [..., n_targets] is the index in ``features`` of the
    unit that each target action is about, -1 if there is none.
    """

    features: Tensor
    present: Tensor
    targets: Tensor


class _UnitFeatures:
    """Base class of ``ActorFeatures`` and ``CriticFeatures``: type bits, roles, further fields and targets."""

    def __init__(self, layout: BattleLayout, entity: Mapping[str, Any], published: int) -> None:
        assert entity["heal_mode"] in HEAL_MODES, entity["heal_mode"]
        self.layout = layout.as_published() if entity["legacy_type_bug"] else layout
        self.further = tuple(entity["further_fields"])
        _check_fields(self.further, layout)
        self.width = published + 3 * entity["role_flag"] + len(self.further)
        self._heals_allies = entity["heal_mode"] == "ally_tokens"
        self._role_flag = entity["role_flag"]
        role = torch.tensor([0] + [1] * (layout.n_agents - 1) + [2] * layout.n_enemies)
        self._roles = functional.one_hot(role, 3)
        enemies = torch.arange(layout.n_agents, layout.n_agents + layout.n_enemies)
        self._enemy_targets = functional.pad(enemies, (0, layout.further_targets), value=NO_TOKEN)

    def _assemble(self, units: Units, columns: Sequence[Tensor]) -> Tensor:
        """Return features [..., n, width] of units [..., n]; ``columns`` [..., n] are the features before type bits."""
        numbers = torch.stack(list(columns), -1)
        parts = [numbers, functional.one_hot(units.kind, UNKNOWN + 1)[..., :UNKNOWN]]
        if self._role_flag:
            parts.append(self._roles.to(numbers.device).expand(*units.kind.shape, -1))
        parts += [units.fields[name].unsqueeze(-1) for name in self.further]
        return torch.cat(parts, -1).masked_fill(~units.present.unsqueeze(-1), 0.0)

    def _role(self, units: Units, role: int) -> Tensor:
        """Return 1 for the units of a role (0 self, 1 ally, 2 enemy) and 0 for the others: [..., n]."""
        return self._roles[:, role].to(units.kind.device).expand_as(units.kind)


class ActorFeatures(_UnitFeatures):
    """One agent's observation as entity features: [flag, dist, dx, dy, health, shield, type bits 10, further].

    An enemy's flag is 1 if it can be attacked now. Another unit's flag is 1 if it is visible. ``dist``, ``dx`` and
    ``dy`` are shares of the observer's sight range. A dead agent sees nothing: all are zero and absent.
    """

    def __init__(self, layout: BattleLayout, entity: Mapping[str, Any]) -> None:
        super().__init__(layout, entity, published=6 + UNKNOWN)
        observer, ally = torch.meshgrid(torch.arange(layout.n_agents), torch.arange(layout.n_targets), indexing="ij")
        # The observer always has index 0, so allies with a smaller id have index id + 1.
        token = ally + (ally < observer)
        self._ally_targets = token.masked_fill((ally == observer) | (ally >= layout.n_agents), NO_TOKEN)

    def __call__(self, obs: Tensor, agents: Tensor) -> EntityFeatures:
        """Return the features of observations [..., obs_size] of the ``agents`` int64 [...] (ids, broadcastable)."""
        assert obs.shape[-1] == self.layout.size, f"{obs.shape[-1]} numbers, but the layout has {self.layout.size}"
        observed = self.layout.decode(obs)
        # The published code keeps the environment's flag of a healer's enemies. It is about the ally of the same id.
        enemies = observed.enemies if self._heals_allies else self.layout.enemies.decode(obs)
        names = ("visible", "can_target", "dist", "dx", "dy", "health", "shield", *self.further)
        units = _joined((observed.own, observed.allies, enemies), names)
        flag = self._role(units, 0) + units.fields["visible"] + units.fields["can_target"]
        features = self._assemble(units, [flag, *(units.fields[name] for name in names[2:7])])
        heals = (observed.heals & self._heals_allies).unsqueeze(-1)
        of_healers = self._ally_targets.to(obs.device)[agents]
        return EntityFeatures(
            features, units.present, torch.where(heals, of_healers, self._enemy_targets.to(obs.device))
        )


class CriticFeatures(_UnitFeatures):
    """The global state from the view of each agent, as entity features for that agent's critic.

    A token is [self, in sight, dist, dx, dy, readiness, health, shield, x, y, type bits 10, further]. Every living
    unit has one, also out of sight. Readiness is 1 for an enemy that can be attacked now, the weapon cooldown or energy
    for an ally, and 0 for the agent itself. ``x`` and ``y`` are the state's. ``dist``, ``dx`` and ``dy`` are shares of
    the agent's sight range if the length of the state's unit is known (``Layouts.cells``), else they are in that unit.
    They are 0 if the state has no positions. A dead agent sees nothing: all are zero and absent.
    """

    def __init__(self, layouts: Layouts, entity: Mapping[str, Any]) -> None:
        super().__init__(layouts.battle, entity, published=10 + UNKNOWN)
        assert isinstance(layouts.state, BattleState), "the state of a battle"
        self.state = layouts.state.as_published() if entity["legacy_type_bug"] else layouts.state
        self.cells = layouts.cells
        units = torch.arange(len(self._roles)).expand(self.layout.n_agents, -1)
        others = units != torch.arange(self.layout.n_agents).unsqueeze(-1)
        self._order = torch.argsort(others.int(), dim=-1, stable=True)  # [agents, n]: the agent, then others by id

    def __call__(self, state: Tensor, obs: Tensor, available: Tensor) -> EntityFeatures:
        """Return each agent's entity features [..., agents, n, width] of the state.

        Inputs: states [..., state_size], obs [..., agents, obs_size] and available [..., agents, n_actions].
        """
        assert state.shape[-1] == self.state.size, f"{state.shape[-1]} numbers, but the state has {self.state.size}"
        n_agents, n_enemies = self.layout.n_agents, self.layout.n_enemies
        observed, teams = self.layout.decode(obs), self.state.decode(state)
        order = self._order.to(state.device)
        names = ("cooldown", "energy", "health", "shield", "x", "y", *self.further)
        units = _rearranged(_joined(teams, names), order)
        units = replace(units, present=units.present & units.present[..., :1])
        located = torch.cat([torch.full_like(team.present, "x" in team.fields) for team in teams], -1)[..., order]
        scale = 1.0 if self.cells is None else (self.cells / observed.sight).unsqueeze(-1)
        dx, dy = ((units.fields[name] - units.fields[name][..., :1]) * scale * located for name in ("x", "y"))
        seen = torch.cat([observed.own.present, observed.allies.present, observed.enemies.present], -1)
        weapons = (units.fields["cooldown"] + units.fields["energy"])[..., 1:n_agents]
        attackable = available[..., N_BASE_ACTIONS : N_BASE_ACTIONS + n_enemies].to(state.dtype)
        if self._heals_allies:
            attackable = attackable.masked_fill(observed.heals.unsqueeze(-1), 0.0)
        readiness = functional.pad(torch.cat([weapons, attackable], -1), (1, 0))
        columns = [self._role(units, 0), seen, torch.hypot(dx, dy), dx, dy, readiness]
        columns += [units.fields[name] for name in names[2:6]]
        features = self._assemble(units, columns)
        targets = self._enemy_targets.to(state.device).expand(*units.kind.shape[:-1], -1)
        return EntityFeatures(features, units.present, targets)


def _joined(teams: Sequence[Units], names: Sequence[str]) -> Units:
    """Concatenate teams [..., k] with the fields ``names``. A field that a team lacks is 0."""

    def column(name: str) -> Tensor:
        none = [torch.zeros(team.kind.shape, device=team.kind.device) for team in teams]
        return torch.cat([team.fields.get(name, zeros) for team, zeros in zip(teams, none, strict=True)], -1)

    fields = {name: column(name) for name in names}
    return Units(torch.cat([t.present for t in teams], -1), fields, torch.cat([t.kind for t in teams], -1))


def _rearranged(units: Units, order: Tensor) -> Units:
    """Reorder units [..., n] by each of the orders [agents, n]: [..., agents, n]."""
    fields = {name: values[..., order] for name, values in units.fields.items()}
    return Units(units.present[..., order], fields, units.kind[..., order])


def _check_fields(names: Sequence[str], layout: BattleLayout) -> None:
    blocks = (layout.own, layout.allies, layout.enemies)
    known = {*FURTHER_FIELDS, *(field for block in blocks for field in block.fields)}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"entity.further_fields names {name}, which no environment shows{did_you_mean(name, known)}; choose "
                f"among: {', '.join(FURTHER_FIELDS)}."
            )
