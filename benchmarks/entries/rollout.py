"""``rollout``: choosing the actions of all episodes at every step, prompts included."""

from benchmarks import compare, data, gemm_rate
from benchmarks.bench import Bench
from benchmarks.entry import Entry
from benchmarks.timing import alternate


def measure(bench: Bench) -> list[Entry]:
    """Seconds for all steps of the batch, and of the matrix products that remain."""
    setting, engine, port = bench.setting, bench.engine(), bench.port
    batch = bench.rollout_batch
    difference = compare.rollouts(engine, port, data.fullest(batch)).check(setting, "rollout")
    own = [engine.own_tokens(batch, t) for t in range(batch.max_seq_length - 1)]
    prefix, budget = len(engine.mac.agent.prompter.prefix), engine.mac.token_budget
    work = gemm_rate.rollout_work(
        port.frozen, own, prefix, budget, engine.mac.agent.backbone.encoder.settings.read_positions
    )
    sides = {
        "baseline": lambda: port.play(batch),
        "engine": lambda: engine.play(batch),
        "gemm": lambda: work.seconds(setting.device, port.frozen.dtype),
    }
    seconds = alternate(sides, setting.repeats, setting.device)
    bench.checks |= {"rollout_tokens": sum(map(sum, own)), "rollout_tokens_plain": port.prompts.padded_tokens(batch)}
    fraction = seconds.pop("gemm") / seconds["engine"]
    return [Entry("rollout", **seconds, max_abs_diff=difference.largest, gemm_fraction=fraction)]
