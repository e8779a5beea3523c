"""Compare the engine with a plain port of the same method, on real prompts from real SMAX battles.

  python -m benchmarks                              all entries; half an hour on 2 cores, mostly for the plain port
  python -m benchmarks --only rollout --episodes 2       a first impression, in minutes
  python -m benchmarks --only smol --map 3m --with lora.layers=1    try a setting of lolm_mappo_smol
  python -m benchmarks --leg cuda --minutes 8       on a GPU: Qwen3-0.6B's shape with random weights, then a training

The plain port (benchmarks/plain_port.py) is what a direct EPyMARL port would be. Both sides have the same weights and
battles and take turns in one process. Their results are compared first. If they differ, the benchmark ends with code 1.

Entries; the baseline is the plain port unless noted
  prompts               observations to token ids; the baseline writes whole texts and uses the tokenizer
  rollout               choose the actions of all episodes at every step
  learner_full_lora     an update with LoRA on all layers
  learner_cached_trunk  an update with LoRA on the top --layers layers; the baseline has LoRA on all
  memory                peak memory of one epoch of learning above the weights, with equal batches
  env                   one step of a small network in 32 parallel battles, rollout and training; no baseline
  smol                  lolm_mappo_smol on whole battles; in the baseline one of its CPU speed-ups is off, or all
  keep_battles          a test of 32 battles with lolm_mappo_smol and updet_mappo, two kept; the baseline keeps none

Output: a table of medians. "of the GEMM rate": time of the model's matrix products alone divided by the engine's time.
JSON: {"setting", "checks", "entries"}; an entry has name, baseline, engine (seconds; bytes for memory), ratio,
max_abs_diff and gemm_fraction; a value that does not apply is null.

The cuda leg (benchmarks/cuda_leg.py) has its own steps. It ends with a JSON document as the last line of stdout.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from benchmarks import cuda_leg
from benchmarks.engine import configured
from benchmarks.entries import ENTRIES, Bench, Mismatch
from benchmarks.setting import HEADER, Setting, machine
from lolm_plugin.configuration import updates
from lolm_plugin.envs.smax_scenarios import scenario
from lolm_plugin.errors import ConfigError
from lolm_plugin.llm.sources import resolve
from lolm_plugin.prompts.style import build_style
from lolm_plugin.streams import exit_code

LEGS = ("cpu", "cuda")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print. Return 0, 1 if the two sides do not compute the same, or 2 for a user's error."""
    try:
        return exit_code(partial(_main, sys.argv[1:] if argv is None else list(argv)))
    except Mismatch as error:
        print(f"WRONG: {error}", file=sys.stderr)
        return 1


def _main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    names, legs = [name for name in ENTRIES if name in (options.only or ENTRIES)], options.leg or LEGS
    setting = _setting(options)
    if options.dry or legs == ["cuda"]:
        return cuda_leg.main(setting, options.dry, options.minutes, options.output)
    report = {"setting": {**asdict(setting), "machine": machine()}, "checks": {}, "entries": []}
    _write(options.json, report)
    print("\n".join(f"{name} {value}" for name, value in report["setting"].items()), HEADER, sep="\n")
    if "cpu" in legs:
        run(setting, names, report, options.json)
    print("\n".join(f"{name.replace('_', ' ')}: {value:.3g}" for name, value in report["checks"].items()))
    if "cuda" in legs and torch.cuda.is_available():
        return cuda_leg.main(setting, False, options.minutes, options.output)
    if "cuda" in legs:
        print("cuda leg skipped: torch sees no GPU here")
    return 0


def run(setting: Setting, names: Sequence[str], report: dict[str, Any], path: Path | None) -> None:
    """Measure entries. Print each one and add it to the report and the file as soon as it is measured."""
    logging.disable_progress_bar()
    torch.set_num_threads(setting.threads)
    bench = Bench(setting)
    for name in names:
        print(f"{name} ...", file=sys.stderr)
        for entry in ENTRIES[name](bench):
            print(entry)
            report["entries"].append(asdict(entry) | {"ratio": entry.ratio})
        report["checks"] |= bench.checks
        _write(path, report)


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__, formatter_class=form)
    add = parser.add_argument
    add("--only", action="append", choices=list(ENTRIES), help="an entry to measure; may be repeated [all]")
    add("--leg", action="append", choices=LEGS, help="the device; may be repeated [both, cuda only with a GPU]")
    add("--minutes", type=float, default=8.0, help="cuda leg: time for all steps [8]")
    add("--output", type=Path, metavar="DIR", help=f"cuda leg: also write the report to DIR/{cuda_leg.REPORT}")
    add("--dry", action="store_true", help="cuda leg: run every step with tiny shapes on the CPU")
    add("--json", type=Path, metavar="FILE", help="also write the results to this file")
    add("--with", action="append", default=[], metavar="KEY=VALUE", dest="updates", help="an engine setting in smol")
    for option in fields(Setting):
        if text := option.metadata.get("help"):
            kind, name = str if isinstance(option.default, str) else int, option.name.replace("_", "-")
            add(f"--{name}", type=kind, default=option.default, help=f"{text} [{option.default}]")
    return parser


def _setting(options: argparse.Namespace) -> Setting:
    """Check the options, without loading weights or an environment, and return the setting."""
    for name, value in vars(options).items():
        if isinstance(value, int) and not isinstance(value, bool) and not (name != "seed") <= value < 2**32:
            raise ConfigError(f"--{name.replace('_', '-')}={value} is too small or too large; set it to 1 or more.")
    if not options.minutes > 0:
        raise ConfigError(f"--minutes={options.minutes:g} leaves no time; set it to more than 0.")
    for update in options.updates:
        if "=" not in update:
            raise ConfigError(f"--with={update} has no value; write --with=KEY=VALUE, such as --with=lora.layers=1.")
    scenario(options.map)
    build_style(options.style)
    given = {option.name: getattr(options, option.name) for option in fields(Setting) if option.metadata}
    given["model"] = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
    depth = min(options.num_layers or 10**9, resolve(given["model"]).load_config().num_hidden_layers)
    given["layers"] = min(options.layers, max(1, depth // 2))
    configured("lolm_mappo_smol", options.map, updates.parse(options.updates), "cpu")
    return Setting(**given, updates=tuple(options.updates))


def _write(path: Path | None, report: dict) -> None:
    try:
        if path:
            path.write_text(json.dumps(report, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"--json={path} cannot be written ({error.strerror}); name another file.") from error


if __name__ == "__main__":
    sys.exit(main())
