"""Do real observations mean what their description says? Sizes coincide between maps, tasks and versions; rules do not.

The rules are checked on the first episodes, so that a fork, another version or a wrong map is found before anything is
learned from misread numbers.
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
    """Checks the episodes that a controller plays first, and none after them."""

    def __init__(self, layouts: Layouts, wanted: bool) -> None:
        self.layouts = layouts
        self._wanted = wanted
        self._started = False

    def check(self, batch: Any, t: int, running: Any) -> None:
        """Check step ``t`` of the episodes ``running`` of a host's batch; ConfigError where a rule is broken."""
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
            raise _mismatch(self.layouts.observation, wrong, "it is another version or has other settings")


def check_sizes(layouts: Layouts, scheme: Mapping[str, Mapping], n_actions: int) -> None:
    """Raise ConfigError unless the host's sizes are the layout's.

    Sizes can agree by chance across maps, so this is the first check and not the only one.
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
                f"set env_args back to those in config/envs/{layout.env}.yaml."
            )


def check_observations(description: Description, obs: Tensor, available: Tensor) -> None:
    """Raise ConfigError naming the first rule that observations [..., obs_size] and masks [..., n_actions] break.

    Agents that can do nothing but the first action are dead or have left the task. Padding has no action at all.
    """
    obs, available = obs.flatten(0, -2), available.flatten(0, -2) > 0
    living = available[:, 1:].any(-1)
    if description.living(obs[available[:, 0] & ~living]).any():
        cause = "the mask is of another environment than the observation"
        raise _mismatch(description, "the dead see nothing", cause)
    if not living.any():
        return
    for rule in description.rules(obs[living], available[living]):
        if not rule.holds.all():
            row, entity = (*(int(index[0]) for index in (~rule.holds).nonzero(as_tuple=True)), 0)[:2]
            found = f", and {rule.found(row, entity)}" if rule.found else ""
            raise _mismatch(description, f"{rule.name}: {rule.text}{found}", rule.cause)


def check_teams(layouts: Layouts, state: Tensor) -> None:
    """Raise ConfigError unless the teams in the first states [rows, state_size] of episodes are those of the map."""
    teams = (layouts.ally_team, layouts.enemy_team)
    if teams == (None, None):
        return
    assert isinstance(layouts.state, BattleState), "only battles have teams"
    for side, team, units in zip(("ally", "enemy"), teams, layouts.state.decode(state), strict=True):
        # An enemy that no agent sees yet is missing where the state is made of observations.
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
                    "the enemies' type bits stand in another order, as in some forks of SMAC (set "
                    f"{layouts.swapped_types}), or "
                )
            raise _mismatch(
                layouts.observation,
                f"{side} team: {_words(team)} is this map's, the first state shows {_words(found)}",
                f"{hint}the environment plays another map or another version of it",
            )


def _counts(units: Units) -> Tensor:
    """Units [..., units] -> how many there are of each universe index [..., kinds]."""
    kinds = functional.one_hot(units.kind, len(KINDS))
    return (kinds * units.present.unsqueeze(-1)).sum(-2)


def _words(team: Mapping[int, int]) -> str:
    return " ".join(f"{count} {KINDS[kind]}" for kind, count in team.items())


def _mismatch(description: Description, broken: str, cause: str) -> ConfigError:
    return ConfigError(
        f"What env={description.env} map_name={description.map_name} returns does not fit its layout ({broken}); most "
        f"likely {cause}. {description.advice}, or layout.probes=False if you know better."
    )
