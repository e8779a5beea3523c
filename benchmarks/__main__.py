"""The engine next to a plain port of the same method, on real prompts from real SMAX battles.

  python -m benchmarks                              everything; half an hour on 2 cores, nearly all the plain port's
  python -m benchmarks --only rollout --episodes 2       a first impression, in minutes
  python -m benchmarks --only learner_full_lora --only learner_cached_trunk --style compact
  python -m benchmarks --model tiny-gemma3 --map 3m                          any model; this one takes seconds
  python -m benchmarks --only smol --with lora.layers=1       try a setting of lolm_mappo_smol before it is its default
  python -m benchmarks --leg cuda                   on a GPU: bfloat16, Qwen3-0.6B's shape

The plain port (benchmarks/plain_port.py) is what a direct EPyMARL port would be: full right-padded prompts of every
agent, one forward a step, a deep-copied old policy, a second frozen model evaluated in every epoch. Both sides have the
same weights and the same data and take turns in one process; logits and gradients are compared first, and the benchmark
ends with code 1 if they differ.

Entries
  prompts               observations to token ids; the f-string and tokenizer path is the baseline
  rollout               choosing the actions of all episodes at every step
  learner_full_lora     a whole update with LoRA on all layers
  learner_cached_trunk  the same with LoRA on the top --layers layers; the baseline has it on all (of several --layers
                        each is an entry learner_cached_trunk_N)
  memory                peak of one learning epoch above the weights, at equal batch
  load                  model and tokenizer from disk, next to Hugging Face's own call
  env                   a step of a battle, many at once, played by a small network; it has no plain port
  smol                  lolm_mappo_smol as its yaml says now, next to itself before it was made faster; no plain port

Output: a table of medians, "of the GEMM rate" being the seconds that the model's own matrix products take alone for the
tokens that remain, measured in the same run, by the engine's seconds. JSON: {"setting", "checks", "entries"}; an entry
has name, baseline, engine (seconds; bytes for memory), ratio, max_abs_diff and gemm_fraction, null where one does not
apply, and those of the cuda leg are called cuda_NAME.

smol plays whole battles of 3m, or of --map if given, learns from all their steps, and prints a table of its own:
agent-steps a second of rollout, learner and both; peak memory; and a profile of both sides, which is the key "smol" of
the JSON. A layer pass is one token through one decoder layer, divided by the tokens of all decisions; a last layer that
runs only where it is read counts by its share of the layer's products. Its GEMM rate is that of exactly the products
that hooks on the model counted, run alone. --with changes the side called now, --model and --num-layers both sides.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.entries import NAMES, ON_CUDA
from benchmarks.entry import Entry, table
from benchmarks.setting import Setting, machine
from lolm_plugin.errors import ConfigError, did_you_mean

LEGS = ("cpu", "cuda")
Keep = Callable[[list[Entry], dict[str, float], dict[str, Any]], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 2 for what the user can mend, 1 if the two sides compute different things."""
    from benchmarks.compare import Mismatch

    try:
        return _main(sys.argv[1:] if argv is None else list(argv))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Mismatch as error:
        print(f"WRONG: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return 130


def _main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    names = _known("--only", options.only, NAMES)
    legs = _known("--leg", options.leg, LEGS)
    if options.json:
        _check_writable(options.json)
    setting = _setting(options)
    entries: list[Entry] = []
    report: dict[str, Any] = {"setting": {**asdict(setting), "machine": machine()}, "checks": {}}

    def keep(measured: list[Entry], checks: dict[str, float], sections: dict[str, Any]) -> None:
        """Written at once: an hour's numbers are not to wait for the last of them."""
        entries.extend(measured)
        report["checks"] |= checks
        report.update(sections)
        if options.json:
            shown = {**report, "entries": [entry.as_json() for entry in entries]}
            options.json.write_text(json.dumps(shown, indent=2) + "\n")

    keep([], {}, {})
    if "cpu" in legs:
        run(setting, names, keep)
    if "cuda" in legs:
        _on_cuda(setting, [name for name in names if name in ON_CUDA], keep)
    if entries:
        print(_printed(report, entries))
    return 0


def run(setting: Setting, names: Sequence[str], keep: Keep = lambda measured, checks, sections: None) -> list[Entry]:
    """One leg: the entries called ``names``; ``keep`` is given each as it comes, with what else was found out."""
    import torch

    from benchmarks.bench import Bench
    from benchmarks.entries import functions
    from benchmarks.progress import Progress

    _quieten()
    torch.set_num_threads(setting.threads)
    bench, entries, done = Bench(setting, names), [], set()
    with Progress(bench.planned_tokens()) as bar:
        bench.tick = bar.tick
        for name, function in functions().items():
            if name in names and function not in done:
                done.add(function)  # one function may measure several entries
                bar.stage(name)
                measured = function(bench)
                for line in table(measured).splitlines()[1:]:
                    bar.say(line)
                entries += measured
                keep(measured, bench.checks, bench.sections)
    return entries


def _on_cuda(cpu: Setting, names: list[str], keep: Keep) -> None:
    from benchmarks import cuda_leg

    if not cuda_leg.available():
        print(cuda_leg.SKIPPED)
        return

    def renamed(measured: list[Entry], checks: dict[str, float], sections: dict[str, Any]) -> None:
        called = [replace(entry, name=f"cuda_{entry.name}") for entry in measured]
        keep(called, *({f"cuda_{name}": value for name, value in found.items()} for found in (checks, sections)))

    with cuda_leg.setting(cpu) as setting:
        run(setting, names, renamed)


def _printed(report: dict[str, Any], entries: list[Entry]) -> str:
    setting, found = report["setting"], {entry.name: entry for entry in entries}
    machine = ", ".join(f"{name} {value}" for name, value in setting["machine"].items() if value is not None)
    compared = [entry for entry in entries if not entry.name.startswith("smol_")]
    lines = [
        f"{setting['model']}, {setting['map_name']}, {setting['style']} prompts, {setting['episodes']} episodes, "
        f"{setting['steps']} of their steps ({setting['learner_steps']} to learn from), {setting['epochs']} epochs, "
        f"{setting['threads']} threads",
    ]
    lines = [*(lines if compared else [f"{setting['threads']} threads"]), machine, ""]
    lines += [table(compared)] if compared else []
    lines += [f"{name.replace('_', ' ')}: {value:.3g}" for name, value in report["checks"].items()]
    if {"prompts", "rollout"} <= found.keys():
        lines.append(f"prompts are {found['prompts'].engine / found['rollout'].engine:.2%} of the engine's rollout")
    if "smol" in report:
        from benchmarks.entries import smol

        lines.append(smol.table(report["smol"]))
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see python -m benchmarks --help.")


def _parser() -> argparse.ArgumentParser:
    default = Setting()
    parser = _Parser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", action="append", metavar="NAME", help=f"an entry; may be repeated: {', '.join(NAMES)}")
    add("--leg", action="append", metavar="LEG", help="cpu or cuda; both without it, cuda only where there is a GPU")
    add("--json", type=Path, metavar="FILE", help="write the numbers to this file, too")
    add("--model", help=f"name or folder, as for llm.model [{default.model}]")
    add("--num-layers", type=_positive, help="keep only the first layers of the model [all]")
    add("--map", help=f"a SMAX battle [{default.map_name}; of smol {default.smol_map}]")
    add("--style", default=default.style, help=f"prompt.style [{default.style}]")
    counts = {
        "episodes": "battles played at once",
        "steps": "steps taken evenly out of the battles for prompts and rollout",
        "learner-steps": "the same for the learner",
        "repeats": "rounds of rollout, of which medians count; at least 3 of prompts and load",
        "learner-repeats": "rounds of the learner",
        "epochs": "of an update",
        "smol-rounds": "rounds of smol",
        "baseline-tokens": "padded tokens whose graph the plain port holds at once; memory, not results",
        "env-seconds": "how long each measurement of env takes",
        "memory-tokens": "padded tokens in the batch of memory, whose graph the plain port holds whole",
    }
    for name, text in counts.items():
        value = getattr(default, name.replace("-", "_"))
        add(f"--{name}", type=_positive, default=value, metavar="N", help=f"{text} [{value}]")
    layers = f"of learner_cached_trunk; may be repeated [{default.layers[0]}, or half of fewer]"
    add("--layers", type=_positive, action="append", metavar="N", help=layers)
    add("--with", action="append", default=[], metavar="KEY=VALUE", dest="updates", help="a key of smol's second side")
    add("--threads", type=_positive, metavar="N", help="of torch [its own choice]")
    add("--seed", type=int, default=default.seed, help=f"of battles and adapter [{default.seed}]")
    return parser


def _setting(options: argparse.Namespace) -> Setting:
    """Checked without loading a model or an environment."""
    import torch

    from lolm_plugin.envs.smax_scenarios import scenario
    from lolm_plugin.llm.sources import resolve
    from lolm_plugin.prompts.style import build_style

    map_name, model = options.map or Setting.map_name, options.model or Setting.model
    scenario(map_name)
    build_style(options.style)
    if not 0 <= options.seed < 2**32:
        raise ConfigError(f"--seed={options.seed} is no seed; set it to a whole number from 0 to 4294967295.")
    given = vars(options)
    model = str(Path(model).resolve()) if Path(model).is_dir() else model
    source = resolve(model)
    depth = min(options.num_layers or 10**9, source.load_config().num_hidden_layers)
    layers = tuple(dict.fromkeys(options.layers or [min(*Setting.layers, max(1, depth // 2))]))
    if (most := max(layers)) > depth:
        raise ConfigError(f"--layers={most} is more than the {depth} layers of {model}; set it to {depth} or fewer.")
    copied = ("num_layers", "style", "episodes", "steps", "learner_steps", "repeats", "learner_repeats", "epochs")
    copied += ("baseline_tokens", "memory_tokens", "env_seconds", "seed", "smol_rounds")
    threads = options.threads or torch.get_num_threads()
    kept = {name: given[name] for name in copied}
    kept |= {"smol_map": options.map or Setting.smol_map, "smol_model": model if options.model else None}
    setting = Setting(
        model=model, map_name=map_name, layers=layers, threads=threads, updates=tuple(options.updates), **kept
    )
    _check_updates(setting)
    return setting


def _check_updates(setting: Setting) -> None:
    """Raise ConfigError for a ``--with`` that ``lolm_mappo_smol`` does not take."""
    from benchmarks.engine import configured
    from benchmarks.entries import smol

    for update in setting.updates:
        if "=" not in update:
            raise ConfigError(f"--with={update} has no value; write --with=KEY=VALUE, such as --with=lora.layers=1.")
    configured("lolm_mappo_smol", setting.smol_map, smol.updates(setting, "now"), setting.device)


def _quieten() -> None:
    """Libraries say nothing that would tear the bar."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _known(option: str, given: list[str] | None, known: Sequence[str]) -> list[str]:
    for name in given or []:
        if name not in known:
            raise ConfigError(f"{option}={name} is unknown{did_you_mean(name, known)}; use {', '.join(known)}.")
    return [name for name in known if name in given] if given else list(known)


def _check_writable(path: Path) -> None:
    try:
        path.open("a").close()
    except OSError as error:
        raise ConfigError(f"--json={path} cannot be written ({error.strerror}); name another file.") from error


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
