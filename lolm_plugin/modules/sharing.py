"""Networks of several maps with one set of weights."""

from typing import Any

import torch
from torch import Tensor, nn

from lolm_plugin.map_batches import MapBatches, pad_to
from lolm_plugin.modules.critics import Critic


def share_weights(source: nn.Module, target: nn.Module) -> None:
    """Replace the parameters and saved buffers of ``target`` by those of ``source``, module by module.

    Both have the same modules. Everything that depends on a map, such as an observation's layout, stays ``target``'s.
    """
    for (name, theirs), (same, ours) in zip(source.named_modules(), target.named_modules(), strict=True):
        assert name == same, f"{name} and {same} are not the same network"
        saved = [key for key in theirs._buffers if key not in theirs._non_persistent_buffers_set]
        for key in (*theirs._parameters, *saved):
            setattr(ours, key, getattr(theirs, key))


class ManyMapsCritic(nn.Module):
    """Critic of several maps: one critic for each, in the order of the run's maps, with shared weights.

    It has the parameters and the saved form of one critic.
    """

    def __init__(self, critics: list[Critic]) -> None:
        super().__init__()
        self.of_maps = critics  # a list, so that no parameter is registered under another name
        for other in critics[1:]:
            share_weights(critics[0], other)

    def evaluate(self, batch: MapBatches, t_env: int, episodes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the values [n, time, agents, 1] and losses [n, time, agents] of ``episodes`` [n]; see ``Critic``.

        Steps and agents are padded with zeros to those of the greatest map.
        """
        sizes = (batch.max_seq_length, max(agents for _, agents in batch))
        order, values, losses = [], [], []
        for index, part, offset in zip(batch.indices, batch.parts, batch.offsets, strict=True):
            rows = ((episodes >= offset) & (episodes < offset + part.batch_size)).nonzero().squeeze(-1)
            if len(rows):
                of_part, auxiliary = self.of_maps[index].evaluate(part, t_env, episodes[rows] - offset)
                order.append(rows)
                values.append(pad_to(of_part, (*sizes, 1)))
                losses.append({name: pad_to(loss, sizes) for name, loss in auxiliary.items()})
        back = torch.cat(order).argsort()
        return torch.cat(values)[back], {name: torch.cat([each[name] for each in losses])[back] for name in losses[0]}

    def parameters(self, recurse: bool = True) -> Any:
        return self.of_maps[0].parameters(recurse)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.of_maps[0].state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.of_maps[0].load_state_dict(*args, **kwargs)

    def cuda(self, device: Any = None) -> "ManyMapsCritic":
        for critic in self.of_maps:  # moves the shared parameters once; other tensors belong to each
            critic.cuda(device)
        return self
