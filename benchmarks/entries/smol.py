"""``smol``: ``lolm_mappo_smol`` as configured next to ``lolm_mappo_smol`` as it was (``benchmarks/smol_baseline.py``).

Both play and learn from the same whole battles of SMAX, one after the other in every round. ``--with`` changes the
configured side; ``--map``, ``--model`` and ``--num-layers`` change both.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from statistics import median
from typing import Any

import yaml

from benchmarks import data, smol_baseline
from benchmarks.bench import Bench
from benchmarks.engine import Engine, configured
from benchmarks.entry import Entry
from benchmarks.setting import Setting
from benchmarks.timing import rounds
from lolm_plugin import config_files

SIDES = ("before", "now")
PARTS = ("rollout", "learner", "both")
ALL_STEPS = 10**6


def measure(bench: Bench) -> list[Entry]:
    """Return seconds of the rollout, of the learner and of both."""
    setting = bench.setting
    engines = {side: build(setting, side) for side in SIDES}
    batch = battles(setting)
    decisions = int(data.deciding(batch).sum())
    steps = {}
    for side, engine in engines.items():
        steps[side, "rollout"] = lambda engine=engine: engine.play(batch)
        steps[side, "learner"] = lambda engine=engine: engine.update(batch)
    for step in steps.values():  # a first round sets up libraries and caches
        step()
    seconds = rounds(steps, setting.smol_rounds, setting.device)
    for side in SIDES:
        pairs = zip(seconds[side, "rollout"], seconds[side, "learner"], strict=True)
        seconds[side, "both"] = [sum(pair) for pair in pairs]
    taken = {side: {part: median(seconds[side, part]) for part in PARTS} for side in SIDES}
    bench.sections["smol"] = {
        "map": setting.smol_map,
        "battles": setting.episodes,
        "rounds": setting.smol_rounds,
        "decisions": decisions,
        "updates": setting.updates,
        "decisions_per_second": {
            side: {part: decisions / value for part, value in taken[side].items()} for side in SIDES
        },
    }
    return [Entry(f"smol_{part}", taken["before"][part], taken["now"][part]) for part in PARTS]


def battles(setting: Setting) -> Any:
    """Return all steps of whole battles as one batch."""
    batch = data.batch(data.play(setting.smol_map, setting.episodes, setting.seed), ALL_STEPS)
    batch.to(setting.device)
    return batch


def build(setting: Setting, side: str) -> Engine:
    """Build the engine of ``before`` or ``now``."""
    before = side == "before"
    with smol_baseline.styles(), smol_baseline.last_layer() if before else nullcontext():
        return Engine(configured("lolm_mappo_smol", setting.smol_map, updates(setting, side), setting.device))


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
    speeds = section["decisions_per_second"]
    lines = [
        f"lolm_mappo_smol on {section['map']}, {section['battles']} battles, {section['decisions']} decisions, median "
        f"of {section['rounds']} rounds{''.join(f', now with {update}' for update in section['updates'])}",
        f"{'agent-steps a second':<40}{'before':>10}{'now':>10}{'ratio':>8}",
    ]
    for part in PARTS:
        before, now = (speeds[side][part] for side in SIDES)
        lines.append(f"{part:<40}{before:>10.1f}{now:>10.1f}{now / before:>6.2f} x")
    return "\n".join(lines)
