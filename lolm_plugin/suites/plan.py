"""Plan a suite: check every command line and estimate the time, before any run starts."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from lolm_plugin import registry
from lolm_plugin.configuration import checkpoint_config, command_line
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import hidden
from lolm_plugin.suites import cost, run_process
from lolm_plugin.suites.suite import Budget, Run
from lolm_plugin.tracking import record_files
from lolm_plugin.wording import duration, several


class Planned(NamedTuple):
    """A run with its configuration. ``seconds`` is its estimated time, None until a run with the same key finished."""

    run: Run
    config: Mapping[str, Any]
    seconds: float | None = None

    @property
    def key(self) -> tuple[str, str, bool]:
        """Return (algorithm, map, is zero-shot). Runs with the same key are assumed to have the same speed."""
        return self.run.algorithm, self.run.map_name, self.run.kind == "zero_shot"

    @property
    def steps(self) -> int:
        return self.config["test_nepisode"] * cost.TEST_STEPS if self.run.kind == "zero_shot" else self.config["t_max"]

    def estimate(self, budget: Budget) -> float | None:
        """Estimate the seconds of the run: measured if known, otherwise by arithmetic. None: the sizes are unknown."""
        if self.seconds is not None:
            return self.seconds
        return cost.seconds(self.config, budget.rates, evaluates=self.run.kind == "zero_shot")


def check(runs: Sequence[Run], host: str, results: Path) -> list[Planned]:
    """Return every run with its configuration and its time, estimated from the finished runs in ``results``.

    Raises:
        ConfigError: a run would be refused at its start. The error names the first such run.
    """
    known: dict[tuple[str, str], Planned] = {}
    planned = []
    for run in runs:
        same = (run.key.rpartition("/")[0], str({**run.settings, "seed": 0}))  # only the seed may differ
        if same not in known:
            known[same] = _check(run, host)
        planned.append(known[same]._replace(run=run))
    speeds: dict[tuple[str, str, bool], float] = {}  # seconds per step
    for item in planned:
        if item.key not in speeds and (seconds := _seconds(results / "runs" / item.run.key)) is not None:
            speeds[item.key] = seconds / item.steps
    return [item._replace(seconds=item.steps * speeds[item.key]) if item.key in speeds else item for item in planned]


def _seconds(folder: Path) -> float | None:
    """Return the seconds that the finished run in ``folder`` took, with the runs it resumed. None if unknown."""
    total = 0.0
    for path in (folder / "results/sacred").glob("*/*/*/run.json") if run_process.is_done(folder) else ():
        with suppress(record_files.RecordError):
            run = record_files.load_file(path.parent, record_files.RunFile)
            if run and run.start_time and run.stop_time:
                total += (run.stop_time - run.start_time).total_seconds()
    return total or None


def _check(run: Run, host: str) -> Planned:
    try:
        # A transfer's weights do not exist yet. Without weights evaluate=True would be refused.
        words = [word for word in run.arguments() if word != "evaluate=True"]
        if run.kind == "few_shot" and run.settings.get("kl.reference") == "source":
            words.append("transfer_from=.")  # placeholder for these weights
        config = command_line.configuration([f"--epymarl={host}", *words], "lolm compare")
        if run.source is not None:
            _check_transfer(run, config)
        return Planned(run, config)
    except ConfigError as error:
        raise ConfigError(f"{run.title}: {error}") from error


def _check_transfer(run: Run, config: Mapping[str, Any]) -> None:
    assert run.source is not None
    if config["mac"] not in registry.ENTRIES["mac"]:
        raise ConfigError(
            f"{run.config} is an algorithm of EPyMARL, which cannot start from another run's policy; set "
            f"algorithms.{run.algorithm}.transfer to False."
        )
    if config["mac"] != "network_mac" or config["agent"] in registry.TRUNKS:
        return
    sizes_of = registry.load(registry.MAP_SIZES[config["env"]])
    key = "key" if "key" in config["env_args"] else "map_name"
    source, target = (sizes_of({**config["env_args"], key: name}) for name in (run.source.map_name, run.map_name))
    if source != target:
        raise ConfigError(
            f"{run.config} has input and output layers of fixed width for observations and actions, so that "
            f"it cannot transfer from {source[0]} agents and {source[1]} actions to {target[0]} and {target[1]}; set "
            f"algorithms.{run.algorithm}.transfer to False."
        )


def named(planned: Iterable[Planned]) -> list[str]:
    """List the settings that name something to import, open, fetch, connect to or write: KEY=VALUE, without secrets.

    These are the values that a resumed run does not take from its checkpoint. The results folder is not listed.
    """
    configs = [item.config for item in planned if item.config["mac"] in registry.ENTRIES["mac"]]
    return list(dict.fromkeys(hidden(word) for config in configs for word in checkpoint_config.to_repeat(config)))


def describe(planned: Sequence[Planned], where: str, slots: int, budget: Budget | None = None) -> str:
    """Return the plan as text: a line for each algorithm and map, then the time of the whole suite.

    With ``budget``, unknown times are estimated by arithmetic (``cost.py``).
    """
    groups: dict[tuple[str, str, str], list[Planned]] = {}
    for item in planned:
        run = item.run
        maps = f"{run.source.map_name} to {run.map_name}" if run.source else run.map_name
        groups.setdefault((run.kind.replace("_", "-"), run.algorithm, maps), []).append(item)
    rows = [("kind", "algorithm", "map", "seeds", "env steps", "time per run")]
    for (kind, algorithm, maps), items in groups.items():
        seeds = ",".join(str(item.run.seed) for item in items)
        steps = "0" if kind == "zero-shot" else f"{items[0].config['t_max']:,}"
        seconds = items[0].seconds
        time = "unknown until the first run" if seconds is None else duration(seconds)
        if seconds is None and budget and (estimated := items[0].estimate(budget)) is not None:
            time = f"{duration(estimated)} (estimate)"
        rows.append((kind, algorithm, maps, seeds, steps, time))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    total = f"{several(len(planned), 'run')}, {_total(planned, slots)}; {where}"
    return "\n".join([*lines, "", total, *([_verdict(planned, budget)] if budget else [])])


def _verdict(planned: Sequence[Planned], budget: Budget) -> str:
    estimates = [item.estimate(budget) for item in planned]
    known = [seconds for seconds in estimates if seconds is not None]
    return cost.verdict(sum(known), len(estimates) - len(known), budget.days, budget.rates)


def _total(planned: Sequence[Planned], slots: int) -> str:
    known = [item.seconds for item in planned if item.seconds is not None]
    missing = len(planned) - len(known)
    if not known:
        return "of unknown length until the first run"
    # One run uses one worker, so the suite takes at least as long as its longest run.
    seconds = max(sum(known) / min(slots, len(planned)), max(known))
    rest = f" and {several(missing, 'run')} of unknown length" if missing else ""
    return f"about {duration(seconds)}{rest}, estimated from the finished runs"


def weights(planned: Iterable[Planned]) -> dict[str, float]:
    """Return the work of each run by its key: its estimated seconds, or its steps at the mean speed if unknown."""
    planned = list(planned)
    speeds = [item.seconds / item.steps for item in planned if item.seconds is not None]
    typical = fmean(speeds) if speeds else 1.0
    return {item.run.key: item.steps * typical if item.seconds is None else item.seconds for item in planned}
