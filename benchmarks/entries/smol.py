"""``smol``: ``lolm_mappo_smol`` as configured next to ``lolm_mappo_smol`` as it was (``benchmarks/smol_baseline.py``).

Both play and learn from the same whole battles of SMAX, one after the other in every round. ``--with`` changes the
configured side; ``--map``, ``--model`` and ``--num-layers`` change both.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks import data, smol_baseline
from benchmarks.bench import Bench
from benchmarks.engine import Engine, configured
from benchmarks.entries import memory
from benchmarks.entry import Entry
from benchmarks.setting import Setting
from benchmarks.smol_profile import PHASES, SHARES, Product, profile, seconds_alone
from benchmarks.timing import rounds
from lolm_plugin.configuration import config_files
from lolm_plugin.modules.heads import PLAYED

SIDES = ("before", "now")
PARTS = ("rollout", "learner", "both")
ALL_STEPS = 10**6


def measure(bench: Bench) -> list[Entry]:
    """Return seconds of the rollout, of the learner and of both, and the peak memory of both."""
    setting, batch = bench.setting, battles(bench.setting)
    sides: dict[tuple[str, str], Callable[[], float | None]] = {}
    profiles: dict[str, dict[str, Any]] = {}
    for side in SIDES:
        engine = build(setting, side)
        profiles[side], products = profile(engine, batch)  # sets up libraries and caches, too
        sides |= _parts(side, engine, batch, products)
    taken = rounds(sides, setting.smol_rounds, setting.device)
    for name in [*SIDES, *(f"gemm {side}" for side in SIDES)]:
        pairs = zip(taken[name, "rollout"], taken[name, "learner"], strict=True)
        taken[name, "both"] = [sum(pair) for pair in pairs]
    seconds = {name: median(times) for name, times in taken.items()}
    decisions = int(data.deciding(batch).sum())
    peaks = _peaks(setting, batch)
    for side, numbers in profiles.items():
        numbers |= {
            "decisions_per_second": {part: decisions / seconds[side, part] for part in PARTS},
            "gemm_fraction": {part: seconds[f"gemm {side}", part] / seconds[side, part] for part in PARTS},
            "peak_bytes": peaks.get(side),
        }
    bench.sections["smol"] = {
        "map": setting.smol_map,
        "battles": setting.episodes,
        "rounds": setting.smol_rounds,
        "decisions": decisions,
        "updates": list(setting.updates),
        **profiles,
    }
    fractions = profiles["now"]["gemm_fraction"]
    entries = [
        Entry(f"smol_{part}", seconds["before", part], seconds["now", part], gemm_fraction=fractions[part])
        for part in PARTS
    ]
    return entries + ([Entry("smol_memory", peaks["before"], peaks["now"])] if peaks else [])


def _parts(side: str, engine: Engine, batch: Any, products: Mapping[Product, int]) -> dict[tuple[str, str], Callable]:
    """Return what is timed of a side, in this order: an update needs the states that its play has kept.

    Products are timed right beside what they are compared with, as a busy machine's speed drifts.
    """
    like = next(engine.mac.agent.backbone.parameters())
    return {
        (side, "rollout"): lambda: engine.play(batch),
        (f"gemm {side}", "rollout"): lambda: seconds_alone(products, PHASES[:1], like),
        (side, "learner"): lambda: engine.update(batch),
        (f"gemm {side}", "learner"): lambda: seconds_alone(products, PHASES[1:], like),
    }


def _peaks(setting: Setting, batch: Any) -> dict[str, float]:
    """Return each side's peak bytes above its weights, measured in a separate process; {} where that cannot be."""
    if not memory.measurable():
        return {}
    with TemporaryDirectory(prefix="lolm-benchmark-") as folder:
        files = Path(folder, "setting.json"), Path(folder, "batch.pt")
        setting.write(files[0])
        data.save(batch, files[1])
        try:
            return {side: memory.peak(side, *files) for side in SIDES}
        except memory.ChildDied as reason:  # must not cost what was measured before
            print(f"peak memory of smol skipped: {reason}")
            return {}


def battles(setting: Setting) -> Any:
    """Return all steps of whole battles as one batch."""
    batch = data.batch(data.play(setting.smol_map, setting.episodes, setting.seed), ALL_STEPS)
    batch.to(setting.device)
    return batch


def build(setting: Setting, side: str) -> Engine:
    """Build the engine of ``before`` or ``now``."""
    before = side == "before"
    with smol_baseline.styles(), smol_baseline.last_layer() if before else nullcontext():
        engine = Engine(configured("lolm_mappo_smol", setting.smol_map, updates(setting, side), setting.device))
    head = engine.mac.agent.head
    if head.needs_statistics:  # happens once a run, so it is neither timed nor counted
        engine.mac.agent.measure_features()
        head.normaliser.measured.fill_(PLAYED)
    return engine


def updates(setting: Setting, side: str) -> dict[str, Any]:
    """Return what is set on top of ``lolm_mappo_smol``'s yaml."""
    changes = smol_baseline.SETTINGS if side == "before" else parsed(setting.updates)
    both = {"model": setting.smol_model, "num_layers": setting.num_layers}
    given = {name: value for name, value in both.items() if value is not None}
    return config_files.merge({"seed": setting.seed, **changes}, {"llm": given} if given else {})


def parsed(updates: Sequence[str]) -> dict[str, Any]:
    """Return KEY=VALUE texts as nested settings, their values read as yaml."""
    settings: dict[str, Any] = {}
    for text in updates:
        key, _, value = text.partition("=")
        nested = yaml.safe_load(value)
        for name in reversed(key.split(".")):
            nested = {name: nested}
        settings = config_files.merge(settings, nested)
    return settings


def table(section: Mapping[str, Any]) -> str:
    """Format the section ``smol`` of the JSON for people."""
    before, now = (section[side] for side in SIDES)
    form = "{:<52}{:>10}{:>10}{:>9}".format
    lines = [
        f"lolm_mappo_smol on {section['map']}, {section['battles']} battles, {section['decisions']} decisions, median "
        f"of {section['rounds']} rounds{''.join(f', now with {update}' for update in section['updates'])}",
        form("agent-steps (decisions) a second", *SIDES, "ratio"),
    ]
    for part in PARTS:
        old, new = (numbers["decisions_per_second"][part] for numbers in (before, now))
        lines.append(form(part, f"{old:.1f}", f"{new:.1f}", f"{new / old:.2f} x"))
    if before["peak_bytes"]:
        sizes = [numbers["peak_bytes"] for numbers in (before, now)]
        lines.append(form("peak memory above the weights", *map(_megabytes, sizes), f"{sizes[0] / sizes[1]:.2f} x"))
    lines.append(
        form("of these, states kept for the update", *(_megabytes(n["kept_states_bytes"]) for n in (before, now)), "")
    )
    lines += ["", form("what is left", *SIDES, "")]
    lines += [form(name, *(value.format(x) for x in pair), "") for name, value, pair in _profile_rows(before, now)]
    return "\n".join(lines)


def _profile_rows(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[float, float]]]:
    """Yield name, format and both sides' values of each line of the profile."""
    yield "tokens a decision", "{:.1f}", (before["tokens_per_decision"], now["tokens_per_decision"])
    yield "tokens of the shared prefix", "{:d}", (before["prefix_tokens"], now["prefix_tokens"])
    name = "distinct_prompts_per_decision"
    yield "distinct prompts a decision", "{:.2f}", (before[name], now[name])
    for phase in PHASES:
        passes = before["layer_passes"][phase], now["layer_passes"][phase]
        yield f"layer passes a decision: {phase}", "{:.2f}", tuple(p["below"] for p in passes)
        yield "  and of the last layer", "{:.2f}", tuple(p["last"] for p in passes)
    totals = [sum(sum(p.values()) for p in numbers["layer_passes"].values()) for numbers in (before, now)]
    yield "layer passes a decision: all", "{:.2f}", tuple(totals)
    for part in PARTS:
        yield f"of the GEMM rate: {part}", "{:.0%}", (before["gemm_fraction"][part], now["gemm_fraction"][part])
    for share in SHARES:
        yield f"time: {share}", "{:.1%}", (before["time_shares"][share], now["time_shares"][share])


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB"
