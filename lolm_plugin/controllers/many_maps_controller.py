"""Controller of one policy on many maps: each map has its own controller, and they share their weights."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lolm_plugin.controllers.controller import Controller
from lolm_plugin.controllers.decisions import Decisions, Evaluation
from lolm_plugin.map_batches import MapBatches, pad_to, padded
from lolm_plugin.memory import Part


@dataclass(frozen=True)
class MapDecisions(Decisions):
    """Decisions of several maps: those of the first map, then those of the second, ...

    ``index`` counts episodes over all maps, and ``available`` is padded to the largest number of actions.
    """

    parts: tuple[Decisions, ...]
    maps: tuple[int, ...]  # number of each part's map in the run
    starts: tuple[int, ...]  # number of each part's first decision
    groups: Tensor | None

    @property
    def group_ids(self) -> Tensor | None:
        return self.groups

    def split(self, subset: Tensor) -> list[tuple[int, Tensor]]:
        """Divide ``subset`` int64 [n] by part: the part's number and its own decisions, without empty ones."""
        found = []
        for number, (part, start) in enumerate(zip(self.parts, self.starts, strict=True)):
            inside = subset[(subset >= start) & (subset < start + len(part))]
            if len(inside):
                found.append((number, inside - start))
        return found


class MapStates:
    """Hidden states of the reference model for ``MapDecisions``. An index takes decisions of one map."""

    def __init__(self, decisions: MapDecisions, states: Sequence[Any]) -> None:
        self.decisions, self.states = decisions, states

    def __getitem__(self, subset: Tensor) -> tuple[int, Any, int]:
        """Return the number of the map, the states, and the width to which logits are padded."""
        ((number, own),) = self.decisions.split(subset)
        return self.decisions.maps[number], self.states[number][own], self.decisions.available.shape[1]


class ManyMapsMAC(Controller[MapDecisions]):
    """Controller of a learner with batches of many maps. The maps' own controllers play.

    Args:
        macs: a controller for each map, in the order of the run's maps, with shared weights.
        args: the configuration, with the list of maps.
    """

    def __init__(self, macs: Sequence[Controller], args: SimpleNamespace) -> None:  # no layout: it has no map
        self.macs, self.first, self.args = macs, macs[0], args
        self.agent, self.device, self.n_agents = self.first.agent, self.first.device, args.n_agents
        self.MEMORY_KEYS = self.first.MEMORY_KEYS

    @property
    def example(self) -> str:
        """The first prompt of a language model, for the run's record."""
        return next(filter(None, (getattr(mac, "example", "") for mac in self.macs)), "")

    def begin_test(self, sampled: bool) -> None:
        for mac in self.macs:
            mac.begin_test(sampled)

    def decisions(self, batch: MapBatches, valid: Tensor, t_env: int = 0) -> MapDecisions:  # type: ignore[override]
        parts = []
        for index, part, offset in zip(batch.indices, batch.parts, batch.offsets, strict=True):
            rows = slice(offset, offset + part.batch_size)
            parts.append(self.macs[index].decisions(part, valid[rows, : part.max_seq_length - 1], t_env))
        lengths = [len(part) for part in parts]
        axes = [list(part.index) for part in parts]
        for of_part, offset in zip(axes, batch.offsets, strict=True):
            of_part[0] = of_part[0] + offset
        episode, step, agent = (torch.cat(axis) for axis in zip(*axes, strict=True))
        return MapDecisions(
            index=(episode, step, agent),
            available=padded([part.available for part in parts]),
            parts=tuple(parts),
            maps=tuple(batch.indices),
            starts=tuple(sum(lengths[:i]) for i in range(len(parts))),
            groups=None if parts[0].group_ids is None else episode,
        )

    def microbatches(self, decisions: MapDecisions, subset: Tensor) -> list[Tensor]:
        """Split ``subset`` [n] into microbatches of one map each."""
        return [
            micro + decisions.starts[number]
            for number, own in decisions.split(subset)
            for micro in self._mac(decisions, number).microbatches(decisions.parts[number], own)
        ]

    def evaluate(self, decisions: MapDecisions, subset: Tensor) -> Evaluation:
        """Evaluate a microbatch. The logits of actions that its map lacks are 0."""
        ((number, own),) = decisions.split(subset)
        found = self._mac(decisions, number).evaluate(decisions.parts[number], own)
        return found._replace(logits=pad_to(found.logits, [decisions.available.shape[1]]))

    def _mac(self, decisions: MapDecisions, number: int) -> Controller:
        return self.macs[decisions.maps[number]]

    def reference_states(self, decisions: MapDecisions) -> MapStates:
        parts = enumerate(decisions.parts)
        return MapStates(decisions, [self._mac(decisions, i).reference_states(part) for i, part in parts])

    def reference_logits(self, states: tuple[int, Any, int]) -> Tensor:
        index, of_map, width = states
        return pad_to(self.macs[index].reference_logits(of_map), [width])

    def prepare(self, decisions: MapDecisions) -> None:
        """Measure the feature statistics on the first decisions of all maps together."""
        parts = enumerate(decisions.parts)
        self.first.prepare_together([(self._mac(decisions, i), part) for i, part in parts])

    def use_less_memory(self, part: Part = "policy") -> str | None:
        said = self.first.use_less_memory(part)
        for args in (self.args, *(mac.args for mac in self.macs)):
            args.microbatch = self.first.args.microbatch
        for mac in self.macs[1:]:
            vars(mac).update({name: getattr(self.first, name) for name in self.first.MEMORY_SETTINGS})
        return said

    def pop_usage(self) -> dict[str, float]:
        total: Counter[str] = Counter()
        for mac in self.macs:
            total.update(mac.pop_usage())
        return dict(total)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self.first.parameter_groups()

    def fingerprint(self) -> dict[str, Any]:
        return self.first.fingerprint()

    def ratio_tolerance(self) -> float:
        return self.first.ratio_tolerance()

    def low_precision(self) -> bool:
        return self.first.low_precision()

    def without_stored_states(self, decisions: MapDecisions) -> MapDecisions:
        parts = enumerate(decisions.parts)
        return replace(decisions, parts=tuple(self._mac(decisions, i).without_stored_states(part) for i, part in parts))

    def cuda(self) -> None:
        for mac in self.macs:
            mac.cuda()

    def save_models(self, path: str) -> None:
        self.first.save_models(path)

    def load_models(self, path: str) -> None:
        self.first.load_models(path)

    def transferred(self) -> None:
        self.first.transferred()

    def end_update(self) -> None:
        self.first.end_update()
