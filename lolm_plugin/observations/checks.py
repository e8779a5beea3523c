"""Checks that real observations fit their description.

Sizes can agree by chance between maps, tasks and versions. The rules of a description are therefore checked on the
first episodes. A fork, another version or a wrong map is found before anything is learned from misread numbers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.battle import Layouts
from lolm_plugin.observations.description import Description
from lolm_plugin.observations.layout import KINDS, BattleState, Units


class FirstEpisodes:
    """Check of the first episodes that a controller plays. Later episodes are not checked."""

    def __init__(self, layouts: Layouts, wanted: bool) -> None:
        self.layouts = layouts
        self._wanted = wanted
        self._started = False

    def check(self, batch: Any, t: int, running: Any) -> None:
        """Check step ``t`` of the episodes ``running`` of a host's batch.

        Raises:
            ConfigError: the teams, an observation or a state break a rule.
        """
        if t == 0:
            self._wanted &= not self._started
            self._started = True
        if not self._wanted:
            return
        obs, state = batch["obs"][running, t], batch["state"][running, t]
        if t == 0:
            check_teams(self.layouts, state)
        check_observations(self.layouts.observation, obs, batch["avail_actions"][running, t])
        if wrong := self.layouts.state.mismatch(state, obs):
            raise _mismatch(self.layouts.observation, wrong, "the environment has another version or other settings")


def check_sizes(layouts: Layouts, scheme: Mapping[str, Mapping], n_actions: int) -> None:
    """Raise ConfigError if the host's sizes differ from the layout's.

    Sizes can agree by chance, so the rules are checked as well.
    """
    layout = layouts.observation
    found = {
        "observation": (scheme["obs"]["vshape"], layout.size),
        "state": (scheme["state"]["vshape"], layouts.state.size),
        "number of actions": (n_actions, layout.n_actions),
    }
    for what, (host, ours) in found.items():
        if host != ours:
            raise ConfigError(
                f"The {what} of env={layout.env} map_name={layout.map_name} has size {host} but its layout says "
                f"{ours}: the environment was changed by another env_args key or another version; "
                f"set env_args back to the values in config/envs/{layout.env}.yaml."
            )


def check_observations(description: Description, obs: Tensor, available: Tensor) -> None:
    """Raise ConfigError for the first rule that observations [..., obs_size] or masks [..., n_actions] break.

    An agent that has only the first action is dead or has left the task. Padding has no action.
    """
    obs, available = obs.flatten(0, -2), available.flatten(0, -2) > 0
    living = available[:, 1:].any(-1)
    if description.living(obs[available[:, 0] & ~living]).any():
        cause = "the mask and the observation are of different environments"
        raise _mismatch(description, "dead agents: their observations are 0", cause)
    if not living.any():
        return
    for rule in description.rules(obs[living], available[living]):
        if not rule.holds.all():
            row, entity = (*(int(index[0]) for index in (~rule.holds).nonzero(as_tuple=True)), 0)[:2]
            found = f", but {rule.found(row, entity)}" if rule.found else ""
            raise _mismatch(description, f"{rule.name}: {rule.text}{found}", rule.cause)


def check_teams(layouts: Layouts, state: Tensor) -> None:
    """Raise ConfigError if the teams in the first states [rows, state_size] of episodes are not the map's."""
    teams = (layouts.ally_team, layouts.enemy_team)
    if teams == (None, None):
        return
    assert isinstance(layouts.state, BattleState), "only battles have teams"
    for side, team, units in zip(("ally", "enemy"), teams, layouts.state.decode(state), strict=True):
        # If the state is made of observations, an enemy that no agent sees yet is missing.
        complete = units.present.all(-1)
        if team is None or not complete.any():
            continue
        counts = _counts(units)[complete]
        expected = torch.zeros_like(counts[0])
        for kind, count in team.items():
            expected[kind] = count
        if (counts != expected).any():
            found = {kind: int(count) for kind, count in enumerate(counts[0].tolist()) if count}
            hint = ""
            if side == "enemy" and layouts.swapped_types and sorted(found.values()) == sorted(team.values()):
                hint = (
                    "the enemies' type bits are in another order, as in some forks of SMAC (set "
                    f"{layouts.swapped_types}), or "
                )
            raise _mismatch(
                layouts.observation,
                f"{side} team: the map has {_words(team)}, the first state shows {_words(found)}",
                f"{hint}the environment plays another map or another version of it",
            )


def _counts(units: Units) -> Tensor:
    """Count units [..., units] by universe index: [..., kinds]."""
    kinds = functional.one_hot(units.kind, len(KINDS))
    return (kinds * units.present.unsqueeze(-1)).sum(-2)


def _words(team: Mapping[int, int]) -> str:
    return " ".join(f"{count} {KINDS[kind]}" for kind, count in team.items())


def _mismatch(description: Description, broken: str, cause: str) -> ConfigError:
    return ConfigError(
        f"The vectors of env={description.env} map_name={description.map_name} do not fit their layout ({broken}); "
        f"most likely {cause}. {description.advice}, or layout.probes=False to skip this check."
    )
