"""Tell settings that make a run another experiment from those that do not, for reports and for ``--resume``."""

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lolm_plugin import registry
from lolm_plugin.configuration.config_files import flatten, plugin_config_dir, read
from lolm_plugin.configuration.fields import Mark
from lolm_plugin.configuration.schema import with_mark
from lolm_plugin.errors import ConfigError

TIME_LIMITS = {"time_limits": "truncated"}  # noted in records and checkpoints: bootstrap_time_limit=True acts on it
# What a resumed run may change: another machine, a longer run, other measurements. Its curve stays one experiment's.
RESUMABLE = with_mark(Mark.MACHINE) | with_mark(Mark.RESUMABLE)
# Settings that change no expected number of a test. What a preset sets is recorded beside its name.
INCIDENTAL = with_mark(Mark.MACHINE) | with_mark(Mark.LABEL)
SCHEDULES = ("entropy_coef_end", "entropy_target_end")  # not null: reached at t_max, as learning rates with lr_decay


def as_of_now(config: Mapping[str, Any], noted: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration in the words of this version; ``noted`` is what its writer said beside it.

    Until time limits were stored, ``bootstrap_time_limit=True``, then the default, had the effect that null has now.
    """
    if config.get("bootstrap_time_limit") is True and "time_limits" not in noted:
        return {**config, "bootstrap_time_limit": None}
    return dict(config)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a configuration that make it another experiment, by flat key.

    Configurations of ours that lack a key come from a version before it, which did what its default says now. t_max
    counts only where a schedule ends there.
    """
    flat = flatten(config)
    if str(config.get("mac")) in registry.ENTRIES["mac"]:
        flat = {**_defaults(), **flat}
    kept = {key: _plain(value) for key, value in flat.items() if key not in INCIDENTAL and key != "t_max"}
    if flat.get("lr_decay") is True or any(flat.get(key) is not None for key in SCHEDULES):
        kept["t_max"] = _plain(flat.get("t_max"))
    if flat.get("transfer_from"):
        kept["load_step"] = _plain(flat.get("load_step"))  # which checkpoint of the source is transferred
    if kept.get("imitate.teacher") not in (None, "", "heuristic"):
        kept["imitate.teacher"] = "a run"  # each seed may have a teacher of its own
    return kept


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """Find the keys, known to both, whose change made the rest of a resumed run another experiment or another seed."""
    pairs = [settings(config) | {"seed": config.get("seed")} for config in (before, after)]
    common = (set(pairs[0]) & set(pairs[1])) - RESUMABLE
    return {key for key in common if text(pairs[0][key]) != text(pairs[1][key])}


def check_same(
    before: Mapping[str, Any], after: Mapping[str, Any], updates: Iterable[str], folder: Path
) -> dict[str, tuple[Any, Any]]:
    """Compare the settings of both halves of a resumed run, by flat key.

    Returns:
        What changes: key -> (before, after).

    Raises:
        ConfigError: one of ``updates`` would make the second half another experiment.
    """
    changes = {key: (before.get(key), after.get(key)) for key in updates if before.get(key) != after.get(key)}
    for key, (old, new) in changes.items():
        if key not in RESUMABLE:
            raise ConfigError(
                f"{key}={new} cannot be set with --resume, which continues an experiment with {key}={old}: its curve "
                f"would be of two experiments. Leave {key} out, or start a new run with transfer_from={folder}."
            )
    return changes


def text(value: Any) -> str:
    """Write a value so that equal values give equal texts."""
    return json.dumps(value, sort_keys=True)


def _plain(value: Any) -> Any:
    """Turn a whole float into an int, as 1.0 and 1 are one setting."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@functools.cache
def _defaults() -> dict[str, Any]:
    return flatten(read(plugin_config_dir() / "default.yaml"))
