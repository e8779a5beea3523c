"""``prompts``: observations to token ids, of the decisions of a rollout step by step.

The plain port fills in its f-strings and calls the tokenizer. Here it is given the living agents alone and tokenises
only what differs between prompts, so that both sides do the same: the ratio is that of the words, not of the dead.
"""

from typing import Any

from benchmarks import data
from benchmarks.bench import Bench
from benchmarks.compare import Mismatch
from benchmarks.entry import Entry
from benchmarks.plain_prompts import PlainPrompts
from benchmarks.plain_scene import scenes
from benchmarks.timing import alternate


def measure(bench: Bench) -> list[Entry]:
    """Seconds for all steps of the rollout."""
    engine = bench.engine()
    prompter, plain = engine.mac.agent.prompter, PlainPrompts(engine.args)
    steps = decisions(bench.rollout_batch)

    def by_hand() -> list[list[list[int]]]:
        return [_plain(plain, *step) for step in steps]

    def by_engine() -> list[list[list[int]]]:
        return [prompter.encode(*step) for step in steps]

    difference = _difference(by_hand(), by_engine())
    seconds = alternate({"baseline": by_hand, "engine": by_engine}, max(3, bench.setting.repeats))
    bench.checks["prompt_rows"] = sum(len(agents) for _, _, agents in steps)
    return [Entry("prompts", **seconds, max_abs_diff=difference)]


def decisions(batch: Any) -> list[tuple]:
    """For every step the observations, masks and numbers of the agents that have a choice."""
    rows = data.deciding(batch)
    steps = []
    for t in range(rows.shape[1]):
        at = rows[:, t]
        available = batch["avail_actions"][:, t][at] > 0
        steps.append((batch["obs"][:, t][at], available, at.nonzero()[:, 1]))
    return steps


def _plain(plain: PlainPrompts, obs: Any, available: Any, agents: Any) -> list[list[int]]:
    seen = scenes(plain.layout, obs, available, agents, plain.dynamic)
    texts = [plain.describe(scene) for scene in seen]
    return plain.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def _difference(first: list, second: list) -> float:
    """0: token ids are equal or wrong."""
    if [list(map(list, step)) for step in first] != [list(map(list, step)) for step in second]:
        raise Mismatch("prompts: engine and plain port do not have the same token ids; the benchmark ends here.")
    return 0.0
