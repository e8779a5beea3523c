"""Global states, from which a critic reads one feature vector per entity."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lolm_plugin.observations.description import Description


class State(ABC):
    """A global state, and the entity features that a critic reads from it."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Length of a state."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Number of features of an entity."""

    @abstractmethod
    def entities(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return (features [rows, entities, width], present [rows, entities]) of states [rows, size]; absent: zeros."""

    def mismatch(self, state: Tensor, obs: Tensor) -> str:
        """Return why states [rows, size] do not fit the observations [rows, agents, obs_size]; empty if they do."""
        return ""


@dataclass(frozen=True)
class DescribedState(State):
    """A global state that is the concatenation of all agents' observations, as in EPyMARL's ``gymma``.

    A critic reads one feature vector per entity: [block 1-hot, fields of all blocks]. Fields of other blocks are 0. The
    width depends on the kinds of entities, not on their number, so that a critic can be used on other sizes of a task.
    """

    description: Description

    @property
    def size(self) -> int:
        return self.description.n_agents * self.description.size

    @property
    def width(self) -> int:
        blocks = self.description.blocks
        return len(blocks) + sum(field.n_features for block in blocks for field in block.fields)

    def mismatch(self, state: Tensor, obs: Tensor) -> str:
        if torch.equal(state, obs.flatten(1)):
            return ""
        return "the state is not the concatenation of all observations"

    def entities(self, state: Tensor) -> tuple[Tensor, Tensor]:
        obs = state.unflatten(-1, (self.description.n_agents, self.description.size))
        blocks = self.description.blocks
        before, features, present = len(blocks), [], []
        for number, block in enumerate(blocks):
            columns = [column for field in block.fields for column in field.features(block, obs)]
            own = torch.stack(columns, -1) if columns else obs.new_zeros(*obs.shape[:-1], len(block.starts), 0)
            kind = functional.one_hot(torch.tensor(number, device=obs.device), len(blocks)).to(obs.dtype)
            after = self.width - before - own.shape[-1]
            padded = functional.pad(own, (before - len(blocks), after))
            features.append(torch.cat([kind.expand(*own.shape[:-1], -1), padded], -1))
            present.append(block.present(obs))
            before += own.shape[-1]
        alive = torch.cat(present, -1)
        return torch.cat(features, -2).masked_fill(~alive.unsqueeze(-1), 0.0).flatten(-3, -2), alive.flatten(-2)
