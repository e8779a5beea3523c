"""Record the metrics and weights of short trainings, and compare two records bitwise.

For changes of the code that must not change results.

python -m tests.training_numbers record before.json
python -m tests.training_numbers compare before.json after.json
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
TIMES = {"agent_steps_per_second", "llm_time_share"}  # these measure time
SMALL = (
    *("seed=1", "use_cuda=False", "torch_threads=1", "test_nepisode=8", "log_interval=100", "save_model=True"),
    *("runner_log_interval=1", "learner_log_interval=1", "batch_size_run=16"),
)
TARGET = ("--config=lolm_mappo_tiny", "--env-config=probe", "env_args.map_name=target")
RUNS: dict[str, tuple[str, ...]] = {
    "lolm_mappo_tiny, probe": (*TARGET, "t_max=300", "test_interval=100", "save_model_interval=100"),
    "published head, recompute, minibatches": (
        *("--config=lolm_mappo_tiny", "--env-config=smax", "env_args.map_name=2m_vs_1m"),
        *("head.attack_keys=shared", "head.features=raw", "kl.balance_steps=1", "llm.recompute=True"),
        *("minibatches=2", "t_max=400", "test_interval=400", "prompt.style=paper"),
    ),
    "entity keys, frozen layers kept": (
        *("--config=lolm_mappo_tiny", "--env-config=smax", "env_args.map_name=2s3z"),
        *("head.attack_keys=entity", "lora.layers=1", "prompt.style=terse", "kl.head=initial", "t_max=300"),
        "test_interval=300",
    ),
    "updet_mappo, smax": (
        *("--config=updet_mappo", "--env-config=smax", "env_args.map_name=3m", "t_max=600", "test_interval=300"),
    ),
    "asn_attention_mappo, probe": (
        *("--config=asn_attention_mappo", "--env-config=probe", "env_args.map_name=duel", "t_max=400"),
        "test_interval=200",
    ),
    "dt2gs_mappo, smax": (
        *("--config=dt2gs_mappo", "--env-config=smax", "env_args.map_name=2m_vs_1m", "t_max=400", "minibatches=2"),
        "test_interval=400",
    ),
    "rnn_mappo, smax": (
        *("--config=rnn_mappo", "--env-config=smax", "env_args.map_name=2m_vs_1m", "t_max=400", "test_interval=400"),
    ),
    "supervised runner": (
        *("--config=updet_mappo", "--env-config=probe", "env_args.map_name=duel", "runner=supervised_parallel"),
        *("t_max=300", "test_interval=300", "batch_size_run=4"),
    ),
    "gymma": (
        *("--config=lolm_mappo_tiny", "--env-config=gymma", "env_args.key=lbforaging:Foraging-5x5-2p-1f-v3"),
        *("t_max=300", "test_interval=300", "test_nepisode=4", "batch_size_run=4"),
    ),
    "resumed": ("--resume", "lolm_mappo_tiny, probe", "t_max=600"),
    "transferred": (
        *("--config=lolm_mappo_tiny", "--env-config=probe", "env_args.map_name=duel"),
        *("t_max=300", "test_interval=300", "transfer_from=lolm_mappo_tiny, probe"),
    ),
    "SmolLM2": (
        *("--config=lolm_mappo_smol", "--env-config=smax", "env_args.map_name=3m"),
        *("t_max=200", "test_interval=400", "test_nepisode=4"),
    ),
}


def arguments(name: str, folder: Path) -> list[str]:
    """Return the command line of one run. A run that starts from another finds it in ``folder``."""
    head = [word for word in RUNS[name] if word.startswith("--")]
    rest = [word for word in RUNS[name] if not word.startswith("--")]
    if head == ["--resume"]:
        source, *rest = rest
        return [f"--resume={models(folder / source)}", "--epymarl=none", "with", *rest]
    updates = dict(update.split("=", 1) for update in (*SMALL, *rest))
    if source := updates.get("transfer_from"):
        updates["transfer_from"] = models(folder / source)
    return [*head, "--epymarl=none", "with", *(f"{key}={value}" for key, value in updates.items())]


def models(folder: Path) -> str:
    """Return the checkpoint folder of the only run in ``folder``."""
    (found,) = (folder / "results/models").iterdir()
    return str(found)


def numbers(folder: Path, record: int) -> dict[str, dict]:
    """Return the series of the Sacred record ``record``, and a checksum of each tensor of the last checkpoint.

    Checksums are sorted and have no names, so that modules may be renamed.
    """
    (metrics,) = folder.glob(f"results/sacred/*/*/{record}/metrics.json")
    series = {
        name: [metric["steps"], metric["values"]]
        for name, metric in json.loads(metrics.read_text()).items()
        if name not in TIMES
    }
    last = max(
        (path for path in Path(models(folder)).iterdir() if path.name.isdigit()), key=lambda path: int(path.name)
    )
    tensors = [
        hashlib.sha256(tensor.contiguous().view(-1).numpy().tobytes()).hexdigest()[:16]
        for file in sorted(last.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
        if not name.startswith("random.")
    ]
    return {"series": series, "tensors": sorted(tensors)}


def record(file: Path, only: str) -> None:
    """Train every run in a separate process and write all numbers to ``file``."""
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in RUNS:
            if only not in name:
                continue
            folder = Path(temporary, name)
            resumed = RUNS[name][0] == "--resume"
            if resumed:
                folder = Path(temporary, RUNS[name][1])
            folder.mkdir(exist_ok=True)
            line = [sys.executable, str(ROOT / "main.py"), *arguments(name, Path(temporary))]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name}: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
            found[name] = numbers(folder, 2 if resumed else 1)
            print(f"{name}: {len(found[name]['series'])} series, {len(found[name]['tensors'])} tensors", flush=True)
    file.write_text(json.dumps(found, indent=1))


def compare(before: Path, after: Path) -> bool:
    """Print a line for each run. Return True if all numbers of both records are equal."""
    old, new = json.loads(before.read_text()), json.loads(after.read_text())
    same = True
    for name in old:
        if name not in new:
            print(f"{name}: not recorded again")
            continue
        was, now = old[name]["series"], new[name]["series"]
        changed = sorted(key for key in was if key in now and was[key] != now[key])
        gone, added = sorted(was.keys() - now.keys()), sorted(now.keys() - was.keys())
        weights = old[name]["tensors"] == new[name]["tensors"]
        equal = not (changed or gone or added) and weights
        same &= equal
        kinds = (("changed", changed), ("gone", gone), ("new", added))
        words = [f"{kind} {', '.join(keys)}" for kind, keys in kinds if keys]
        words.append(f"weights {'equal' if weights else 'differ'}")
        print(f"{name}: {'equal' if equal else '; '.join(words)}")
    return same


def main() -> int:
    """Run the command line. Return exit code 1 if numbers differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="train and write the numbers to FILE")
    recording.add_argument("file", type=Path)
    recording.add_argument("--only", default="", help="runs whose name has these words")
    comparing = commands.add_parser("compare", help="compare two files")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    options = parser.parse_args()
    if options.command == "record":
        record(options.file, options.only)
        return 0
    return 0 if compare(options.before, options.after) else 1


if __name__ == "__main__":
    sys.exit(main())
