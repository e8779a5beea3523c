"""Where the time goes: shares of processor time by kind of work, of the plain port and of the engine.

    python -m benchmarks.shares [--model smollm2-135m] [--num-layers 6] [--map 3s5z_vs_3s6z] [--threads 1]

One episode's agents at one step in the middle of a battle: choosing their actions, and one epoch of learning from them.
Prints a Markdown table, by PyTorch's profiler, which slows everything down a little.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import data
from benchmarks.bench import Bench
from benchmarks.engine import KL_COEF
from benchmarks.setting import Setting

# The first kind one of whose words is in an operator's name; what is in none is "elementwise, norms, the rest".
KINDS = {
    "attention": ("scaled_dot_product", "_flash_attention", "softmax", "bmm", "masked_fill"),
    "matrix products": ("mm", "_linear_pointwise", "mkldnn_linear", "aten::linear"),
    "copies": ("copy_", "cat", "index", "gather", "select", "slice", "stack", "contiguous", "clone", "fill_", "zero_"),
}
REST = "elementwise, norms, the rest"


def shares(work: Callable[[], object]) -> dict[str, float]:
    """Of the processor time of ``work``'s operators, by kind; 1 in all. It is done once before."""
    work()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    times: Counter[str] = Counter()
    for event in profiler.key_averages():
        times[kind(event.key)] += event.self_cpu_time_total
    return {name: times[name] / max(1, times.total()) for name in (*KINDS, REST)}


def kind(operator: str) -> str:
    """The kind of work an operator's name stands for."""
    return next((name for name, words in KINDS.items() if any(word in operator for word in words)), REST)


def table(columns: dict[str, dict[str, float]]) -> str:
    """Markdown: a row a kind, a column a side."""
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in (*KINDS, REST):
        lines.append(f"| {name} | {' | '.join(f'{column[name]:.0%}' for column in columns.values())} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="as for llm.model")
    parser.add_argument("--num-layers", type=int, default=6, help="of the model; they are all alike")
    parser.add_argument("--map", default="3s5z_vs_3s6z", help="a SMAX battle")
    parser.add_argument("--threads", type=int, default=1, help="one says most: others' waiting is no work")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    setting = Setting(model=given.model, num_layers=given.num_layers, map_name=given.map, episodes=1, epochs=1)
    setting = replace(setting, steps=1, learner_steps=1, threads=given.threads)
    bench = Bench(setting, [])
    engine, port, batch = bench.engine(), bench.port, data.fullest(bench.learner_batch)
    advantages = engine.advantages(batch)
    engine.play(batch)
    print(
        table(
            {
                "plain port, rollout": shares(lambda: port.play(batch)),
                "engine, rollout": shares(lambda: engine.play(batch)),
                "plain port, learner": shares(lambda: port.update(batch, advantages, KL_COEF, setting.baseline_tokens)),
                "engine, learner": shares(lambda: engine.update(batch)),
            }
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
