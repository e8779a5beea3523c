"""Policies without weights, as teachers: SMAX's scripted enemy playing our side, and the known optimum of a probe."""

from collections.abc import Mapping
from types import SimpleNamespace

import torch
from torch import Tensor

from lolm_plugin.controllers.controller import Controller
from lolm_plugin.controllers.decisions import Acting, Decisions, certain_log_probs
from lolm_plugin.envs.probe_tasks import optimal_actions, table
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.layout import N_BASE_ACTIONS, Observed
from lolm_plugin.protocols import Batch

# x and y of stop, then north, south, east and west, which are the actions 1 to 5.
MOVES = ((0.0, 0.0), (0.0, 1.0), (0.0, -1.0), (1.0, 0.0), (-1.0, 0.0))
# Log-probability of an available action that the rule does not choose. -inf would make the KL of a student NaN or
# infinite; exp(-30) = 1e-13 is never drawn.
NEVER = -30.0
CENTRE = 0.5  # of the map, in the observation's units


class ScriptedController(Controller[Decisions]):
    """Acts by a rule: subclasses choose one action for every agent."""

    @torch.no_grad()
    def act(self, ep_batch: Batch, t: int, t_env: int, running: Tensor, test_mode: bool) -> Acting:
        """Make the rule's action certain wherever there is a choice."""
        available = (ep_batch["avail_actions"][:, t] > 0) & running[:, None, None]
        log_probs, deciding = certain_log_probs(available)
        chosen = self.choose(ep_batch["obs"][:, t], available, t)[deciding]
        others = torch.where(available[deciding], NEVER, -torch.inf)
        log_probs[deciding] = others.scatter(-1, chosen.unsqueeze(-1), 0.0)
        return Acting(log_probs)

    def choose(self, obs: Tensor, available: Tensor, t: int) -> Tensor:
        """Choose actions int64 [batch, agents] at timestep ``t``; available is bool [batch, agents, actions].

        The choice of an agent with fewer than two available actions is not used.
        """
        raise NotImplementedError


class SMAXHeuristic(ScriptedController):
    """The rules of jaxmarl's heuristic enemy, from an agent's own observation.

    Attack the last target while it is in range, else the closest enemy in range; else go to the closest enemy in
    sight, else to the point opposite of the own start through the map's centre. Two differences from jaxmarl: it
    follows the closest visible enemy, where jaxmarl draws one at random, and takes the best available move near a wall.
    """

    def init_hidden(self, batch_size: int) -> None:
        """Start new episodes: no target was attacked and no start is known."""
        self._target = torch.full((batch_size, self.n_agents), -1, device=self.device)
        self._goal: Tensor | None = None

    def choose(self, obs: Tensor, available: Tensor, t: int) -> Tensor:
        scene = self.layouts.battle.decode(obs)
        position = torch.cat([scene.own.fields["x"], scene.own.fields["y"]], dim=-1)
        if self._goal is None:
            self._goal = 2 * CENTRE - position
        attack = self._attack(scene, available)
        # Distances to enemies are fractions of the sight, positions fractions of the map: only directions matter here.
        enemies = scene.enemies
        nearest = enemies.fields["dist"].masked_fill(~enemies.present, torch.inf).argmin(-1, keepdim=True)
        toward = torch.stack([enemies.fields[axis].gather(-1, nearest).squeeze(-1) for axis in ("dx", "dy")], dim=-1)
        direction = torch.where(enemies.present.any(-1, keepdim=True), toward, self._goal - position)
        progress = direction @ torch.tensor(MOVES, device=obs.device).T
        moves = progress.masked_fill(~available[..., 1:N_BASE_ACTIONS], -torch.inf).argmax(-1) + 1
        return torch.where(attack >= 0, N_BASE_ACTIONS + attack, moves)

    def _attack(self, scene: Observed, available: Tensor) -> Tensor:
        """Choose the enemy to attack, int64 [batch, agents], -1 where none is in range."""
        in_range = available[..., N_BASE_ACTIONS:]
        closest = scene.enemies.fields["dist"].masked_fill(~in_range, torch.inf).argmin(-1)
        last = self._target.clamp(min=0)
        keeps = (self._target >= 0) & in_range.gather(-1, last.unsqueeze(-1)).squeeze(-1)
        self._target = torch.where(in_range.any(-1), torch.where(keeps, last, closest), -1)
        return self._target


class ProbeOptimum(ScriptedController):
    """The best action in every situation of a probe, by backward induction."""

    def __init__(self, scheme: Mapping[str, Mapping], groups: Mapping[str, int], args: SimpleNamespace) -> None:
        if args.env_args.get("shuffle_obs"):
            raise ConfigError(
                "--teacher=heuristic cannot be used with env_args.shuffle_obs=True, where observations show other "
                "situations than the true ones; set env_args.shuffle_obs=False."
            )
        super().__init__(scheme, groups, args)
        map_name = args.env_args["map_name"]
        self._known = torch.from_numpy(table(map_name).obs).to(self.device)  # [situations, obs_size]
        self._best = torch.from_numpy(optimal_actions(map_name)).to(self.device)  # [steps, situations]

    def choose(self, obs: Tensor, available: Tensor, t: int) -> Tensor:
        situation = (obs.unsqueeze(-2) - self._known).abs().sum(-1).argmin(-1)
        return self._best[min(t, len(self._best) - 1)][situation]
