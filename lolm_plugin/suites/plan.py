"""What a suite would run: every command line checked, and the time that finished runs tell, before anything starts."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from lolm_plugin import registry
from lolm_plugin.configuration import checkpoint_config, command_line
from lolm_plugin.errors import ConfigError
from lolm_plugin.passwords import hidden
from lolm_plugin.suites import run_process
from lolm_plugin.suites.suite import Run
from lolm_plugin.tracking import record_files
from lolm_plugin.wording import duration, several

ZERO_SHOT_STEPS = 50  # assumed steps of an episode, for the share of an evaluation in a suite's progress


class Planned(NamedTuple):
    """One run with its configuration; ``seconds`` is None until a run of the same algorithm and map has finished."""

    run: Run
    config: Mapping[str, Any]
    seconds: float | None = None

    @property
    def key(self) -> tuple[str, str, bool]:
        """What runs of one speed have in common."""
        return self.run.algorithm, self.run.map_name, self.run.kind == "zero_shot"

    @property
    def steps(self) -> int:
        return self.config["test_nepisode"] * ZERO_SHOT_STEPS if self.run.kind == "zero_shot" else self.config["t_max"]


def check(runs: Sequence[Run], host: str, results: Path) -> list[Planned]:
    """Return every run with its configuration and, from the runs finished in ``results``, its time.

    Raises:
        ConfigError: a run that would be refused when it starts; the first of them is named.
    """
    known: dict[tuple[str, str], Planned] = {}
    planned = []
    for run in runs:
        same = (run.key.rpartition("/")[0], str({**run.settings, "seed": 0}))  # seeds differ in nothing else
        if same not in known:
            known[same] = _check(run, host)
        planned.append(known[same]._replace(run=run))
    speeds: dict[tuple[str, str, bool], float] = {}  # seconds a step
    for item in planned:
        if item.key not in speeds and (seconds := _seconds(results / "runs" / item.run.key)) is not None:
            speeds[item.key] = seconds / item.steps
    return [item._replace(seconds=item.steps * speeds[item.key]) if item.key in speeds else item for item in planned]


def _seconds(folder: Path) -> float | None:
    """Return how long the finished run in ``folder`` took, all its parts together; None if that is not known."""
    total = 0.0
    for path in (folder / "results/sacred").glob("*/*/*/run.json") if run_process.is_done(folder) else ():
        with suppress(record_files.RecordError):
            run = record_files.load_file(path.parent, record_files.RunFile)
            if run and run.start_time and run.stop_time:
                total += (run.stop_time - run.start_time).total_seconds()
    return total or None


def _check(run: Run, host: str) -> Planned:
    try:
        # A transfer's weights are not there yet, and without them evaluating would be refused.
        words = [word for word in run.arguments() if word != "evaluate=True"]
        if run.kind == "few_shot" and run.settings.get("kl.reference") == "source":
            words.append("transfer_from=.")  # stands for them
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
            f"{run.config} is EPyMARL's own, which takes no policy from another run; set "
            f"algorithms.{run.algorithm}.transfer to False."
        )
    if config["mac"] != "network_mac" or config["agent"] in registry.TRUNKS:
        return
    sizes_of = registry.load(registry.MAP_SIZES[config["env"]])
    key = "key" if "key" in config["env_args"] else "map_name"
    there, here = (sizes_of({**config["env_args"], key: name}) for name in (run.source.map_name, run.map_name))
    if there != here:
        raise ConfigError(
            f"{run.config} reads the whole observation and writes all actions through layers of fixed width, so that "
            f"it cannot go from {there[0]} agents and {there[1]} actions to {here[0]} and {here[1]}; set "
            f"algorithms.{run.algorithm}.transfer to False."
        )


def named(planned: Iterable[Planned]) -> list[str]:
    """List what a suite names that is imported, opened, fetched, connected to or written to: KEY=VALUE, no secrets.

    These are the values that would not be taken from a stranger's checkpoint, without the suite's folder of results.
    """
    configs = [item.config for item in planned if item.config["mac"] in registry.ENTRIES["mac"]]
    return list(dict.fromkeys(hidden(word) for config in configs for word in checkpoint_config.to_repeat(config)))


def describe(planned: Sequence[Planned], where: str, slots: int) -> str:
    """Return the plan as text: a line for each algorithm and map, then the time of the whole suite."""
    groups: dict[tuple[str, str, str], list[Planned]] = {}
    for item in planned:
        run = item.run
        maps = f"{run.source.map_name} to {run.map_name}" if run.source else run.map_name
        groups.setdefault((run.kind.replace("_", "-"), run.algorithm, maps), []).append(item)
    rows = [("kind", "algorithm", "map", "seeds", "env steps", "a run")]
    for (kind, algorithm, maps), items in groups.items():
        seeds = ",".join(str(item.run.seed) for item in items)
        steps = "0" if kind == "zero-shot" else f"{items[0].config['t_max']:,}"
        seconds = items[0].seconds
        time = "unknown until the first run" if seconds is None else duration(seconds)
        rows.append((kind, algorithm, maps, seeds, steps, time))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", f"{several(len(planned), 'run')}, {_total(planned, slots)}; {where}"])


def _total(planned: Sequence[Planned], slots: int) -> str:
    known = [item.seconds for item in planned if item.seconds is not None]
    missing = len(planned) - len(known)
    if not known:
        return "of unknown length until the first run"
    # A run occupies one worker, however many are idle.
    seconds = max(sum(known) / min(slots, len(planned)), max(known))
    rest = f" and {several(missing, 'run')} of unknown length" if missing else ""
    return f"about {duration(seconds)}{rest}, as long as the finished runs took"


def weights(planned: Iterable[Planned]) -> dict[str, float]:
    """Return each run's share of the work by its key: seconds, or steps at the mean speed where these are unknown."""
    planned = list(planned)
    speeds = [item.seconds / item.steps for item in planned if item.seconds is not None]
    typical = fmean(speeds) if speeds else 1.0
    return {item.run.key: item.steps * typical if item.seconds is None else item.seconds for item in planned}
