"""What the entries share: battles, both sides, and what is found out on the way; all made when first used."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from benchmarks import data
from benchmarks.engine import Engine, arguments
from benchmarks.plain_port import PlainPort
from benchmarks.plain_prompts import PlainPrompts
from benchmarks.setting import Setting


class Bench:
    """``wanted`` are the names of the entries to measure; ``checks`` are numbers beside them, by name."""

    def __init__(self, setting: Setting, wanted: Sequence[str]) -> None:
        self.setting = setting
        self.wanted = tuple(wanted)
        self.checks: dict[str, float] = {}
        self.sections: dict[str, Any] = {}  # further numbers of an entry, under keys of their own in the JSON
        self.tick: Callable[[int], None] = lambda tokens: None
        self._engines: dict[int | None, Engine] = {}

    @cached_property
    def battles(self) -> data.Battles:
        """Whole episodes."""
        return data.play(self.setting.map_name, self.setting.episodes, self.setting.seed)

    @cached_property
    def rollout_batch(self) -> Any:
        """What is played in rollout and worded in prompts."""
        return self._batch(self.setting.steps)

    @cached_property
    def learner_batch(self) -> Any:
        """What is learned from."""
        return self._batch(self.setting.learner_steps)

    @cached_property
    def memory_batch(self) -> Any:
        """Steps of one episode, as many as have about ``memory_tokens`` in the plain port; at least one."""
        one = self._batch(1, episodes=1)
        steps = self.setting.memory_tokens // PlainPrompts(arguments(self.setting, None)).padded_tokens(one)
        return self._batch(max(1, steps), episodes=1)

    @cached_property
    def port(self) -> PlainPort:
        """The plain port, with the weights of the engine with LoRA on all layers."""
        return self.port_of(self.engine())

    def port_of(self, engine: Engine) -> PlainPort:
        """A plain port with another engine's weights."""
        return PlainPort(engine.args, engine.mac, lambda tokens: self.tick(tokens))

    def engine(self, lora_layers: int | None = None) -> Engine:
        """The engine with LoRA on as many top layers, None: on all."""
        if lora_layers not in self._engines:
            self._engines[lora_layers] = Engine(arguments(self.setting, lora_layers))
        return self._engines[lora_layers]

    def _batch(self, steps: int, episodes: int | None = None) -> Any:
        batch = data.batch(self.battles, steps, episodes)
        batch.to(self.setting.device)
        return batch

    def planned_tokens(self) -> int:
        """What the plain port will tell ``tick``, about."""
        setting, total = self.setting, 0
        prompts = PlainPrompts(arguments(self.setting, None))
        if "rollout" in self.wanted:
            one, all_of_them = data.fullest(self.rollout_batch), self.rollout_batch
            total += prompts.padded_tokens(one) + setting.repeats * prompts.padded_tokens(all_of_them)
        if learners := sum(name.startswith("learner") for name in self.wanted):
            one, all_of_them = data.fullest(self.learner_batch), self.learner_batch
            learners += len(setting.layers) - 1 if "learner_cached_trunk" in self.wanted else 0
            total += learners * _passes(1) * prompts.padded_tokens(one)  # the comparison
            total += setting.learner_repeats * _passes(setting.epochs) * prompts.padded_tokens(all_of_them)
        return total


def _passes(epochs: int) -> int:
    """Of an update: the old policy's; each epoch's reference, forward and twice as much backward."""
    return 1 + 4 * epochs
