"""A global state that is all agents' observations, one after the other (SMAC's ``obs_instead_of_state``)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lolm_plugin.observations.layout import ObservationLayout, Units

# What means the same whoever looks; positions are relative to each observer, so they are left out.
_COMMON = ("health", "shield", "cooldown")


@dataclass(frozen=True)
class JointStateLayout:
    """Reads the team from the agents' own blocks, and an enemy from the first agent that sees it."""

    observation: ObservationLayout

    @property
    def size(self) -> int:
        return self.observation.n_agents * self.observation.size

    def decode(self, state: Tensor) -> tuple[Units, Units]:
        """States [..., n_agents * obs_size] -> (allies, enemies); own positions where the environment tells them."""
        observed = self.observation.decode(state.unflatten(-1, (self.observation.n_agents, self.observation.size)))
        own, enemies = observed.own, observed.enemies
        fields = {name: own.fields[name][..., 0] for name in (*_COMMON, "x", "y") if name in own.fields}
        allies = Units(own.present[..., 0], fields, own.kind[..., 0])
        seen = enemies.present.any(-2)
        first = enemies.present.int().argmax(-2, keepdim=True)  # of the agents, who sees this enemy

        def by_first(values: Tensor) -> Tensor:
            return torch.gather(values, -2, first).squeeze(-2)

        found = {name: by_first(enemies.fields[name]) for name in _COMMON if name in enemies.fields}
        return allies, Units(seen, found, by_first(enemies.kind))
