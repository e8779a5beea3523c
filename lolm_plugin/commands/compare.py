"""``lolm compare SUITE``: run a whole suite, on this machine or on a Ray cluster."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lolm_plugin.configuration.command_line import Parser
from lolm_plugin.paths import config_dir, expand_home, locate, use_host_config_dir
from lolm_plugin.suites import plan, scheduler, suite
from lolm_plugin.suites.scheduler import Scheduler, Show
from lolm_plugin.suites.status_table import DONE, FAILED, RunStatus, StatusTable
from lolm_plugin.suites.workers import LocalWorkers, RayWorkers, Workers

DESCRIPTION = """\
Runs every algorithm of a suite on its maps and transfers, with every seed. If it is stopped, the same command
continues: finished runs are skipped, and interrupted runs resume from their last checkpoint.

Examples
  lolm compare smax_quick --dry-run          print the plan, with times known from finished runs; start nothing
  lolm compare smax_quick                    about 20 minutes on 2 cores; then `lolm report results/suites/smax_quick`
  lolm compare my_suite.yaml --workers 4     your own suite, 4 runs at a time; docs/experiments.md explains its keys
  lolm compare paper --ray auto --gpus 0.5   on a Ray cluster, two runs per GPU
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code, 1 if a run failed and 130 after Ctrl-C."""
    options = _options(arguments)
    wanted = suite.load(options.suite)
    results = Path(expand_home(options.results or f"results/suites/{wanted.name}", "--results")).absolute()
    checkout = locate(options.epymarl)
    use_host_config_dir(config_dir(checkout))
    host = str(checkout.resolve()) if checkout else "none"
    planned = plan.check(wanted.runs(), host, results)
    threads = options.threads or _threads(planned)
    slots = options.workers or max(1, (os.cpu_count() or 1) // threads)
    where = f"{slots} at a time" if options.ray is None else f"as many at a time as Ray at {options.ray} has room for"
    text = plan.describe(planned, f"{where}; results in {results}", slots, wanted.budget)
    print(f"{wanted.name}: {wanted.description}\n\n{text}\n")
    if outside := plan.named(planned):
        print(f"Settings that import, open, fetch, connect to or write to something: {', '.join(outside)}\n")
    if options.dry_run:
        return 0
    with scheduler.locked(results):
        statuses = scheduler.prepare(planned, results, host)
        workers = _workers(options, slots, threads)
        try:
            table = StatusTable(statuses, workers.where)
            with _shown(table) as show:
                code = Scheduler(table, workers, options.retries).run(show)
        finally:
            workers.close()
    print(f"\n{table.count(DONE)} of {len(statuses)} runs are done.")
    for status in statuses:
        if status.state == FAILED:
            print(f"  failed: {status.run.title}: {status.reason}")
    if table.count(DONE) < len(statuses):
        print("Run the same command again to continue.")
    if table.count(DONE):
        print(f"Tables and figures: lolm report {results}")
    return code


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    names = "  ".join(suite.available())
    parser = Parser("lolm compare", DESCRIPTION)
    parser.add_argument("suite", help=f"a suite's yaml file, or one of: {names}")
    parser.add_argument("--dry-run", action="store_true", help="check everything and print the plan; start nothing")
    parser.add_argument("--results", help="folder for all runs; default: results/suites/SUITE")
    parser.add_argument("--workers", type=_count, help="runs at a time on this machine; default: cores / threads")
    parser.add_argument("--threads", type=_count, help="CPU threads per run; default: torch_threads, else all")
    parser.add_argument("--retries", type=int, default=1, help="how often a failed run is tried again; default: 1")
    parser.add_argument("--epymarl", help="EPyMARL's folder, or none, as for lolm train")
    parser.add_argument("--ray", metavar="ADDRESS", help="Ray cluster: HOST:PORT, auto or local (extra: ray)")
    parser.add_argument("--gpus", type=float, default=0.0, help="with --ray: GPUs per run, such as 0.5; default: 0")
    parser.add_argument("--memory-gb", type=float, default=2.0, help="with --ray: GB of memory per run; default: 2")
    return parser.parse_args(list(arguments))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return int(text)


def _threads(planned: Sequence[plan.Planned]) -> int:
    """Return the largest torch_threads of the suite. A run without this key may use every core."""
    return max(item.config.get("torch_threads") or os.cpu_count() or 1 for item in planned)


def _workers(options: argparse.Namespace, slots: int, threads: int) -> Workers:
    if options.ray is None:
        return LocalWorkers(slots, threads)
    return RayWorkers(options.ray, threads, options.gpus, options.memory_gb)


@contextmanager
def _shown(table: StatusTable) -> Iterator[Show]:
    """Display the progress of the runs while the context is open, and yield the function that updates the display.

    In a terminal it is a live table. Elsewhere one line is printed whenever a run ends.
    """
    if not sys.stdout.isatty():

        def print_line(what: RunStatus | str | None) -> None:
            if what is not None:
                print(table.line(what) if isinstance(what, RunStatus) else what, flush=True)

        print(table.headline(), flush=True)
        yield print_line
        return
    from rich.live import Live

    with Live(table.table(), refresh_per_second=2, transient=True) as live:

        def update(what: RunStatus | str | None) -> None:
            if what is not None:
                live.console.print(table.line(what) if isinstance(what, RunStatus) else what, highlight=False)
            live.update(table.table())

        yield update
