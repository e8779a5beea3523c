"""``learner_full_lora`` and ``learner_cached_trunk``: a whole update, next to the plain port with LoRA on all layers.

An update starts without states kept from play, so that it pays for all that it needs. ``learner_cached_trunk`` is
measured for each of ``--layers``; of several, the number of layers is part of the entry's name.

The plain port has no critic here, the engine has. Its time does not depend on values, so one run of it stands beside
both entries; for the comparison of ``learner_cached_trunk`` its LoRA below the top layers is zero.
"""

from collections.abc import Callable, Sequence

from benchmarks import compare, data, gemm_rate
from benchmarks.bench import Bench
from benchmarks.engine import KL_COEF, Engine
from benchmarks.entry import Entry
from benchmarks.gemm_rate import Work
from benchmarks.timing import alternate


def measure(bench: Bench) -> list[Entry]:
    """Seconds of one update of ``epochs`` epochs, and of the matrix products that remain."""
    engines = {"learner_full_lora": bench.engine()} if "learner_full_lora" in bench.wanted else {}
    if "learner_cached_trunk" in bench.wanted:
        engines |= {name: bench.engine(top) for name, top in _cached_trunks(bench.setting.layers).items()}
    differences = {name: _compared(bench, name, engine) for name, engine in engines.items()}
    batch, device = bench.learner_batch, bench.setting.device
    work = {name: _work(bench, engine) for name, engine in engines.items()}
    sides: dict[str, Callable] = {"baseline": _plain_update(bench)}
    for name, engine in engines.items():
        engine.play(batch)  # the learner compares itself with what was played
        sides[name] = lambda engine=engine: (engine.mac.end_update(), engine.update(batch))
        sides[f"gemm {name}"] = lambda work=work[name]: work.seconds(device, bench.port.frozen.dtype)
    seconds = alternate(sides, bench.setting.learner_repeats, device)
    return [
        Entry(
            name,
            seconds["baseline"],
            seconds[name],
            max_abs_diff=differences[name].largest,
            gemm_fraction=seconds[f"gemm {name}"] / seconds[name],
        )
        for name in engines
    ]


def _cached_trunks(layers: Sequence[int]) -> dict[str, int]:
    """Return the layers with LoRA by the name of the entry."""
    if len(layers) == 1:
        return {"learner_cached_trunk": layers[0]}
    return {f"learner_cached_trunk_{count}": count for count in layers}


def _compared(bench: Bench, name: str, engine: Engine) -> compare.Difference:
    """On one episode: before anything is timed."""
    port = bench.port if engine is bench.engine() else bench.port_of(engine)
    difference = compare.learners(engine, port, data.fullest(bench.learner_batch), bench.setting.baseline_tokens)
    bench.checks |= {f"{name}_gradient_difference_relative": difference.relative}
    return difference.check(bench.setting, name)


def _plain_update(bench: Bench) -> Callable[[], None]:
    advantages = bench.engine().advantages(bench.learner_batch)
    return lambda: bench.port.update(bench.learner_batch, advantages, KL_COEF, bench.setting.baseline_tokens)


def _work(bench: Bench, engine: Engine) -> Work:
    lm, args = bench.port.policy.lm, engine.args
    lowest = lm.config.num_hidden_layers - (args.lora.get("layers") or lm.config.num_hidden_layers)
    own, prefix = engine.own_tokens(bench.learner_batch), len(engine.mac.agent.prompter.prefix)
    reads_positions = engine.mac.agent.backbone.encoder.settings.read_positions
    work = gemm_rate.learner_work(lm, lowest, own, prefix, engine.mac.token_budget, args.epochs, reads_positions)
    bench.checks |= {
        "learner_decisions": int(data.deciding(bench.learner_batch).sum()),
        "learner_tokens": sum(own),
        "learner_tokens_plain": bench.port.prompts.padded_tokens(bench.learner_batch),
    }
    return work
