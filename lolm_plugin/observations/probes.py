"""Does a battle's real data mean what the layout says? Sizes coincide across maps and environments; these rules do not.

Each probe is a rule that the vectors of the right environment keep in every row. They are run on the first episodes, so
that a fork, another version or a wrong map is found before anything is learned from misread numbers.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.description import Description
from lolm_plugin.observations.description_checks import check_described
from lolm_plugin.observations.layout import N_BASE_ACTIONS, Layouts, ObservationLayout, Observed, Units, per_kind
from lolm_plugin.observations.units import NAMES, UNKNOWN

TOLERANCE = 1e-3  # float32 of values up to 1, with the rounding of the game's own numbers


class View(NamedTuple):
    """Rows of living agents: observations [rows, obs_size], what they decode to, masks bool [rows, n_actions]."""

    layout: ObservationLayout
    obs: Tensor
    observed: Observed
    available: Tensor


class Probe(NamedTuple):
    """``holds`` gives bool [rows]; ``cause`` is what most likely is wrong where it does not."""

    rule: str
    cause: str
    holds: Callable[[View], Tensor]


class FirstBattles:
    """Runs the probes on the battles a controller plays first, and never again."""

    def __init__(self, layouts: Layouts, wanted: bool) -> None:
        self.layouts = layouts
        self._wanted = wanted
        self._started = False

    def look(self, batch: Any, t: int, running: Any) -> None:
        """Probe the step ``t`` of the episodes ``running`` of a host's batch; ConfigError where a rule is broken."""
        if t == 0:
            self._wanted &= not self._started
            self._started = True
        if not self._wanted:
            return
        if isinstance(self.layouts.observation, Description):
            present = (batch["avail_actions"][running, t, :, 1:] > 0).any(-1)
            check_described(self.layouts.observation, batch["obs"][running, t], batch["state"][running, t], present)
            return
        if t == 0:
            check_first_state(self.layouts, batch["state"][running, 0])
        check_view(self.layouts, batch["obs"][running, t], batch["avail_actions"][running, t])


def check_view(layouts: Layouts, obs: Tensor, available: Tensor) -> None:
    """Raise ConfigError naming the first rule that observations [..., obs_size] and masks [..., actions] break."""
    layout = layouts.observation
    obs, available = obs.flatten(0, -2), available.flatten(0, -2) > 0
    dead = available[:, 0] & ~available[:, 1:].any(-1)
    if layout.living(obs[dead]).any():
        raise _mismatch(layout, "the dead see nothing", "the mask is of another environment than the observation")
    living = available[:, 1:].any(-1)
    if not living.any():
        return
    view = View(layout, obs[living], layout.decode(obs[living]), available[living])
    for name, probe in PROBES.items():
        if name not in layout.exceptions and not bool(probe.holds(view).all()):
            raise _mismatch(layout, f"{name}: {probe.rule}", probe.cause)


def check_first_state(layouts: Layouts, state: Tensor) -> None:
    """Raise ConfigError unless the teams in the first states [..., state_size] of episodes are those of the map."""
    for side, team, units in zip(
        ("ally", "enemy"), (layouts.ally_team, layouts.enemy_team), layouts.state.decode(state), strict=True
    ):
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


def _moves(view: View) -> Tensor:
    return ((view.obs[:, :4] > 0) == view.available[:, 2:N_BASE_ACTIONS]).all(-1)


def _distances(view: View) -> Tensor:
    return torch.stack([_is_length(units) for units in (view.observed.allies, view.observed.enemies)]).all(0)


def _is_length(units: Units) -> Tensor:
    length = torch.hypot(units.fields["dx"], units.fields["dy"])
    return ((units.fields["dist"] - length).abs() <= TOLERANCE).all(-1)


def _offsets(view: View) -> Tensor:
    return torch.stack(
        [
            (units.fields[name].abs() < 1 + TOLERANCE).all(-1)
            for units in (view.observed.allies, view.observed.enemies)
            for name in ("dist", "dx", "dy")
        ]
    ).all(0)


def _target_flag(view: View) -> Tensor:
    enemies = view.observed.enemies
    offered = view.available[:, N_BASE_ACTIONS : N_BASE_ACTIONS + view.layout.n_enemies]
    same = (enemies.fields["can_target"] > 0) == offered
    return (same | ~enemies.present).all(-1) | view.observed.heals


def _targets_seen(view: View) -> Tensor:
    offered = view.available[:, N_BASE_ACTIONS : N_BASE_ACTIONS + view.layout.n_enemies]
    return (view.observed.enemies.present | ~offered).all(-1) | view.observed.heals


def _target_range(view: View) -> Tensor:
    if view.layout.shoot_range is None:
        return torch.ones_like(view.observed.heals)
    reach = per_kind(view.layout.shoot_range, view.observed.own.kind[:, 0])
    enemies = view.observed.enemies
    cells = enemies.fields["dist"] * view.observed.sight.unsqueeze(-1)
    return ((enemies.fields["can_target"] == 0) | (cells <= reach.unsqueeze(-1) + 0.01)).all(-1)


def _type_bits(view: View) -> Tensor:
    layout, observed = view.layout, view.observed
    right = torch.ones_like(observed.heals)
    for block, units in (
        (layout.enemies, observed.enemies),
        (layout.allies, observed.allies),
        (layout.own, observed.own),
    ):
        if block.kinds:
            bits = block.type_bits(view.obs)
            right &= ((bits == 0) | (bits == 1)).all(-1).all(-1) & (bits.sum(-1) == units.present).all(-1)
    return right


def _shares(view: View) -> Tensor:
    right = torch.ones_like(view.observed.heals)
    for units in (view.observed.own, view.observed.allies, view.observed.enemies):
        for name in ("health", "shield", "cooldown"):
            if name in units.fields:
                values = units.fields[name]
                right &= ((values >= -TOLERANCE) & (values <= 1 + TOLERANCE)).all(-1)
    return right


def _own_health(view: View) -> Tensor:
    fields = view.observed.own.fields
    return fields["health"][:, 0] > 0 if "health" in fields else torch.ones_like(view.observed.heals)


_SHIFTED = "the vectors have other fields than env_args says, or belong to another map of the same size"
PROBES: dict[str, Probe] = {
    "moves": Probe("the first four numbers are the mask of the four moves", _SHIFTED, _moves),
    "distances": Probe("dist is the length of (dx, dy)", _SHIFTED, _distances),
    "offsets": Probe("whoever is seen is within sight", _SHIFTED, _offsets),
    "shares": Probe("health, shield and cooldown are shares from 0 to 1", _SHIFTED, _shares),
    "own health": Probe("a living agent's own health is above 0", _SHIFTED, _own_health),
    "one type bit": Probe(
        "a unit has exactly one type bit, an absent one has none",
        "the map has other unit types, or a fork encodes them otherwise",
        _type_bits,
    ),
    "target flag": Probe(
        "an enemy's first number is the mask of attacking it",
        "the enemies are in another order in the mask, or the rows belong to allies",
        _target_flag,
    ),
    "targets are seen": Probe(
        "who can be attacked is seen", "the enemies are in another order in the mask than in the rows", _targets_seen
    ),
    "target range": Probe(
        "who can be attacked is within range",
        "this version divides distances by another sight range, or has other weapon ranges",
        _target_range,
    ),
}


def _counts(units: Units) -> Tensor:
    """Units [..., units] -> how many there are of each universe index [..., kinds]."""
    kinds = torch.nn.functional.one_hot(units.kind, UNKNOWN + 1)
    return (kinds * units.present.unsqueeze(-1)).sum(-2)


def _words(team: Mapping[int, int]) -> str:
    names = (*NAMES, "unknown unit")
    return " ".join(f"{count} {names[kind]}" for kind, count in team.items())


def _mismatch(layout: ObservationLayout, broken: str, cause: str) -> ConfigError:
    return ConfigError(
        f"What env={layout.env} map_name={layout.map_name} returns does not fit its layout ({broken}); most likely "
        f"{cause}. Set env_args to what is played, or layout.probes=False if you know better."
    )
