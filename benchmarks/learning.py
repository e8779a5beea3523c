"""How well and how fast algorithms learn: one run for each algorithm, map and seed, and a Markdown table at the end.

    python benchmarks/learning.py --maps 3m 2s3z --seeds 1 2 3 --workers 2 -- t_max=100000

What stands after `--` goes to every run, after `with`. A run that is there already is not made again, so that a
stopped benchmark goes on. Each worker has one CPU thread; minutes are wall time with all workers at work.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from statistics import mean

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
ALGORITHMS = ("rnn_mappo", "updet_mappo", "asn_attention_mappo", "dt2gs_mappo")


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and print the table; 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS), help="names for --config")
    parser.add_argument("--env", default="smax", help="name for --env-config")
    parser.add_argument("--maps", nargs="+", default=["3m", "2s3z"], help="env_args.map_name")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--workers", type=int, default=1, help="runs at the same time")
    parser.add_argument("--results", type=Path, default=Path("results/learning"), help="a folder for the runs")
    parser.add_argument("updates", nargs="*", help="KEY=VALUE for every run, after --")
    options = parser.parse_args(argv)
    runs = list(product(options.maps, options.seeds, options.algorithms))
    folders = {run: options.results.resolve().joinpath(*map(str, run)) for run in runs}
    missing = [run for run in runs if not _finished(folders[run])]
    with ThreadPoolExecutor(options.workers) as pool, tqdm(total=len(missing), unit="run") as bar:
        for future in [pool.submit(train, options.env, run, folders[run], options.updates) for run in missing]:
            future.result()
            bar.update()
    print(table(folders))
    failed = [run for run in runs if not _finished(folders[run])]
    for run in failed:
        print(f"failed: {' '.join(map(str, run))}; see {folders[run] / 'output.txt'}", file=sys.stderr)
    return int(bool(failed))


def train(env: str, run: tuple[str, int, str], folder: Path, updates: Sequence[str]) -> None:
    """One training in a folder of its own, its output beside its results."""
    map_name, seed, algorithm = run
    folder.mkdir(parents=True, exist_ok=True)
    settings = [f"env_args.map_name={map_name}", f"seed={seed}", "torch_threads=1", "use_cuda=False", *updates]
    command = [sys.executable, str(ROOT / "main.py"), f"--config={algorithm}", f"--env-config={env}", "--epymarl=none"]
    with (folder / "output.txt").open("w") as output:
        subprocess.run(
            [*command, "with", *settings],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )


def table(folders: dict[tuple[str, int, str], Path]) -> str:
    """Markdown: for each map and algorithm the last test win rates, their mean, the mean of the best, and minutes."""
    lines = [
        "| map | algorithm | env steps | test win rate at the end, by seed | mean | best, mean | minutes a run |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Path]] = {}
    for (map_name, _, algorithm), folder in folders.items():
        if _finished(folder):
            groups.setdefault((map_name, algorithm), []).append(folder)
    for (map_name, algorithm), finished in groups.items():
        won = [_metrics(folder)["test_battle_won_mean"] for folder in finished]
        last, best = [curve["values"][-1] for curve in won], [max(curve["values"]) for curve in won]
        steps = max(curve["steps"][-1] for curve in won)
        minutes = mean(_minutes(folder) for folder in finished)
        shown = ", ".join(f"{value:.2f}" for value in last)
        lines.append(
            f"| {map_name} | {algorithm} | {steps} | {shown} | {mean(last):.2f} | {mean(best):.2f} | {minutes:.1f} |"
        )
    return "\n".join(lines)


def _record(folder: Path, name: str) -> Path | None:
    return next((folder / "results/sacred").glob(f"*/*/*/{name}"), None)


def _finished(folder: Path) -> bool:
    record = _record(folder, "run.json")
    return record is not None and json.loads(record.read_text())["status"] == "COMPLETED"


def _metrics(folder: Path) -> dict:
    return json.loads(_record(folder, "metrics.json").read_text())


def _minutes(folder: Path) -> float:
    from datetime import datetime

    run = json.loads(_record(folder, "run.json").read_text())
    began, ended = (datetime.fromisoformat(run[key]) for key in ("start_time", "stop_time"))
    return (ended - began).total_seconds() / 60


if __name__ == "__main__":
    sys.exit(main())
