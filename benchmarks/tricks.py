"""What each trick of the engine is worth: one after the other is switched on, on the same prompts.

    python -m benchmarks.tricks [--model smollm2-135m] [--map 3s5z_vs_3s6z] [--steps 2] [--repeats 3] [--threads 2]

The states of all prompts of a few steps of real battles, without gradient. Prints a Markdown table; every line's states
are compared with those of the last.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor

from benchmarks import data
from benchmarks.bench import Bench
from benchmarks.plain_port import last_hidden
from benchmarks.setting import Setting
from benchmarks.timing import alternate
from lolm_plugin import tuning
from lolm_plugin.llm import matmul, packing


class Tricks:
    """The states of the decisions of ``batch``, computed in ever cleverer ways."""

    def __init__(self, bench: Bench) -> None:
        self.batch = bench.rollout_batch
        self.port = bench.port
        self.backbone = bench.engine().mac.agent.backbone
        self.budget = bench.engine().mac.token_budget
        self.deciding = data.deciding(self.batch)
        self.steps = range(self.deciding.shape[1])
        self.chunk = packing.CHUNK["cpu"]
        self.merged = {m: m.__dict__["forward"] for m in self.backbone.lm.modules() if type(m) is LoraLinear}
        own = bench.engine().mac
        self.batches = []
        for t in self.steps:
            at = self.deciding[:, t]
            available = self.batch["avail_actions"][:, t][at] > 0
            tokens = own.agent.prompter.tokens(self.batch["obs"][:, t][at], available, at.nonzero()[:, 1])
            self.batches.append(
                self.backbone.prompt_batch(
                    own.agent.prompter.prefix, torch.from_numpy(tokens.ids).split(tokens.lengths.tolist())
                )
            )

    def ways(self) -> dict[str, Callable[[], Tensor]]:
        """Name of the trick that is added -> the states of all decisions [rows, hidden]."""
        return {
            "plain port: every agent, padded": self.padded_all,
            "+ living agents alone": self.padded_living,
            "+ packed: no padding in linear layers": lambda: self.packed(shared=False),
            "+ the prefix shared": lambda: self.packed(),
            "+ attention skips what the causal mask hides": lambda: self.packed(chunk=True),
            "+ the adapter merged for each product": lambda: self.packed(chunk=True, merged=True),
            "+ the faster library of products": lambda: self.packed(chunk=True, merged=True, product="auto"),
        }

    def padded_all(self) -> Tensor:
        """As the plain port does; of its states those of decisions."""
        found = []
        for t in self.steps:
            states = last_hidden(self.port.policy.lm, self.port.prompts.tokens(self.batch, t))
            found.append(states[self.deciding[:, t].flatten()])
        return torch.cat(found)

    def padded_living(self) -> Tensor:
        """The same model, given the prompts of decisions."""
        found = []
        for batch in self.batches:
            whole = batch.repeat_prefix().ids
            ids = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True)
            lengths = torch.tensor([len(row) for row in whole]).unsqueeze(1)
            mask = (torch.arange(ids.shape[1]) < lengths).long()
            found.append(last_hidden(self.port.policy.lm, {"input_ids": ids, "attention_mask": mask}))
        return torch.cat(found)

    def packed(self, shared: bool = True, chunk: bool = False, merged: bool = False, product: str = "torch") -> Tensor:
        """The engine with some of its tricks off."""
        packing.CHUNK["cpu"] = self.chunk if chunk else 2**30
        matmul.select_backend(product)
        for module, forward in self.merged.items():
            if merged:
                module.forward = forward
            else:
                module.__dict__.pop("forward", None)
        return torch.cat(
            [
                self.backbone.encode(batch if shared else batch.repeat_prefix(), token_budget=self.budget)
                for batch in self.batches
            ]
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--map", default="3s5z_vs_3s6z")
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=tuning.threads("language models"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    setting: dict[str, Any] = {"model": options.model, "map_name": options.map, "episodes": options.episodes}
    with torch.no_grad():
        ways = Tricks(Bench(Setting(**setting, steps=options.steps), ())).ways()
        states = {name: way() for name, way in ways.items()}
        seconds = alternate(ways, options.repeats)
    expected = list(states.values())[-1]
    first = previous = next(iter(seconds.values()))
    print("| | seconds | this step | in all | max abs difference |\n|---|---|---|---|---|")
    for name, taken in seconds.items():
        difference = float((states[name] - expected).abs().max())
        print(f"| {name} | {taken:.2f} | {previous / taken:.2f} × | {first / taken:.2f} × | {difference:.0e} |")
        previous = taken


if __name__ == "__main__":
    main()
