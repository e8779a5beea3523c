"""Base of the entity networks: tokens of any number of units in, features of each unit out.

Actors put an action head on the features, critics a mean and a value. No parameter depends on how many units there are,
so that weights move between maps.
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
from lolm_plugin.observations.entity_tokens import EntityTokens

# Keys that say how a network is learned or initialised, not what it computes.
LEARNING_KEYS = ("dt2gs.noise_mode", "dt2gs.reconstruction_coef", "dt2gs.subtask_kl_coef", "entity.init_gain")


class Features(NamedTuple):
    """Output of a trunk for the observing agent and the units around it, with leading dimensions ``[...]``."""

    own: Tensor  # [..., width], of the agent itself
    targets: Tensor  # [..., n_targets, width]; meaningless where there is no token for a target
    units: Tensor  # [..., m, width], averaged by a critic
    counted: Tensor  # bool [..., m]: the units in that average
    memory: Tensor  # [..., memory_width], after the step
    losses: Mapping[str, Tensor] = {}  # name -> [...], weighted: auxiliary losses
    attention: Tensor | None = None  # [..., n], without gradient: where the own token attends, sums to 1
    subtask: Tensor | None = None  # [..., subtasks], without gradient: one-hot

    def map(self, change: Callable[..., Tensor], *others: Self) -> Self:
        """Apply ``change`` to every tensor; with ``others``, to the tensors of the same name in each of them."""

        def apply(*values: Any) -> Any:
            if isinstance(values[0], Mapping):
                return {name: apply(*(value[name] for value in values)) for name in values[0]}
            return None if values[0] is None else change(*values)

        return type(self)(*map(apply, self, *others))


class Trunk(nn.Module):
    """Base class; ``shape`` is a network's own config section, ``entity`` the shared one.

    A trunk without memory implements ``forward``; one with memory implements ``unroll``, or ``forward`` if it cannot
    compute many steps faster than one by one.
    """

    width: int  # of the features
    memory_width: int = 0  # of the state that an agent carries from step to step
    noise_width: int = 0  # of the noise that it draws at each step
    noise_mode: str = "stored"  # see ``Policy.noise_mode``
    every_unit: bool = True  # False: compute features of the own token and of targets alone, all that a policy reads

    def __init__(self, token_width: int, shape: Mapping[str, Any], entity: Mapping[str, Any]) -> None:
        super().__init__()
        self.gains = Gains.of(entity)
        self.mask_absent = entity["mask_absent"]

    def forward(self, tokens: EntityTokens, memory: Tensor, noise: Tensor | None = None) -> Features:
        """Compute one step of tokens [..., agents, n, width], or of single agents where there is no memory.

        ``memory`` [..., memory_width] is zeros when an episode begins. ``noise`` [..., noise_width] comes from
        ``noise``; None: decide greedily.
        """
        one = self.unroll(at(tokens, None), memory, None if noise is None else noise.unsqueeze(0))
        return one.map(lambda value: value[0])

    def unroll(self, tokens: EntityTokens, memory: Tensor, noise: Tensor | None = None) -> Features:
        """Compute many steps: tokens and noise [time, ...], memory [...] before the first; all results [time, ...]."""
        steps = len(tokens.tokens)
        if not self.memory_width:
            return self(tokens, memory.expand(steps, *memory.shape), noise)
        results: list[Features] = []
        for t in range(steps):
            results.append(self(at(tokens, t), memory, None if noise is None else noise[t]))
            memory = results[-1].memory
        return results[0].map(lambda *values: torch.stack(values), *results[1:])

    def noise(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        """Draw noise [*shape, noise_width]."""
        return torch.zeros(*shape, 0)

    def make_head(self) -> nn.Module:
        """Build the action head: ``head(own, targets, tokens.targets)`` -> logits [..., 6 + n_targets]."""
        return MeanActionHead(self.width, self.gains.head)

    def queries(self, tokens: EntityTokens, units: Tensor) -> Tensor:
        """Select the units [..., n, width] whose features are read: all, or the own one and the targets."""
        if self.every_unit:
            return units
        return torch.cat([units[..., :1, :], pick(units, tokens.targets)], dim=-2)

    def split(self, tokens: EntityTokens, units: Tensor) -> dict[str, Any]:
        """Split the features of the ``queries`` into the fields ``own``, ``targets``, ``units`` and ``counted``."""
        if self.every_unit:
            targets, counted = pick(units, tokens.targets), self.counted(tokens.present)
        else:
            targets, counted = units[..., 1:, :], torch.ones_like(units[..., 0], dtype=torch.bool)
        return {"own": units[..., 0, :], "targets": targets, "units": units, "counted": counted}

    def allowed(self, tokens: EntityTokens) -> Tensor | None:
        """Select the tokens bool [..., n] that can be attended to, always the own one; None: all."""
        if not self.mask_absent:
            return None
        allowed = tokens.present.clone()
        allowed[..., 0] = True
        return allowed

    def counted(self, present: Tensor) -> Tensor:
        """Select the units that a critic averages, of those ``present`` bool [..., m]."""
        return present if self.mask_absent else torch.ones_like(present)


def at(tokens: EntityTokens, index: Any) -> EntityTokens:
    """Index the leading dimensions of tokens."""
    return EntityTokens(tokens.tokens[index], tokens.present[index], tokens.targets[index])


def pick(units: Tensor, tokens: Tensor) -> Tensor:
    """Pick of units [..., n, width] those of the ``tokens`` int64 [..., m]: [..., m, width]; for token -1 any unit."""
    return units.gather(-2, tokens.clamp(min=0).unsqueeze(-1).expand(*tokens.shape, units.shape[-1]))


def build_trunk(name: str, token_width: int, args: SimpleNamespace) -> Trunk:
    """Build the registered trunk of this name in the shape of its section of the configuration."""
    return registry.load(registry.TRUNKS[name])(token_width, getattr(args, name), args.entity)


def network_settings(name: str, args: SimpleNamespace) -> dict[str, Any]:
    """Return the settings that shape the network ``name``, flat: a checkpoint's weights fit no others."""
    sections = [name, "entity"] if name in registry.TRUNKS else [name] if hasattr(args, name) else []
    settings = {f"{section}.{key}": value for section in sections for key, value in getattr(args, section).items()}
    return {key: value for key, value in settings.items() if key not in LEARNING_KEYS}
