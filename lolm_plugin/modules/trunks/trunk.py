"""Base class of the entity networks: entity features of any number of units in, features of each unit out.

An actor computes logits from the features with an action head, a critic computes a value from their mean. No parameter
depends on the number of units, so weights can move between maps.
"""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from lolm_plugin import registry
from lolm_plugin.modules.heads import MeanActionHead
from lolm_plugin.modules.layers import Gains
from lolm_plugin.observations.entity_features import EntityFeatures

# Keys that change how a network is trained or initialised, but not what it computes.
LEARNING_KEYS = ("dt2gs.noise_mode", "dt2gs.reconstruction_coef", "dt2gs.subtask_kl_coef", "entity.init_gain")


class Features(NamedTuple):
    """Output of a trunk for the observing agent and the units around it, with leading dimensions ``[...]``."""

    own: Tensor  # [..., width], of the observing agent
    targets: Tensor  # [..., n_targets, width]; meaningless for a target without a unit
    units: Tensor  # [..., m, width], averaged by a critic
    averaged: Tensor  # bool [..., m]: the units in the critic's average
    memory: Tensor  # [..., memory_width], after the step
    losses: Mapping[str, Tensor] = {}  # name -> [...], weighted: auxiliary losses
    attention: Tensor | None = None  # [..., n], without gradient: weights of the agent's own query, sum 1
    subtask: Tensor | None = None  # [..., subtasks], without gradient: one-hot

    def map(self, change: Callable[..., Tensor], *others: Self) -> Self:
        """Apply ``change`` to every tensor. With ``others``, it also receives their tensors of the same name."""

        def apply(*values: Any) -> Any:
            if isinstance(values[0], Mapping):
                return {name: apply(*(value[name] for value in values)) for name in values[0]}
            return None if values[0] is None else change(*values)

        return type(self)(*map(apply, self, *others))


class Trunk(nn.Module):
    """Base class of the entity networks. To add one, subclass it and register it in ``registry.TRUNKS``.

    A subclass sets ``width`` and implements ``forward`` (one step) or ``unroll`` (many steps); the other one then calls
    it. ``unroll`` is for a trunk with memory that computes many steps faster at once. No parameter may depend on the
    number of units. One registry entry makes an agent NAME and a critic NAME_critic.

    A complete example is ``examples/add_an_algorithm``: a deep-sets trunk, its yaml and its registry entry. The test
    ``tests/examples/test_add_an_algorithm.py`` runs it.

    Args:
        entity_width: width of a unit's entity features.
        shape: the network's own config section.
        entity: the config section ``entity``, shared by all trunks.

    Raises:
        ConfigError: the subclass cannot use a value of ``shape``.
    """

    width: int  # of the features
    memory_width: int = 0  # of an agent's memory, passed from step to step; 0: no memory
    noise_width: int = 0  # of the noise drawn for an agent at each step; 0: no noise
    noise_mode: str = "stored"  # see ``Policy.noise_mode``
    computes_all_units: bool = True  # False: only the own token and the targets

    def __init__(self, entity_width: int, shape: Mapping[str, Any], entity: Mapping[str, Any]) -> None:
        super().__init__()
        self.gains = Gains.of(entity)
        self.mask_absent = entity["mask_absent"]

    def forward(self, entities: EntityFeatures, memory: Tensor, noise: Tensor | None = None) -> Features:
        """Compute the features of one step.

        Args:
            entities: entity features [..., agents, n, entity_width]; without memory also of single agents.
            memory: [..., memory_width], zeros when an episode begins.
            noise: [..., noise_width], drawn by ``noise``; None: decide greedily.

        Returns:
            The features of each agent and its units, and the memory after the step.

        Raises:
            RecursionError: the subclass implements neither ``forward`` nor ``unroll``.
        """
        one = self.unroll(at_index(entities, None), memory, None if noise is None else noise.unsqueeze(0))
        return one.map(lambda value: value[0])

    def unroll(self, entities: EntityFeatures, memory: Tensor, noise: Tensor | None = None) -> Features:
        """Compute the features of many steps.

        Args:
            entities: as in ``forward``, with a leading dimension ``time``.
            memory: as in ``forward``, before the first step.
            noise: as in ``forward``, with a leading dimension ``time``.

        Returns:
            The features, each with a leading dimension ``time``; ``memory`` is the memory after each step.
        """
        steps = len(entities.features)
        if not self.memory_width:
            return self(entities, memory.expand(steps, *memory.shape), noise)
        results: list[Features] = []
        for t in range(steps):
            results.append(self(at_index(entities, t), memory, None if noise is None else noise[t]))
            memory = results[-1].memory
        return results[0].map(lambda *values: torch.stack(values), *results[1:])

    def noise(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        """Draw noise [*shape, noise_width]. A trunk with noise overrides this."""
        return torch.zeros(*shape, 0)

    def make_head(self) -> nn.Module:
        """Build the action head on the features; override it for another head than ``MeanActionHead``.

        Returns:
            A module: ``head(own, targets, entities.targets)`` -> logits [..., 6 + n_targets].
        """
        return MeanActionHead(self.width, self.gains.head)

    def queries(self, entities: EntityFeatures, units: Tensor) -> Tensor:
        """Select the units [..., n, width] whose features are used: all, or the own unit and the targets."""
        if self.computes_all_units:
            return units
        return torch.cat([units[..., :1, :], gather_units(units, entities.targets)], dim=-2)

    def split(self, entities: EntityFeatures, units: Tensor) -> dict[str, Any]:
        """Split the features of the ``queries`` into the fields ``own``, ``targets``, ``units`` and ``averaged``."""
        if self.computes_all_units:
            targets, averaged = gather_units(units, entities.targets), self.units_to_average(entities.present)
        else:
            targets, averaged = units[..., 1:, :], torch.ones_like(units[..., 0], dtype=torch.bool)
        return {"own": units[..., 0, :], "targets": targets, "units": units, "averaged": averaged}

    def allowed(self, entities: EntityFeatures) -> Tensor | None:
        """Return the attention mask bool [..., n], True for tokens to attend to. None: attend to all.

        Token 0, the agent's own, is always True.
        """
        if not self.mask_absent:
            return None
        allowed = entities.present.clone()
        allowed[..., 0] = True
        return allowed

    def units_to_average(self, present: Tensor) -> Tensor:
        """Return the mask bool [..., m] of units that a critic averages: all, or those ``present`` bool [..., m]."""
        return present if self.mask_absent else torch.ones_like(present)


def at_index(entities: EntityFeatures, index: Any) -> EntityFeatures:
    """Index the leading dimensions of entity features."""
    return EntityFeatures(entities.features[index], entities.present[index], entities.targets[index])


def gather_units(units: Tensor, index: Tensor) -> Tensor:
    """Select units [..., n, width] by ``index`` int64 [..., m]: [..., m, width]. Index -1 gives any unit."""
    return units.gather(-2, index.clamp(min=0).unsqueeze(-1).expand(*index.shape, units.shape[-1]))


def build_trunk(name: str, entity_width: int, args: SimpleNamespace) -> Trunk:
    """Build the trunk that is registered as ``name``, with its section of the configuration.

    Raises:
        KeyError: no trunk has this name.
    """
    return registry.load(registry.TRUNKS[name])(entity_width, getattr(args, name), args.entity)


def network_settings(name: str, args: SimpleNamespace) -> dict[str, Any]:
    """Return the settings that shape the network ``name``, with flat keys. A checkpoint's weights fit only these."""
    sections = [name, "entity"] if name in registry.TRUNKS else [name] if hasattr(args, name) else []
    settings = {f"{section}.{key}": value for section in sections for key, value in getattr(args, section).items()}
    return {key: value for key, value in settings.items() if key not in LEARNING_KEYS}
