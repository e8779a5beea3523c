"""Teachers without weights: SMAX's scripted enemy, playing the allies, and the optimal policy of a probe."""

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
# Log-probability of an available action that the rule does not choose. -inf would make a student's KL NaN or infinite.
# exp(-30) = 1e-13 is never drawn.
NEVER = -30.0
CENTRE = 0.5  # of the map, in the observation's units


class ScriptedController(Controller[Decisions]):
    """Controller that acts by a rule. Subclasses implement ``choose``, which returns one action per agent.

    Register a rule as ``teacher`` of an environment (``registry.Env``) for ``lolm imitate --teacher=heuristic``. This
    one takes the available action with the highest index::

        class LastAction(ScriptedController):
            def choose(self, obs, available, t):
                return available.shape[-1] - 1 - available.flip(-1).int().argmax(-1)
    """

    @torch.no_grad()
    def act(self, ep_batch: Batch, t: int, t_env: int, running: Tensor, test_mode: bool) -> Acting:
        """Return log-probabilities that make the rule's action certain for each agent with a choice."""
        available = (ep_batch["avail_actions"][:, t] > 0) & running[:, None, None]
        log_probs, deciding = certain_log_probs(available)
        chosen = self.choose(ep_batch["obs"][:, t], available, t)[deciding]
        others = torch.where(available[deciding], NEVER, -torch.inf)
        log_probs[deciding] = others.scatter(-1, chosen.unsqueeze(-1), 0.0)
        return Acting(log_probs)

    def choose(self, obs: Tensor, available: Tensor, t: int) -> Tensor:
        """Choose an action for every agent; called with the states of all episodes.

        Args:
            obs: [batch, agents, obs_size].
            available: bool [batch, agents, actions].
            t: the timestep.

        Returns:
            Actions int64 [batch, agents]. Those of agents with fewer than two available actions are ignored.
        """
        raise NotImplementedError


class SMAXHeuristic(ScriptedController):
    """Rules of jaxmarl's heuristic enemy, applied to an agent's observation.

    In this order: attack the last target if it is in range; attack the closest enemy in range; move to the closest
    visible enemy; move to the point opposite the agent's start through the map's centre. Two differences from jaxmarl:
    it moves to the closest visible enemy instead of a random one, and near a wall it takes the best available move.
    """

    def init_hidden(self, batch_size: int) -> None:
        """Start new episodes: forget targets and start positions."""
        self._target = torch.full((batch_size, self.n_agents), -1, device=self.device)
        self._goal: Tensor | None = None

    def choose(self, obs: Tensor, available: Tensor, t: int) -> Tensor:
        scene = self.layouts.battle.decode(obs)
        position = torch.cat([scene.own.fields["x"], scene.own.fields["y"]], dim=-1)
        if self._goal is None:
            self._goal = 2 * CENTRE - position
        attack = self._attack(scene, available)
        # Distances are fractions of the sight range and positions fractions of the map. Only directions are used here.
        enemies = scene.enemies
        nearest = enemies.fields["dist"].masked_fill(~enemies.present, torch.inf).argmin(-1, keepdim=True)
        toward = torch.stack([enemies.fields[axis].gather(-1, nearest).squeeze(-1) for axis in ("dx", "dy")], dim=-1)
        direction = torch.where(enemies.present.any(-1, keepdim=True), toward, self._goal - position)
        progress = direction @ torch.tensor(MOVES, device=obs.device).T
        moves = progress.masked_fill(~available[..., 1:N_BASE_ACTIONS], -torch.inf).argmax(-1) + 1
        return torch.where(attack >= 0, N_BASE_ACTIONS + attack, moves)

    def _attack(self, scene: Observed, available: Tensor) -> Tensor:
        """Choose the enemy to attack, int64 [batch, agents]; -1 if none is in range."""
        in_range = available[..., N_BASE_ACTIONS:]
        closest = scene.enemies.fields["dist"].masked_fill(~in_range, torch.inf).argmin(-1)
        last = self._target.clamp(min=0)
        keeps = (self._target >= 0) & in_range.gather(-1, last.unsqueeze(-1)).squeeze(-1)
        self._target = torch.where(in_range.any(-1), torch.where(keeps, last, closest), -1)
        return self._target


class ProbeOptimum(ScriptedController):
    """Optimal policy of a probe, computed by backward induction.

    Raises:
        ConfigError: ``env_args.shuffle_obs=True``, so that observations do not show the true situation.
    """

    def __init__(self, scheme: Mapping[str, Mapping], groups: Mapping[str, int], args: SimpleNamespace) -> None:
        if args.env_args.get("shuffle_obs"):
            raise ConfigError(
                "--teacher=heuristic cannot be used with env_args.shuffle_obs=True, where observations do not show "
                "the true situations; set env_args.shuffle_obs=False."
            )
        super().__init__(scheme, groups, args)
        map_name = args.env_args["map_name"]
        self._known = torch.from_numpy(table(map_name).obs).to(self.device)  # [situations, obs_size]
        self._best = torch.from_numpy(optimal_actions(map_name)).to(self.device)  # [steps, situations]

    def choose(self, obs: Tensor, available: Tensor, t: int) -> Tensor:
        situation = (obs.unsqueeze(-2) - self._known).abs().sum(-1).argmin(-1)
        return self._best[min(t, len(self._best) - 1)][situation]
