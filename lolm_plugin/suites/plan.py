"""What a suite would run, checked run by run and estimated, before anything is started."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from lolm_plugin import registry
from lolm_plugin.configuration import checkpoint_config, config_check
from lolm_plugin.doctor import language_model, run_time, words
from lolm_plugin.doctor import plan as sizes
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.battle import BattleLayout
from lolm_plugin.passwords import hidden
from lolm_plugin.suites.suite import Run

# Seconds for each agent, unit and environment step, learning included, on one core of a server: from the runs on SMAX
# 3m in docs/baselines.md. What a unit costs differs less from map to map than from network to network.
SECONDS = {"gru": 25e-6, "updet": 39e-6, "asn_attention": 50e-6, "dt2gs": 170e-6}
UNITS = 6  # of 3m: where no units are declared, a step of the flat network is taken to cost as much as there
PLAYING = 0.25  # of it where nothing is learned


class Planned(NamedTuple):
    """One run with its configuration; ``seconds`` is None where nothing is known of its time."""

    run: Run
    config: Mapping[str, Any]
    seconds: float | None


def check(runs: Sequence[Run], host: str) -> list[Planned]:
    """Every run's configuration. Raises ConfigError for the first one that a run of its own would refuse."""
    known: dict[tuple[str, str], Planned] = {}
    planned = []
    for run in runs:
        same = (run.key.rpartition("/")[0], str({**run.settings, "seed": 0}))  # seeds differ in nothing else
        if same not in known:
            known[same] = _check(run, host)
        planned.append(known[same]._replace(run=run))
    return planned


def _check(run: Run, host: str) -> Planned:
    try:
        # A transfer's weights are not there yet, and without them evaluating would be refused.
        words = [word for word in run.arguments() if word != "evaluate=True"]
        if run.kind == "few_shot" and run.settings.get("kl.reference") == "source":
            words.append("transfer_from=.")  # stands for them
        config = sizes.checked([f"--epymarl={host}", *words])
        if run.source is not None:
            _check_transfer(run, config)
        return Planned(run, config, _seconds(run, config))
    except ConfigError as error:
        raise ConfigError(f"{run.title}: {error}") from error


def _check_transfer(run: Run, config: Mapping[str, Any]) -> None:
    assert run.source is not None
    if not sizes.is_ours(config):
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


def _seconds(run: Run, config: Mapping[str, Any]) -> float | None:
    if not sizes.is_ours(config):
        return None
    size = sizes.plan(config)
    tested = size.test_battles * size.length  # of one test, which is all that zero-shot plays
    if config["mac"] == config_check.LLM_MAC:
        device = "cuda" if config["use_cuda"] and torch.cuda.is_available() else "cpu"
        try:
            language_model.require_at_hand(config["llm"]["model"])
            found = run_time.seconds(config, size, language_model.reading(config, size, device), device)
        except ConfigError:  # its files are not here yet
            return None
        played = size.steps + size.test_steps
        return found.play * tested / played if run.kind == "zero_shot" else found.play + found.learn
    steps = tested * PLAYING if run.kind == "zero_shot" else size.steps + size.test_steps * PLAYING
    layout = size.layouts.observation
    of_step = SECONDS.get(config["agent"], sum(SECONDS.values()) / len(SECONDS))
    units = layout.n_agents + layout.n_enemies if isinstance(layout, BattleLayout) else UNITS
    return steps * of_step * layout.n_agents * units


def named(planned: Iterable[Planned]) -> list[str]:
    """What a suite names that is imported, opened, fetched, connected to or written to, as KEY=VALUE without secrets.

    It is what would not be taken from a stranger's checkpoint; a suite's own folder of results is not among it.
    """
    configs = [item.config for item in planned if sizes.is_ours(item.config)]
    return list(dict.fromkeys(hidden(word) for config in configs for word in checkpoint_config.to_repeat(config)))


def describe(planned: Sequence[Planned], where: str, slots: int) -> str:
    """The plan as text: a line for each algorithm and place, then how long all of it takes."""
    groups: dict[tuple[str, str, str], list[Planned]] = {}
    for item in planned:
        run = item.run
        place = f"{run.source.map_name} to {run.map_name}" if run.source else run.map_name
        groups.setdefault((run.kind.replace("_", "-"), run.algorithm, place), []).append(item)
    rows = [("kind", "algorithm", "map", "seeds", "env steps", "a run")]
    for (kind, algorithm, place), items in groups.items():
        seeds = ",".join(str(item.run.seed) for item in items)
        steps = "0" if kind == "zero-shot" else f"{items[0].config['t_max']:,}"
        rows.append((kind, algorithm, place, seeds, steps, _duration(items[0].seconds)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", f"{words.several(len(planned), 'run')}, {_total(planned, slots)}; {where}"])


def _total(planned: Sequence[Planned], slots: int) -> str:
    known = [item.seconds for item in planned if item.seconds is not None]
    missing = len(planned) - len(known)
    if not known:
        return "of unknown length"
    busy = min(slots, len(planned))
    rest = f" and {words.several(missing, 'run')} of unknown length" if missing else ""
    # A run is one worker's, however many are idle.
    seconds = max(sum(known) / busy, max(known))
    return f"about {words.duration(seconds)}{rest} (within a factor of 3, without StarCraft's own time)"


def _duration(seconds: float | None) -> str:
    return "?" if seconds is None else words.duration(seconds)


def weights(planned: Iterable[Planned]) -> dict[str, float]:
    """How much of the whole each run is, by key."""
    planned = list(planned)
    known = [item.seconds for item in planned if item.seconds]
    typical = sum(known) / len(known) if known else 1.0
    return {item.run.key: item.seconds or typical for item in planned}
